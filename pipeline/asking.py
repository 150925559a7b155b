"""One row's way from the input to its record, and the witness of every attempt at it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from pipeline.errors import PipelineError, ProviderError, RunPaused, StorageError
from pipeline.feed import Feed
from pipeline.job import UNSENDABLE, Job, Ready
from pipeline.ledger import Ledger
from pipeline.linked import Linked
from pipeline.media import links
from pipeline.noticed import Noticed
from pipeline.pool import Pool
from pipeline.progress import Display, Rate
from pipeline.provider.ask import ask, invalid, unexpected
from pipeline.provider.till import Till
from pipeline.provider.wire import Wire
from pipeline.records import ApiReply, Billed, Outcome, Row
from pipeline.runlog import RunLog
from pipeline.sharing import Sharing, start_sharing
from pipeline.stop import Stop
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.keys import Keys
from pipeline.watch import Watch
from pipeline.wired import address_of, fetcher_of, limits_of, purses_of
from pipeline.work import INPUT_CHANGED, Counts, Rows, Work, unchanged

READERS = 4
"""Threads that read attached files. More would only hold more of them in memory before their turn."""

FAULTS_OF_OURS = 3
"""So many rows struck by a fault of ours, and the run ends instead of failing them all."""

FILES_CHANGED = (
    "an attached file changed during the run; the answers are kept, run the same command again to ask about it as it "
    "is now"
)


class Asking:
    """What the rows of one run share on their way."""

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
        drain_s: float,
        rows: Rows | None = None,
        till: Till | None = None,
    ) -> None:
        """``rows``: other than those of the whole input; ``till``: of a budget that several processes share."""
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
        self._feed: Rows = rows or Feed(unchanged(job.source.rows(job.used, work.start), work.changed), work.wanted)
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
            till,
        )
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
            if ready.exchange is None or ready.call is None:
                outcome = invalid(key, row, ready.invalid or "")
                self.ended(outcome)
            else:
                kept = self.work.kept.get(key, ())
                outcome = await ask(self.wire.send, row, key, ready.exchange, ready.call, witness=self, kept=kept)
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
        if self.job.spec.media is None:
            return None
        return len(links(outcome.text or "")) if self.job.downloads else 0

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

    # -- the end of one request's wait ------------------------------------------------------------------------------

    def _note(self, key: str, error: ProviderError) -> None:
        try:
            self.superseded(key, error)
        except StorageError as reason:
            self.stop.because(reason)
