"""The process that leads a run in several processes: it alone holds the plan, reads the input and hands out the rows.

The hands (``crew.hand``) are processes of their own, each at the other end of a line. They share the limits as it deals
them out (``dealing``), and the budget by a page of memory (``provider.till``). The first begins alone, the others when
it has had a good answer. A reason to stop in one of them is a reason for all, and so is a signal here; a hand that dies
costs the rows that it held in hand, which stay pending.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from pipeline.crew.dealing import Dealing
from pipeline.crew.handout import Handout
from pipeline.crew.line import Line
from pipeline.crew.mate import Mate, start
from pipeline.crew.told import Told, limits_given
from pipeline.crew.words import Begin, Ended, Going, Halt, KeepTo, Kept, Made, Pulse, Reason, Said, Wants
from pipeline.errors import PipelineError, RunPaused
from pipeline.job import Job
from pipeline.ledger import Totals
from pipeline.progress import Display
from pipeline.provider.till import Till, new_page
from pipeline.runlog import RunLog
from pipeline.share import Share
from pipeline.sharing import start_sharing
from pipeline.stop import Stop, signals_to
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.keys import Keys
from pipeline.wired import purses_of
from pipeline.work import Work

GRACE_S = 30.0
"""So much longer than the drain a hand may take to end by itself."""

HURRY_S = 5.0
"""So long a hurried end waits for the hands, which go on to their own ends without us."""


class Crew(Told):
    """Stands where ``Sending`` stands in a run of one process. ``lanes``: how many hands, two at least."""

    def __init__(
        self,
        job: Job,
        checkpoint: Checkpoint,
        keys: Keys,
        work: Work,
        *,
        lanes: int,
        makes_keys: bool,
        key: str | None,
        before: Totals,
        log: RunLog,
        display: Display | None,
        stop: Stop,
        drain_s: float,
    ) -> None:
        """``makes_keys``: nobody has listed them; the hands make them, one block after the other."""
        super().__init__(job, checkpoint, work, before, log, stop, display)
        self.lanes = lanes
        self.drain_s = drain_s
        self.exhausted = False
        self.files_changed = False
        self._key = key
        self._handout = Handout(job, keys, work, log, stop, makes_keys=makes_keys)
        self._going = asyncio.Event()
        self._tasks: set[asyncio.Future[None]] = set()
        self._answers: set[asyncio.Future[None]] = set()
        self.dealing = Dealing(limits_given(job))
        self._page = new_page(lanes) if purses_of(job, before) else -1
        self._till = Till(self._page, lanes) if self._page >= 0 else None
        if job.spec.limits.share:
            self.sharing = start_sharing(job.spec.endpoint.base_url, key, self.dealing.needs, self._keep_to, log)

    # -- the whole run ---------------------------------------------------------------------------------------------

    async def go(self, max_s: float | None = None) -> None:
        """Until all hands have ended. The reason, if any, is in ``stop.reason``."""
        self._heed(max_s)
        first_segment = self.checkpoint.lend()
        with signals_to(self.stop), self._clockwork():
            try:
                self._muster()
                self._tasks = {asyncio.ensure_future(self._attend(mate, first_segment)) for mate in self.mates}
                await asyncio.gather(*self._tasks)
            except OSError as reason:
                self.stop.because(PipelineError(f"a process of this run could not be started: {reason}"))
            except asyncio.CancelledError:
                if not self.stop.hurried:
                    raise
            finally:
                if self.sharing is not None:
                    self.sharing.leave()
                await self._dismiss()
                await self._handout.close()
                self.log.count()
                if self._till is not None:
                    self._till.close()
        self._judge()

    async def _dismiss(self) -> None:
        """None of them writes any more when it returns, but after a hurried end: they have the lock, too."""
        for answer in self._answers:
            answer.cancel()
        for mate in self.mates:
            mate.hang_up()
        if not self.stop.hurried:
            for mate in self.mates:
                if not mate.gone:
                    await mate.buried()

    def _muster(self) -> None:
        for lane in range(self.lanes):
            self.mates.append(start(lane, self.checkpoint.lock.fd, self._page))
        self.log.info("processes", pids=[mate.process.pid for mate in self.mates])

    def _judge(self) -> None:
        """What came of it, when all have ended."""
        if self.stop.hurried:
            return
        for mate in self.mates:
            if mate.died:
                self.stop.because(self._loss(mate))
        self.exhausted = self._handout.drawn and all(mate.exhausted or not mate.begun for mate in self.mates)
        try:
            self._handout.make_up()
        except PipelineError as reason:
            self.stop.because(reason)

    def _loss(self, mate: Mate) -> RunPaused:
        return RunPaused(
            f"process {mate.lane + 1} of {self.lanes} (pid {mate.process.pid}) died of {mate.died}; the rows that it "
            "held stay pending. The same command goes on where it stopped"
        )

    # -- one hand --------------------------------------------------------------------------------------------------

    async def _attend(self, mate: Mate, first_segment: int) -> None:
        mate.line = await Line.over(mate.end)
        if mate.lane:
            await self._going.wait()
        if self.stop.stopping or (mate.lane and self._handout.drawn):
            mate.ended = mate.exhausted = True  # it has not begun, and need not
        else:
            mate.begun = True
            mate.send(self._beginning(mate, first_segment))
            while (message := await mate.line.receive()) is not None:
                try:
                    self._hear(mate, message)
                except PipelineError as reason:  # the disk does not take the keys that came back
                    self.stop.because(reason)
        mate.line.close()  # it waits for that, and ends
        await mate.buried()
        self._lost(mate)

    def _beginning(self, mate: Mate, first_segment: int) -> Begin:
        each, more = divmod(self.job.spec.limits.concurrency, self.lanes)
        part = {"concurrency": each + (mate.lane < more), "share": False}
        limits = self.job.spec.limits.model_copy(update=part)
        alone = mate.lane == 0
        return Begin(
            spec=self.job.spec.model_copy(update={"limits": limits}),
            key=self._key,
            lane=mate.lane,
            lanes=self.lanes,
            first_segment=first_segment,
            run=self.log.run,
            before=self.before,
            fresh=self.work.fresh and alone,
            alone=alone,
            drain_s=self.drain_s,
            shares=self.dealing.sit(mate.lane),
            unfetched=self.work.unfetched if alone else {},
        )

    def _hear(self, mate: Mate, message: object) -> None:
        match message:
            case Wants():
                # Apart, for the input may take its time: what the hand says meanwhile is heard.
                self._answers.add(answer := asyncio.ensure_future(self._answer(mate, message.rows)))
                answer.add_done_callback(self._answers.discard)
            case Made():
                self._handout.made(message)
            case Pulse():
                mate.pulse = message
                self.dealing.wants(mate.lane, message.needs)
                self._deal()
            case Kept():
                if message.turn == mate.turn:
                    self.dealing.kept(mate.lane)
                    self._deal()
            case Said():
                self.log.event(message.level, message.event, aloud=message.aloud, **message.members)
                if message.event == "answer_mode" and self.display is not None:
                    self.display.say(str(message.members["message"]))
            case Reason():
                self.stop.because(message.error())
            case Going():
                self._going.set()
            case Ended():
                mate.ended, mate.exhausted = True, message.exhausted

    def _lost(self, mate: Mate) -> None:
        """It has ended, or died."""
        self.dealing.leave(mate.lane)
        if self._till is not None:
            self._till.bury(mate.lane)
        if mate.died:
            self.log.error("process_died", process=mate.lane + 1, pid=mate.process.pid, of=mate.died)
            if self.display is not None:
                self.display.say(str(self._loss(mate)))
            if not self._going.is_set() or all(other.gone for other in self.mates):
                self.stop.because(self._loss(mate))
        self._going.set()
        self._deal()

    async def _answer(self, mate: Mate, most: int) -> None:
        # Nobody awaits this: what it raises is the run's reason to stop, or the hand would wait for its rows for good.
        try:
            block = await self._handout.block(most)
        except PipelineError as reason:
            self.stop.because(reason)
        except Exception as fault:  # noqa: BLE001 - what is in flight is paid for: a bug stops the run, and cuts off nothing
            self.log.error("fault_of_ours", fault)
            self.stop.because(PipelineError("a fault of this tool struck while rows were handed out; see run.log"))
        else:
            mate.send(block)

    # -- limits ----------------------------------------------------------------------------------------------------

    def _keep_to(self, shares: Mapping[str, Share]) -> None:
        self.run_shares = shares
        self.dealing.keep_to(shares)
        self._deal()

    def _deal(self) -> None:
        for lane, shares in self.dealing.deal().items():
            mate = self.mates[lane]
            mate.turn += 1
            mate.send(KeepTo(shares, mate.turn))

    # -- the end ---------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        if self.sharing is not None:
            self.sharing.stop()
        self._tell_stopping()
        self._tell_all(hurry=False)
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().call_later(self.drain_s + GRACE_S, self._drained_too_long)

    def _drained_too_long(self) -> None:
        for mate in self.mates:
            if not mate.gone:
                self.log.error("process_killed", process=mate.lane + 1, pid=mate.process.pid, after_s=self.drain_s)
                mate.process.kill()

    def _hurry(self) -> None:
        self._tell_all(hurry=True)
        self._handout.give_up()
        asyncio.get_running_loop().call_later(HURRY_S, self._leave)

    def _leave(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _tell_all(self, *, hurry: bool) -> None:
        assert self.stop.reason is not None
        halt = Halt(Reason.of(self.stop.reason), hurry)
        for mate in self.mates:
            if mate.begun:
                mate.send(halt)
        self._going.set()
