"""The part of a run that is awake: rows are drawn, asked and recorded until there are none, or a reason to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Any

from pipeline.errors import PipelineError, ProviderError, RunPaused, StorageError
from pipeline.feed import Feed
from pipeline.job import UNSENDABLE, Job, Ready, on_loopback
from pipeline.ledger import Ledger, Totals, totals_members
from pipeline.linked import Linked
from pipeline.media import links
from pipeline.noticed import Gap, Noticed
from pipeline.pool import Pool
from pipeline.progress import Display, Rate, View, as_members
from pipeline.provider.ask import (
    Address,
    Limits,
    Wire,
    ask,
    invalid,
    money_purse,
    token_purse,
    unexpected,
)
from pipeline.provider.budget import Purse
from pipeline.provider.fetch import Fetcher
from pipeline.records import ApiReply, Billed, Outcome, Row
from pipeline.runlog import RunLog
from pipeline.sharing import Sharing, start_sharing
from pipeline.stop import DRAIN_S, Stop, signals_to
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.keys import Keys
from pipeline.watch import Watch

HEARTBEAT_S = 2.0
READERS = 4
"""Threads that read attached files. More would only hold more of them in memory before their turn."""

SLOWEST = 5
FETCH_S = 120.0
"""The most that one link may take; signed ones expire anyway."""

FAULTS_OF_OURS = 3
"""So many rows struck by a fault of ours, and the run ends instead of failing them all."""

INPUT_CHANGED = "the input changed during the run; the answers are kept, run the same command again"

FILES_CHANGED = (
    "an attached file changed during the run; the answers are kept, run the same command again to ask about it as it "
    "is now"
)

CUT_OFF = ProviderError("cut off by the end of the run; it may have been billed", kind="in_doubt", billed=Billed.MAYBE)


@dataclass(slots=True)
class Counts:
    """Outcomes of this process."""

    answered: int = 0
    failed: int = 0
    not_renewed: int = 0  # of the failed: the row keeps the answer that it had
    statuses: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)  # of failures

    @property
    def ended(self) -> int:
        return self.answered + self.failed

    def add(self, outcome: Outcome) -> None:
        status = outcome.status.value
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if outcome.answered:
            self.answered += 1
        else:
            self.failed += 1
            self.not_renewed += outcome.renewed
            kind = str(outcome.kind or status)
            self.kinds[kind] = self.kinds.get(kind, 0) + 1


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be sent. ``wanted`` is None when every row is (a fresh job); ``again``: it had failed before."""

    rows: int | None
    done_before: int
    failed_before: int
    to_send: int | None
    start: int  # the first ordinal that may be wanted
    wanted: Callable[[int], bool] | None
    again: Callable[[int], bool] = lambda ordinal: False
    changed: Callable[[], object] = lambda: False  # the input is not what was planned with
    fresh: bool = True  # the folder holds no answer yet
    kept: Mapping[str, Sequence[ApiReply]] = field(default_factory=dict)  # replies paid for by an earlier run
    renews: Callable[[int], bool] = lambda ordinal: False  # the row has an answer, which has expired
    statuses: Mapping[str, int] = field(default_factory=dict)  # of the rows that are not sent
    kinds: Mapping[str, int] = field(default_factory=dict)  # of those among them that had failed
    copies: int = 0  # rows that share the request of another; not among ``rows``
    unfetched: Mapping[str, str] = field(default_factory=dict)  # texts whose links an earlier run did not come to


def unchanged(batches: Iterator[list[Row]], changed: Callable[[], object]) -> Iterator[list[Row]]:
    """The same batches. Keys were listed before: rows of a file that was edited since would get those of others.
    Raises RunPaused."""
    for batch in batches:
        if changed():
            raise RunPaused(INPUT_CHANGED)
        yield batch


class Sending:
    """One run's rows on their way. ``go`` returns when all have ended or the stop has; it raises nothing but bugs."""

    def __init__(
        self,
        job: Job,
        checkpoint: Checkpoint,
        keys: Keys,
        work: Work,
        *,
        key: str | None,
        ledger: Ledger,
        log: RunLog,
        display: Display | None,
        stop: Stop,
        drain_s: float = DRAIN_S,
    ) -> None:
        self.job = job
        self.checkpoint = checkpoint
        self.keys = keys
        self.work = work
        self.ledger = ledger
        self.log = log
        self.display = display
        self.stop = stop
        self.drain_s = drain_s
        self.counts = Counts()
        self.exhausted = False
        self.files_changed = False  # one was not what its row's key was made of
        spec = job.spec
        self._readers = ThreadPoolExecutor(READERS, "attachments") if job.attach.reads_files else None
        if job.form is not None:
            job.form.told = self._form_changed
        self.watch = Watch(spec.endpoint.base_url, job.model.name)
        self._faults_of_ours = 0
        self._feed = Feed(unchanged(job.source.rows(job.used, work.start), work.changed), work.wanted)
        self._rate = Rate()
        self._noticed = Noticed(job.model.name, log.warning)
        self._met = False  # the first reply has told who answers
        self._awaited: dict[str, float] = {}  # row keys of requests on the wire, and since when
        self._rows: dict[str, Row] = {}  # that are being asked, by their keys
        self.pool: Pool[Row] = Pool(self._draw, self._one, spec.limits.concurrency)
        self.wire = Wire(
            address_of(job, key),
            limits_of(job),
            self,
            self.pool.answer_awaited,
            lambda: stop.stopping,
            purses_of(job, ledger.before),
        )
        self.pool.room = self.wire.room
        self.wire.on_room(self.pool.look)
        self._linked = Linked(fetcher_of(job), checkpoint, log, self.pool.answer_awaited)
        self.sharing: Sharing | None = None
        if spec.limits.share:
            self.sharing = start_sharing(spec.endpoint.base_url, key, self.wire.needs, self.wire.keep_to, log)

    # -- the witness of every attempt ------------------------------------------------------------------------------

    def sent(self, key: str) -> None:
        self.checkpoint.sent(key)
        self._awaited[key] = time.monotonic()

    def superseded(self, key: str, error: ProviderError) -> None:
        self._awaited.pop(key, None)
        self.ledger.add(error.billed, error.usage)
        self.checkpoint.superseded(key, error)
        self.log.often(
            "attempt_failed",
            error.kind,
            row=key,
            attempt=error.attempts,
            status=error.status,
            billed=error.billed,
            latency_s=error.latency_s,
            aloud={"error": str(error)},
        )

    def _form_changed(self, text: str) -> None:
        self.log.warning("answer_mode", message=text)
        if self.display is not None:
            self.display.say(text)

    def kept(self, key: str, reply: ApiReply) -> None:
        self._awaited.pop(key, None)
        self.ledger.add(Billed.YES, reply.usage)
        self.checkpoint.keep(key, reply)

    def ended(self, outcome: Outcome) -> None:
        """Raises StorageError when it cannot be written down."""
        self._awaited.pop(outcome.key, None)
        if self.work.renews(outcome.row.ordinal):
            outcome = outcome._replace(renewed=True)
        self.checkpoint.record(outcome, self._links_of(outcome))
        if outcome.attempts:
            self.ledger.add(outcome.billed, outcome.usage)
        self.counts.add(outcome)
        if not outcome.answered:
            self._log_failure(outcome)

    def seen(self, reply: ApiReply) -> None:
        if not self._met:
            self._met = True
            self.checkpoint.settle_simulated("x-simulator" in reply.headers, fresh=self.work.fresh)
        self._noticed.look(reply)

    # -- one row ---------------------------------------------------------------------------------------------------

    async def _draw(self) -> Row | None:
        try:
            row = await self._feed.draw()
        except PipelineError as reason:  # the table turned out to be damaged, or was edited
            self.stop.because(reason)
            return None
        except Exception as fault:  # noqa: BLE001 - what is in flight is paid for: a bug stops the run, and cuts off nothing
            if not self.stop.stopping:
                self.log.error("fault_of_ours", fault)
                self.stop.because(PipelineError("a fault of this tool struck while the input was read; see run.log"))
            return None
        if row is None and not self.stop.stopping:
            self.exhausted = True
        return row

    async def _one(self, row: Row) -> None:
        outcome = await self._outcome(row)
        if outcome is not None:
            reason = self.watch.look(outcome, again=self.work.again(row.ordinal))
            if reason is not None:
                self.stop.because(reason)

    async def _outcome(self, row: Row) -> Outcome | None:
        """Ask about one row and record how it ended; None when it stays pending."""
        key = ""
        try:
            ready = self._ready(row) if self._readers is None else await self._read(self._readers, row)
            key = self._key_of(row, ready)
            self._rows[key] = row
            outcome = await self._ask(ready, key)
        except PipelineError as reason:
            if isinstance(reason, ProviderError):
                self._note(key, reason)
            self.stop.because(reason)
            return None
        except Exception as fault:  # noqa: BLE001 - a bug must cost one row, and be told, not lose the others
            return self._struck(row, fault)
        finally:
            self._rows.pop(key, None)
        if self._links_of(outcome):
            await self._fetch({outcome.key: outcome.text or ""})
        return outcome

    def _links_of(self, outcome: Outcome) -> int | None:
        """How many links of an answer are to be fetched; None when the job does not ask for media."""
        media = self.job.spec.media
        return None if media is None else len(links(outcome.text or "")) if media.download else 0

    async def _fetch(self, texts: Mapping[str, str]) -> None:
        """What fails here is noted, or is a reason to stop; the rows have ended, and stay as they are."""
        try:
            await self._linked.get(texts)
        except PipelineError as reason:
            self.stop.because(reason)
        except Exception as fault:  # noqa: BLE001 - the next run fetches what is still to be fetched
            self.log.error("fault_of_ours", fault)
            self.stop.because(PipelineError("a fault of this tool struck while links were fetched; see run.log"))

    def _ready(self, row: Row) -> Ready:
        try:
            return self.job.ready(row)
        except Exception:
            if row.ordinal == len(self.keys):  # rows and keys must not fall out of step
                self.keys.add(row.id, b"")
            raise

    async def _read(self, readers: ThreadPoolExecutor, row: Row) -> Ready:
        """As ``_ready``, for a row that names local files: their disk holds up nobody else."""
        try:
            prompt = await asyncio.get_running_loop().run_in_executor(readers, self.job.prompt, row)
        except UNSENDABLE as reason:
            return self.job.unsendable(row, reason)
        return self.job.opened(row, prompt)

    def _struck(self, row: Row, fault: Exception) -> Outcome | None:
        key = self.keys.hex(row.ordinal)
        self.log.error("fault_of_ours", fault, row=key)
        self._faults_of_ours += 1
        if self._faults_of_ours >= FAULTS_OF_OURS:
            self.stop.because(PipelineError(f"a fault of this tool struck {FAULTS_OF_OURS} rows; see run.log"))
        try:
            if not key:
                raise RunPaused(INPUT_CHANGED)
            outcome = unexpected(key, row, fault, sent=key in self._awaited)
            self.ended(outcome)
            return outcome
        except PipelineError as reason:
            self.stop.because(reason)
            return None
        except Exception as again:  # noqa: BLE001 - then it is the recording that fails, and no row should be sent
            self.log.error("fault_of_ours", again, row=key)
            self.stop.because(PipelineError("a fault of this tool: an answer could not be recorded; see run.log"))
            return None

    async def _ask(self, ready: Ready, key: str) -> Outcome:
        if ready.exchange is None or ready.call is None:
            outcome = invalid(key, ready.row, ready.invalid or "")
            self.ended(outcome)
            return outcome
        kept = self.work.kept.get(key, ())
        return await ask(self.wire.send, ready.row, key, ready.exchange, ready.call, witness=self, kept=kept)

    def _key_of(self, row: Row, ready: Ready) -> str:
        known = len(self.keys)
        if row.ordinal == known:
            return self.keys.add(row.id, ready.question)
        if row.ordinal > known:
            raise RunPaused(INPUT_CHANGED)
        if self._readers is not None and not self.keys.holds(row.ordinal, row.id, ready.question):
            self.files_changed = True
            raise RunPaused(FILES_CHANGED)
        return self.keys.hex(row.ordinal)

    def _log_failure(self, outcome: Outcome) -> None:
        self.log.often(
            "row_failed",
            outcome.kind or outcome.status.value,
            row=outcome.key,
            ordinal=outcome.row.ordinal,
            status=outcome.http_status,
            attempts=outcome.attempts,
            latency_s=outcome.latency_s,
            aloud={"error": outcome.error},
        )

    # -- the whole run ---------------------------------------------------------------------------------------------

    async def go(self, max_s: float | None = None) -> None:
        """Send everything that is to be sent, or stop. The reason, if any, is in ``stop.reason``."""
        loop = asyncio.get_running_loop()
        self.stop.on_stop = self._drain
        self.stop.on_hurry = self._hurry
        self.checkpoint.start(lambda: _soon(loop, self._disk_failed))
        if max_s is not None:
            loop.call_later(max_s, self.stop.because, RunPaused(f"stopped after --max-minutes {max_s / 60:g}"))
        with signals_to(self.stop), self._clockwork():
            async with self.wire, self._linked:
                try:
                    await self.pool.alone(self._fetch(self.work.unfetched))
                    await self._canary()
                    await self.pool.run()
                except PipelineError as reason:
                    self.stop.because(reason)
                finally:
                    if self._readers is not None:
                        self._readers.shutdown(wait=False, cancel_futures=True)
                    if self.sharing is not None:
                        self.sharing.leave()
                    await self._feed.close()
                    self._note_cut_off()
                    self.log.count()

    async def _canary(self) -> None:
        """The first request of a run goes alone; so does the next, as long as the first has told nothing."""
        while not self.watch.settled and not self.stop.stopping:
            row = await self.pool.alone(self._draw())
            if row is None or self.stop.stopping:
                return
            outcome = await self.pool.alone(self._outcome(row))
            if outcome is None:
                return
            reason = self.watch.canary(outcome, again=self.work.again(row.ordinal))
            if reason is not None:
                self.stop.because(reason)

    def _drain(self) -> None:
        self.pool.stop()
        if self.sharing is not None:
            self.sharing.stop()
        self.log.info("stopping", in_flight=self.pool.awaited, **words(self.stop.reason))
        self.checkpoint.heartbeat(self.heartbeat())  # at once: `pipeline stop` sends no second signal after this
        if self.display is not None and self.pool.awaited:
            self.display.say(f"stopping: waiting for {self.pool.awaited} answers that are paid for")
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().call_later(self.drain_s, self._drained_too_long)

    def _drained_too_long(self) -> None:
        self.log.warning("drain_ended", given_up=self.pool.awaited)
        self.pool.hurry()

    def _hurry(self) -> None:
        self.pool.hurry()
        self._feed.give_up()

    def _note_cut_off(self) -> None:
        """Requests whose answers nobody waits for any more: their marks would go with the segment that is sealed."""
        for key in list(self._awaited):
            self._note(key, CUT_OFF)

    def _note(self, key: str, error: ProviderError) -> None:
        try:
            self.superseded(key, error)
        except StorageError as reason:
            self.stop.because(reason)

    def _disk_failed(self) -> None:
        failure = self.checkpoint.writer.failure or StorageError(
            f"the disk is full at {self.checkpoint.layout.folder}; every acknowledged answer is kept. "
            "Free some space, then run the same command again"
        )
        self.stop.because(failure)

    # -- what others see -------------------------------------------------------------------------------------------

    def view(self) -> View:
        totals = self.ledger.totals()
        waiting = self.counts.ended - min(self.counts.ended, self.checkpoint.acknowledged)
        return View(
            rows=self.work.rows,
            done_before=self.work.done_before + self.work.failed_before,
            done_now=self.counts.ended - waiting,
            failed=self.work.failed_before + self.counts.failed,
            tokens=(totals.usage.prompt_tokens or 0) + (totals.usage.completion_tokens or 0),
            cost_usd=totals.cost(self.job.prices),
            in_flight=self.pool.awaited,
            note="stopping" if self.stop.stopping else "",
        )

    @contextlib.contextmanager
    def _clockwork(self) -> Iterator[None]:
        tasks = [asyncio.ensure_future(self._beat())]
        if self.display is not None:
            tasks.append(asyncio.ensure_future(self._show(self.display)))
        if self.sharing is not None:
            tasks.append(asyncio.ensure_future(self.sharing.go()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    async def _show(self, display: Display) -> None:
        while True:
            await asyncio.sleep(display.every_s)
            display.show(self.view())

    async def _beat(self) -> None:
        gap = Gap()
        while True:
            gap_s = gap.look()
            if gap_s is not None:
                self.log.warning("suspended", for_s=round(gap_s, 1))
                self.wire.renew()
            self.log.tick()
            self.checkpoint.heartbeat(self.heartbeat())
            await asyncio.sleep(HEARTBEAT_S)

    def heartbeat(self, phase: str = "sending") -> dict[str, object]:
        """What ``status`` tells about a run that is going on; it reads no answers as long as this is there."""
        view = self.view()
        return {
            "at": time.time(),
            "pid": os.getpid(),
            "run": self.log.run,
            "phase": "stopping" if self.stop.stopping else phase,
            **as_members(view, self._rate.update(view.done_now)),
            "acknowledged": self.checkpoint.acknowledged,
            "recorded": self._recorded(),
            "slowest_in_flight": self._slowest(),
            "limits": {**self.wire.found(), "requests_per_minute_given": self.job.spec.limits.requests_per_minute},
        }

    def _recorded(self) -> dict[str, object]:
        """Of all runs, as a look into the checkpoint has it; a row that goes again counts once it has ended."""
        totals = self.ledger.totals()
        return {
            "recorded": added(self.work.statuses, self.counts.statuses),
            "failures": added(self.work.kinds, self.counts.kinds),
            **totals_members(totals, self.job.prices),
        }

    def _slowest(self) -> list[dict[str, object]]:
        now = time.monotonic()
        slowest = nsmallest(SLOWEST, ((began, key) for key, began in self._awaited.items()))
        rows = [(self._rows.get(key), began, key) for began, key in slowest]
        return [
            {"row": key, "id": row and row.id, "ordinal": row and row.ordinal, "for_s": round(now - began, 1)}
            for row, began, key in rows
        ]


def added(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    return {name: before.get(name, 0) + now.get(name, 0) for name in sorted({*before, *now})}


def words(reason: PipelineError | None) -> dict[str, Any]:
    """Members of a log line that say why a run ends."""
    said = {} if reason is None else {"message": str(reason)}
    named = {"kind": reason.kind, "status": reason.status} if isinstance(reason, ProviderError) else {}
    return {**named, "aloud": said} if reason is not None and reason.quotes else {**named, **said}


def address_of(job: Job, key: str | None) -> Address:
    endpoint = job.spec.endpoint
    return Address(
        endpoint.base_url,
        key,
        endpoint.headers,
        endpoint.timeout_s.connect,
        endpoint.timeout_s.total,
        int(endpoint.max_reply_mb * 1_000_000),
        endpoint.proxy,
        endpoint.timeout_s.idle,
    )


def limits_of(job: Job) -> Limits:
    limits, retry = job.spec.limits, job.spec.retry
    return Limits(
        limits.requests_per_minute,
        limits.tokens_per_minute,
        limits.input_tokens_per_minute,
        limits.output_tokens_per_minute,
        limits.concurrency,
        job.max_output_tokens,
        retry.max_attempts,
        retry.max_wait_s,
        retry.max_in_doubt,
    )


def fetcher_of(job: Job) -> Fetcher | None:
    """For jobs whose links are to be fetched. A loopback endpoint may be fetched from, no other address of its kind."""
    media, endpoint = job.spec.media, job.spec.endpoint
    if media is None or not media.download:
        return None
    return Fetcher(
        connect_s=endpoint.timeout_s.connect,
        total_s=min(FETCH_S, endpoint.timeout_s.total),
        max_bytes=int(media.max_mb * 1_000_000),
        concurrency=job.spec.limits.concurrency,
        proxy=endpoint.proxy,
        own=endpoint.base_url if on_loopback(job.spec) else None,
    )


def connections_each(job: Job, *, served_here: bool) -> int:
    """How many connections a row in flight may hold at most. ``served_here``: the endpoint is part of this process."""
    fetches = job.spec.media is not None and job.spec.media.download
    return (1 + fetches) * (1 + served_here)


def purses_of(job: Job, before: Totals) -> list[Purse]:
    """The job's budget, less what earlier runs spent; none without a cap on answers (see ``Job``)."""
    budget, cap = job.spec.budget, job.most_output_tokens
    if cap is None:
        return []
    each = job.spec.attachments.max_tokens or 0  # named wherever there is a budget and something attached
    purses = []
    if budget.tokens is not None:
        purses.append(token_purse(budget.tokens, before, cap, each))
    if budget.usd is not None:
        purses.append(money_purse(budget.usd, before, cap, job.prices, each))
    return purses


def _soon(loop: asyncio.AbstractEventLoop, step: Callable[[], None]) -> None:
    """From any thread; a loop that has ended needs to know nothing any more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(step)
