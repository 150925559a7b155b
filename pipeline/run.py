"""One job from spec to summary: recover, plan, send, join, tell."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from pipeline import comparison
from pipeline.after import After
from pipeline.before import Before
from pipeline.crew.captain import Crew
from pipeline.crew.size import lanes_for, refuse_in_several
from pipeline.descriptors import make_room
from pipeline.environment import ignored_proxies
from pipeline.errors import CheckpointError, PipelineError, RunPaused, StorageError
from pipeline.job import Job
from pipeline.ledger import Ledger
from pipeline.loop import run_loop
from pipeline.onerun import Known, allowed_failures
from pipeline.onerun import Options as Options
from pipeline.plan import Finished, Wish
from pipeline.progress import Display
from pipeline.runlog import LOG, Echo, RunLog
from pipeline.sending import Sending
from pipeline.stop import Stop, signals_raise, signals_wait
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.files import Files, discard
from pipeline.storage.layout import CHECKPOINT, Layout
from pipeline.storage.lock import Lock
from pipeline.storage.output import ATTEMPTS, FAILED, RESULTS
from pipeline.storage.published import settle_time
from pipeline.summary import NAME as SUMMARY
from pipeline.summary import Summary
from pipeline.wired import connections_each
from pipeline.work import INPUT_CHANGED, Work, words


def run(
    job: Job,
    key: Callable[[], str | None],
    options: Options,
    *,
    say: Callable[[str], None],
    display: Callable[[], Display | None],
    echo: Echo | None = None,
    files: Files | None = None,
    lock: Lock | None = None,
) -> Summary:
    """Run the job; the summary says how it ended (exit code included). ``key`` is asked only when there is something
    to send; ``lock`` is that of the job's folder, where the caller has it. Raises PipelineError for what was wrong
    before anything was sent."""
    began, clock = time.time(), time.monotonic()
    files = files or Files()
    allowed_failures(options.max_failed, 0)
    if options.processes > 1:
        refuse_in_several(job)
    wish = Wish.of(job, began, options.retry_failed, refresh_expired=options.refresh_expired)
    refuse_foreign(job.folder)
    with signals_raise():
        checkpoint = Checkpoint.open(
            os.path.join(job.folder, CHECKPOINT), job.spec.name, simulated=options.simulated, files=files, lock=lock
        )
        try:
            with _opened_log(job.folder, echo) as log:
                return _OneRun(job, checkpoint, options, wish, log, say, files, began, clock).go(key, display)
        except OSError as exc:
            raise StorageError(
                f"{exc.filename or job.folder}: {exc.strerror or exc}; every acknowledged answer is kept. "
                "Mend that, then run the same command again"
            ) from exc
        finally:
            checkpoint.release()


def refuse_foreign(folder: str) -> None:
    """Raises CheckpointError for tables that no run of ours has left: they would be overwritten."""
    if os.path.lexists(Layout.of_output(folder).job):
        return
    there = [name for name in (RESULTS, FAILED, ATTEMPTS, SUMMARY) if os.path.lexists(os.path.join(folder, name))]
    if there:
        raise CheckpointError(
            f"{folder} holds {', '.join(there)} without the checkpoint they come from; nothing was sent or "
            "overwritten. Move them away, or name another folder in `output:`"
        )


@contextlib.contextmanager
def _opened_log(folder: str, echo: Echo | None) -> Iterator[RunLog]:
    """The run's log, which also tells why a run ended by an exception."""
    log = RunLog(os.path.join(folder, LOG), secrets.token_hex(4))
    log.echo = echo
    log.capture_library_warnings()
    try:
        yield log
    except PipelineError as reason:
        log.error("stopped", exit_code=reason.exit_code, **words(reason))
        raise
    except Exception as fault:
        log.error("fault_of_ours", fault)
        raise
    finally:
        log.close()


class _OneRun(Before, After):
    """The whole of it, in order."""

    # -- the order of things ---------------------------------------------------------------------------------------

    def go(self, key: Callable[[], str | None], display: Callable[[], Display | None]) -> Summary:
        # Before anything of the input is read: whatever is listed under its fingerprint must be of that very content.
        self.stamp = self.job.source.stamp()
        fingerprint = self.job.fingerprint()
        past = Finished.of(self.checkpoint.job.finished)
        if past is not None:
            comparison.settle(self.files, self.checkpoint.layout, past.drift)
        finished = self._nothing_to_do(fingerprint)
        if finished is not None:
            self._seal()
            settle_time(self.files, self.folder, self.began, finished=finished.exit_code == 0)
            finished.write(self.files)
            return finished
        known = self._look(fingerprint)
        self._refuse_buying_again(known)
        stop = Stop()
        sent = 0
        complete = True
        to_send = known.standing is None or known.plan.to_send > 0
        if to_send or known.unfetched:
            sending = self._send(known, key() if to_send else None, display, stop)
            sent = sending.counts.ended
            complete = sending.exhausted and not stop.stopping
            if sending.files_changed:  # whatever the files' times say, the list does not fit them
                discard(self.files, self.checkpoint.layout.keys)
        else:
            if self.checkpoint.job.question != self._accepted():
                self.checkpoint.update(question=self._accepted())
            self._seal()
        return self._end(known, stop, sent, complete)

    def _end(self, known: Known, stop: Stop, sent: int, complete: bool) -> Summary:
        if self._changed():
            complete = False
            stop.because(RunPaused(INPUT_CHANGED))
        return self._finish(known, stop.reason, sent, complete)

    # -- sending ---------------------------------------------------------------------------------------------------

    def _send(
        self, known: Known, key: str | None, new_display: Callable[[], Display | None], stop: Stop
    ) -> Sending | Crew:
        work = self._work(known)
        # Before the first byte is written; processes of this run inherit what is granted here.
        make_room(self._at_once(work), connections_each(self.job, served_here=self.options.simulated is True))
        self._begin_log(key)
        self.checkpoint.update(question=self._accepted(), finished=None)
        if self.checkpoint.in_doubt:
            self.say(
                f"{self.checkpoint.in_doubt} requests of an earlier run were cut off; they may have been billed, "
                "and are sent again"
            )
        self.say(_starting(work, self.job))
        self.log.info("start", to_send=work.to_send, rows=work.rows, model=self.job.model.name, endpoint=self._host())
        ignored = ignored_proxies(os.environ, self.job.spec.endpoint.proxy)
        if ignored:
            self.log.warning("proxy_ignored", variables=ignored)
        display = new_display()
        sending = self._sending(known, work, key, display, stop)
        try:
            self._until_sealed(sending, stop)
        finally:
            if display is not None:
                display.close(sending.view() if sending.counts.ended else None)
        self.limits_found = dict(sending.found())
        self.not_renewed = sending.counts.not_renewed
        self.checkpoint.heartbeat(sending.heartbeat("ending"))
        return sending

    def _sending(
        self, known: Known, work: Work, key: str | None, display: Display | None, stop: Stop
    ) -> Sending | Crew:
        lanes = lanes_for(self.options.processes, self.job, work)
        if lanes > 1:
            return Crew(
                self.job,
                self.checkpoint,
                known.keys,
                work,
                lanes=lanes,
                makes_keys=known.standing is None,
                key=key,
                before=known.before,
                log=self.log,
                display=display,
                stop=stop,
                drain_s=self.options.drain_s,
            )
        return Sending(
            self.job,
            self.checkpoint,
            known.keys,
            work,
            key=key,
            ledger=Ledger(known.before),
            log=self.log,
            display=display,
            stop=stop,
            drain_s=self.options.drain_s,
        )

    def _until_sealed(self, sending: Sending | Crew, stop: Stop) -> None:
        try:
            run_loop(sending.go(self._seconds_left()))
        except BaseException:
            with signals_wait():
                self.checkpoint.abandon()
            raise
        if stop.hurried:
            with signals_wait():
                self.checkpoint.abandon()
            raise stop.reason or RunPaused("stopped")
        self._seal()

    def _begin_log(self, key: str | None) -> None:
        self.log.secret = key
        try:
            self.log.begin()
        except OSError as exc:
            path = os.path.join(self.folder, LOG)
            raise CheckpointError(f"{path} cannot be written ({exc.strerror}); nothing was sent. Move it away") from exc

    def _seconds_left(self) -> float | None:
        """Of ``--max-minutes``, which planning counts into."""
        minutes = self.options.max_minutes
        return None if minutes is None else max(0.0, minutes * 60 - (time.monotonic() - self.clock))

    def _accepted(self) -> str:
        """The question that holds from now on. A trial of the first rows accepts no change for the others: a run of all
        refuses to buy those again as before."""
        before = self.checkpoint.job.question
        return before if before and self.job.spec.input.limit is not None else self.job.question

    def _at_once(self, work: Work) -> int:
        """Rows in flight at most: a short job opens fewer connections than its limits allow."""
        most = self.job.spec.limits.concurrency
        return min(most, max(work.to_send, len(work.unfetched)))

    def _host(self) -> str:
        return urlsplit(self.job.spec.endpoint.base_url).netloc


def _starting(work: Work, job: Job) -> str:
    resumed = f", {work.done_before} are done" if work.done_before else ""
    copies = f", {work.copies} more are copies" if work.copies else ""
    return f"{job.spec.name}: {work.to_send} of {work.rows} rows to send to {job.model.name}{resumed}{copies}"
