"""One of the processes that ask and record: ``python -m pipeline.crew.hand SOCKET LOCK PAGE``, three descriptors.

It is told everything over the socket. When that ends, the process that leads has died: what is in flight is paid for,
so it is waited for and recorded, as after a signal; the lock of the folder is free when the last of them has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from pipeline.crew.line import Line
from pipeline.crew.portion import HandKeys, Portion
from pipeline.crew.words import Begin, Block, Ended, Going, Halt, KeepTo, Kept, Pulse, Reason, Said
from pipeline.errors import PipelineError, RunPaused, StorageError
from pipeline.job import Job, Ready
from pipeline.ledger import Ledger
from pipeline.loop import run_loop
from pipeline.provider.till import Till
from pipeline.records import Row
from pipeline.runlog import LOG, RunLog, as_json
from pipeline.sending import Sending
from pipeline.stop import Stop
from pipeline.storage.lane import Lane
from pipeline.storage.layout import CHECKPOINT
from pipeline.work import Work

PULSE_S = 0.5
LEADER_GONE = "the process that led this run is gone; the same command goes on where it stopped"


terminated: list[bool] = []
"""SIGTERM came before there was anything to stop, or after."""


class HandLog(RunLog):
    """What this process has to say goes into the log of the run, by way of the process that leads."""

    def __init__(self, path: str, run: str, secret: str | None, line: Line, lane: int) -> None:
        super().__init__(path, run, secret)
        self._line = line
        self._process = lane + 1

    def event(self, level: str, event: str, *, aloud: Mapping[str, Any] | None = None, **members: Any) -> None:
        members = {"process": self._process, **members}
        if not self._line.open:
            super().event(level, event, aloud=aloud, **members)
            return
        try:
            self._line.send(Said(level, event, aloud, members))
        except Exception:  # noqa: BLE001 - what cannot travel is told in words
            self._line.send(Said(level, event, None, {"process": self._process, "told": as_json(members)}))


class Hand(Sending):
    """The sending of one process among several."""

    heeds = (signal.SIGTERM,)

    def __init__(self, begin: Begin, line: Line, lane: Lane, log: RunLog, stop: Stop, till: Till | None) -> None:
        self.line = line
        self.portion = Portion(line.send)
        self._begin = begin
        self._going = not begin.alone
        self.over = False  # nothing is asked any more
        work = Work(
            0,
            0,
            0,
            0,
            0,
            None,
            again=self.portion.again,
            fresh=begin.fresh,
            kept=self.portion.kept,
            renews=self.portion.renews,
            unfetched=begin.unfetched,
        )
        super().__init__(
            Job(begin.spec),
            lane,
            HandKeys(self.portion),
            work,
            key=begin.key,
            ledger=Ledger(begin.before),
            log=log,
            display=None,
            stop=stop,
            drain_s=begin.drain_s,
            rows=self.portion,
            till=till,
        )
        self.wire.keep_to(begin.shares)
        if not begin.alone:
            self.watch.end()

    async def listen(self) -> None:
        """To the process that leads, until it is gone."""
        try:
            while (message := await self.line.receive()) is not None:
                self._hear(message)
        except Exception as fault:  # noqa: BLE001 - a bug stops the run, and cuts off nothing that is paid for
            self.log.error("fault_of_ours", fault)
            self.stop.because(PipelineError("a fault of this tool struck between the processes of a run; see run.log"))
        if not self.over:
            self.log.join()
            self.stop.because(RunPaused(LEADER_GONE))

    def _hear(self, message: object) -> None:
        match message:
            case Block():
                self.portion.take(message)
            case KeepTo():
                self.wire.keep_to(message.shares)
                self.line.send(Kept(message.turn))
            case Halt(hurry=True):
                self.stop.hurry(message.reason.error())
            case Halt():
                self.stop.because(message.reason.error())

    # -- one row ---------------------------------------------------------------------------------------------------

    async def _draw(self) -> Row | None:
        if not self._going and self._met and self.watch.over:
            self._going = True
            self.line.send(Going())
        return await super()._draw()

    async def _one(self, row: Row) -> None:
        try:
            await super()._one(row)
        finally:
            self.portion.forget(row)

    def _ready(self, row: Row) -> Ready:
        try:
            return self.job.ready(row)
        except Exception:
            self.portion.key_of(row, b"")
            raise

    def _key_of(self, row: Row, ready: Ready) -> str:
        return self.portion.key_of(row, ready.question)

    # -- what others see -------------------------------------------------------------------------------------------

    def pulse(self) -> Pulse:
        return Pulse(
            self.counts,
            self.ledger.now(),
            self.checkpoint.acknowledged,
            self.pool.awaited,
            self._slowest(),
            self.wire.found(),
            self.wire.needs(),
        )

    async def _beat(self) -> None:
        pulse = asyncio.ensure_future(self._pulse())
        try:
            await super()._beat()
        finally:
            pulse.cancel()

    async def _pulse(self) -> None:
        while True:
            self.line.send(self.pulse())
            await asyncio.sleep(PULSE_S)

    def _drain(self) -> None:
        if self.stop.reason is not None:
            self.line.send(Reason.of(self.stop.reason))
        super()._drain()


def main(arguments: list[str]) -> int:
    # The terminal sends these to every process of the group; the one that leads says what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: terminated.append(True))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGHUP, signal.SIGTERM})
    end, lock, page = map(int, arguments)
    return run_loop(_serve(socket.socket(fileno=end), lock, page))


async def _serve(end: socket.socket, lock: int, page: int) -> int:
    line = await Line.over(end)
    begin = await line.receive()
    code = await _work(line, begin, lock, page) if isinstance(begin, Begin) else 0
    line.close()
    return code


async def _work(line: Line, begin: Begin, lock: int, page: int) -> int:
    """The exit code, which only a fault of ours makes other than 0: reasons have been told."""
    stop = Stop()
    log = HandLog(os.path.join(begin.spec.output.path, LOG), begin.run, begin.key, line, begin.lane)
    log.capture_library_warnings()
    listening: asyncio.Task[None] | None = None
    try:
        folder = os.path.join(begin.spec.output.path, CHECKPOINT)
        lane = Lane.enter(folder, lock, number=begin.lane, lanes=begin.lanes, first=begin.first_segment)
        try:
            till = Till(page, begin.lanes, begin.lane) if page >= 0 else None
            hand = Hand(begin, line, lane, log, stop, till)
            listening = asyncio.ensure_future(hand.listen())
            if terminated:  # while it was being made
                asyncio.get_running_loop().call_soon(stop.signalled, "SIGTERM")
            await hand.go()
            hand.over = True
        except BaseException:
            lane.abandon()
            raise
        if stop.hurried:
            lane.abandon()
        else:
            await _sealed(lane, hand)
        line.send(hand.pulse())
        line.send(Ended(hand.exhausted and not stop.stopping))
        return 0
    except PipelineError as reason:
        line.send(Reason.of(reason))
        line.send(Ended(False))
        return 0
    except Exception as fault:  # noqa: BLE001 - the last door of this process
        log.error("fault_of_ours", fault)
        told = PipelineError(f"a fault of this tool struck in process {begin.lane + 1} of this run; see run.log")
        line.send(Reason.of(told))
        return 1
    finally:
        if listening is not None:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening
        await line.finish()


async def _sealed(lane: Lane, hand: Hand) -> None:
    """What is sealed takes its time, and the process that leads is told meanwhile how it goes."""
    began = time.monotonic()
    try:
        await asyncio.get_running_loop().run_in_executor(None, lane.seal)
    except StorageError:
        hand.log.warning("not_sealed", after_s=round(time.monotonic() - began, 1))
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
