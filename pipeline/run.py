"""One job from spec to summary: recover, plan, send, join, tell."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from urllib.parse import urlsplit

import orjson
import polars as pl

from pipeline.errors import CheckpointError, PipelineError, RunPaused, SpecError, StorageError
from pipeline.evaluate import Evaluation, evaluate
from pipeline.job import Job
from pipeline.ledger import Ledger, Totals
from pipeline.plan import ALL_KINDS, Finished, Plan, Standing, kept_keys, keys_name, list_keys, make, stand
from pipeline.progress import Display, money, plain
from pipeline.records import ApiReply
from pipeline.runlog import Echo, RunLog
from pipeline.sending import DRAIN_S, INPUT_CHANGED, Sending, Work
from pipeline.stop import Stop, signals_raise, signals_wait
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.files import Files
from pipeline.storage.keys import Keys
from pipeline.storage.layout import Layout
from pipeline.storage.output import ATTEMPTS, FAILED, RESULTS, Join, publish
from pipeline.storage.snapshot import Snapshot
from pipeline.storage.source import Stamp
from pipeline.summary import NAME as SUMMARY
from pipeline.summary import Summary

_new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
try:
    import uvloop

    _new_loop = uvloop.new_event_loop
except ImportError:  # not made for every platform; asyncio's own loop serves
    pass

CHECKPOINT = "checkpoint"
LOG = "run.log"
_OUTPUT_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line adds to the spec."""

    retry_failed: str | None = None  # None, "all", or a kind
    accept_changes: bool = False
    max_failed: str = "0"  # a count, or a share like "2%"
    max_minutes: float | None = None
    drain_s: float = DRAIN_S
    simulated: bool | None = False  # None: a loopback endpoint, its first reply will tell


@dataclass(slots=True)
class _Known:
    """What the checkpoint and the input say before anything is sent."""

    fingerprint: str
    keys: Keys
    plan: Plan | None  # None for a fresh job, whose rows are not looked at before they are sent
    standing: Standing | None
    before: Totals
    rows: int
    fresh: bool  # there is no answer in the folder
    kept: Mapping[str, Sequence[ApiReply]] = field(default_factory=dict)  # paid replies of unfinished rows
    unfetched: Mapping[str, str] = field(default_factory=dict)  # texts with links that are still to be fetched


def run(
    job: Job,
    key: Callable[[], str | None],
    options: Options,
    *,
    say: Callable[[str], None],
    display: Callable[[], Display | None],
    echo: Echo | None = None,
    files: Files | None = None,
) -> Summary:
    """Run the job; the summary says how it ended (exit code included). ``key`` is asked only when there is something
    to send. Raises PipelineError for what was wrong before anything was sent."""
    began, clock = time.time(), time.monotonic()
    files = files or Files()
    allowed_failures(options.max_failed, 0)
    refuse_foreign(job.folder)
    with signals_raise():
        checkpoint = Checkpoint.open(
            os.path.join(job.folder, CHECKPOINT), job.spec.name, simulated=options.simulated, files=files
        )
        try:
            with _opened_log(job.folder, echo) as log:
                return _OneRun(job, checkpoint, options, log, say, files, began, clock).go(key, display)
        except OSError as exc:
            raise StorageError(
                f"{exc.filename or job.folder}: {exc.strerror or exc}; every acknowledged answer is kept. "
                "Mend that, then run the same command again"
            ) from exc
        finally:
            checkpoint.release()


def refuse_foreign(folder: str) -> None:
    """Raises CheckpointError for tables that no run of ours has left: they would be overwritten."""
    if os.path.lexists(Layout(os.path.join(folder, CHECKPOINT)).job):
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
    path = os.path.join(folder, LOG)
    try:
        log = RunLog(path, secrets.token_hex(4))
    except OSError as exc:
        raise CheckpointError(f"{path} cannot be written ({exc.strerror}); nothing was sent. Move it away") from exc
    log.echo = echo
    log.capture_library_warnings()
    try:
        yield log
    except PipelineError as reason:
        log.error("stopped", exit_code=reason.exit_code, message=str(reason))
        raise
    except Exception as fault:
        log.error("fault_of_ours", fault)
        raise
    finally:
        log.close()


class _OneRun:
    def __init__(
        self,
        job: Job,
        checkpoint: Checkpoint,
        options: Options,
        log: RunLog,
        say: Callable[[str], None],
        files: Files,
        began: float,
        clock: float,
    ) -> None:
        self.job = job
        self.checkpoint = checkpoint
        self.options = options
        self.log = log
        self.say = say
        self.files = files
        self.began = began
        self.clock = clock
        self.folder = job.folder
        self.stamp: Stamp = ()
        self.limits_found: dict[str, object] = {}

    # -- the order of things ---------------------------------------------------------------------------------------

    def go(self, key: Callable[[], str | None], display: Callable[[], Display | None]) -> Summary:
        # Before anything of the input is read: whatever is listed under its fingerprint must be of that very content.
        self.stamp = self.job.source.stamp()
        fingerprint = self.job.source.fingerprint()
        finished = self._nothing_to_do(fingerprint)
        if finished is not None:
            self._seal()
            return finished
        self.job.source.check_ids()
        known = self._look(fingerprint)
        self._refuse_buying_again(known.plan)
        stop = Stop()
        sent = 0
        complete = True
        to_send = known.plan is None or known.plan.to_send > 0
        if to_send or known.unfetched:
            sending = self._send(known, key() if to_send else None, display, stop)
            sent = sending.counts.ended
            complete = sending.exhausted and not stop.stopping
        elif self.checkpoint.job.question != self.job.question:
            self.checkpoint.update(question=self.job.question)
        return self._end(known, stop, sent, complete)

    def _end(self, known: _Known, stop: Stop, sent: int, complete: bool) -> Summary:
        self._seal()
        if self._changed():
            complete = False
            stop.because(RunPaused(INPUT_CHANGED))
        return self._finish(known, stop.reason, sent, complete)

    def _seal(self) -> None:
        with signals_wait():  # the lock must not be given up while a thread still seals
            self.checkpoint.seal()

    def _changed(self) -> object:
        return self.job.source.changed_since(self.stamp)

    def _look(self, fingerprint: str) -> _Known:
        """Plan against the checkpoint; a fresh job is not looked at row by row before its rows are sent."""
        checkpoint, job = self.checkpoint, self.job
        rows = job.source.count()
        snapshot = Snapshot(checkpoint.layout.folder, checkpoint.job.job, self.files)
        if not len(snapshot):
            keys = Keys(has_ids=job.spec.input.id is not None)
            return _Known(fingerprint, keys, None, None, Totals(), rows, fresh=True)
        kept = kept_keys(job, self.files, checkpoint.layout.keys, fingerprint)
        keys = list_keys(job, kept)
        if self._changed():
            raise RunPaused(INPUT_CHANGED)
        if kept is None:
            keys.save(self.files, checkpoint.layout.keys, keys_name(job, fingerprint))
        standing, gone = stand(keys, snapshot)
        plan = make(
            job,
            standing,
            gone,
            snapshot,
            retry_failed=self.options.retry_failed,
            asked_before=checkpoint.job.question,
        )
        self.log.info("plan", **asdict(plan))
        self._tell_unknown_kind(standing)
        fresh = not plan.done and not gone["answered"].any()
        media = job.spec.media
        unfetched = snapshot.unfetched() if media is not None and media.download else {}
        return _Known(
            fingerprint, keys, plan, standing, snapshot.totals(), len(keys), fresh, snapshot.kept(), unfetched
        )

    def _tell_unknown_kind(self, standing: Standing) -> None:
        kinds = standing.table.filter(~pl.col("answered"))["kind"].unique().drop_nulls().sort().to_list()
        if self.options.retry_failed not in (None, ALL_KINDS, *kinds):
            there = f"there are: {', '.join(kinds)}" if kinds else "no row has failed"
            self.say(f"--retry-failed {self.options.retry_failed}: no row failed with this kind; {there}")

    def _refuse_buying_again(self, plan: Plan | None) -> None:
        if plan is None or not plan.again or self.options.accept_changes:
            return
        snapshot = Snapshot(self.checkpoint.layout.folder, self.checkpoint.job.job, self.files)
        each = snapshot.totals()
        cost = each.cost(self.job.prices)
        price = "at an unknown price" if cost is None else f"for about {money(cost / max(1, each.billed) * plan.again)}"
        raise SpecError(
            f"the prompt, the model or its parameters changed: {plan.again} rows that have their answer would be asked "
            f"again, {price}; nothing was sent. Run with --accept-changes to buy them, or undo the change; the old "
            "answers are kept either way"
        )

    # -- sending ---------------------------------------------------------------------------------------------------

    def _send(self, known: _Known, key: str | None, new_display: Callable[[], Display | None], stop: Stop) -> Sending:
        self.checkpoint.update(question=self.job.question, finished=None)
        self.log.secret = key
        if self.checkpoint.in_doubt:
            self.say(
                f"{self.checkpoint.in_doubt} requests of an earlier run were cut off; they may have been billed, "
                "and are sent again"
            )
        work = self._work(known)
        self.say(_starting(work, self.job))
        self.log.info("start", to_send=work.to_send, rows=work.rows, model=self.job.model.name, endpoint=self._host())
        display = new_display()
        sending = Sending(
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
        try:
            _run_loop(sending.go(self._seconds_left()))
        except BaseException:
            with signals_wait():
                self.checkpoint.abandon()
            raise
        finally:
            if display is not None:
                display.close(sending.view() if sending.counts.ended else None)
        self.limits_found = dict(sending.wire.found())
        if stop.hurried:
            with signals_wait():
                self.checkpoint.abandon()
            raise stop.reason or RunPaused("stopped")
        return sending

    def _seconds_left(self) -> float | None:
        """Of ``--max-minutes``, which planning counts into."""
        minutes = self.options.max_minutes
        return None if minutes is None else max(0.0, minutes * 60 - (time.monotonic() - self.clock))

    def _work(self, known: _Known) -> Work:
        if known.plan is None or known.standing is None:
            return Work(known.rows, 0, 0, known.rows, 0, None, changed=self._changed)
        to_do = bytes(known.standing.to_do(self.options.retry_failed).cast(pl.UInt8).to_list())
        failed = bytes(known.standing.table["answered"].eq(False).fill_null(False).cast(pl.UInt8).to_list())
        plan = known.plan
        return Work(
            plan.rows,
            plan.done,
            plan.failed_kept,
            plan.to_send,
            max(0, to_do.find(1)),
            lambda ordinal: to_do[ordinal] == 1,
            lambda ordinal: failed[ordinal] == 1,
            self._changed,
            known.fresh,
            kept=known.kept,
            unfetched=known.unfetched,
        )

    def _host(self) -> str:
        return urlsplit(self.job.spec.endpoint.base_url).netloc

    # -- the end ---------------------------------------------------------------------------------------------------

    def _finish(self, known: _Known, reason: PipelineError | None, sent: int, complete: bool) -> Summary:
        snapshot = Snapshot(self.checkpoint.layout.folder, self.checkpoint.job.job, self.files)
        standing, gone = stand(known.keys, snapshot)
        statuses, failures, transient = _count(standing.table)
        unseen = max(0, known.rows - len(known.keys))  # a fresh job that was stopped has not looked at its last rows
        if unseen:
            statuses["pending"] = statuses.get("pending", 0) + unseen
        complete = complete and not statuses.get("pending")
        summary = self._summary(known, reason, snapshot.totals(), sent, statuses, failures)
        if complete:
            try:
                summary = self._publish(known, snapshot, standing, summary, transient, gone.height)
            except RunPaused as paused:  # a signal, or an input that was edited meanwhile
                summary = replace(summary, exit_code=paused.exit_code, message=plain(str(paused)))
        if not summary.finished:
            summary.write(self.files)
        self.log.info("end", exit_code=summary.exit_code, message=summary.message, statuses=statuses)
        return summary

    def _publish(
        self,
        known: _Known,
        snapshot: Snapshot,
        standing: Standing,
        summary: Summary,
        transient: int,
        removed: int,
    ) -> Summary:
        job = self.job
        if known.plan is None:
            known.keys.save(self.files, self.checkpoint.layout.keys, keys_name(job, known.fingerprint))
        media = job.media and replace(job.media, save=self.checkpoint.shelf.save)
        join = Join(job.source, standing.table, snapshot, job.prices, job.prefix, self._changed, job.fields, media)
        publish(self.files, job.folder, join, job.spec.input.id)
        evaluation = evaluated(job, join)
        code = 3 if summary.failed > allowed_failures(self.options.max_failed, known.rows) else 0
        message = (
            "" if code == 0 else f"{summary.failed} rows failed; look with `pipeline failures`, then --retry-failed"
        )
        done = replace(summary, finished=True, exit_code=code, message=message, evaluation=evaluation)
        done.write(self.files)
        finished = Finished(
            input=known.fingerprint,
            question=job.question,
            output=self._output_print(),
            tables=_stats(job.folder),
            rows=known.rows,
            statuses=done.statuses,
            failures=done.failures,
            transient=transient,
            removed=removed,
            totals=done.totals,
        )
        self.checkpoint.update(finished=asdict(finished))
        return done

    def _summary(
        self,
        known: _Known,
        reason: PipelineError | None,
        totals: Totals,
        sent: int,
        statuses: dict[str, int],
        failures: dict[str, int],
    ) -> Summary:
        return Summary(
            job=self.job.spec.name,
            exit_code=75 if reason is None else reason.exit_code,
            message="some rows are still pending; run the same command again" if reason is None else plain(str(reason)),
            finished=False,
            rows=known.rows,
            statuses=statuses,
            failures=failures,
            ended_this_run=sent,
            totals=totals,
            prices=self.job.prices,
            in_doubt=self.checkpoint.in_doubt,
            seconds=time.monotonic() - self.clock,
            started=self.began,
            folder=self.folder,
            simulated=self.checkpoint.job.simulated,
            question=self.job.question,
            input=known.fingerprint,
            plan=asdict(known.plan) if known.plan else {},
            limits_found=self.limits_found,
        )

    # -- a finished job --------------------------------------------------------------------------------------------

    def _output_print(self) -> str:
        """Names how the tables are made, apart from rows and answers."""
        made: list[object] = [_OUTPUT_FORMAT, self.job.prefix, asdict(self.job.prices)]
        if self.job.spec.evaluate is not None:
            made.append(self.job.spec.evaluate.model_dump())
        if self.job.media is not None:
            made.append(["media", self.job.media.download])
        return hashlib.sha256(orjson.dumps(made)).hexdigest()

    def _nothing_to_do(self, fingerprint: str) -> Summary | None:
        """The finished run once more, when input, question, tables and options leave nothing to send or to write."""
        past = Finished.of(self.checkpoint.job.finished)
        if past is None or not past.of_this(self.job, fingerprint) or self.options.retry_failed is not None:
            return None
        in_place = past.output == self._output_print() and past.tables == _stats(self.job.folder)
        if past.transient or not in_place:
            return None
        code = 3 if past.failed > allowed_failures(self.options.max_failed, past.rows) else 0
        return Summary(
            job=self.job.spec.name,
            exit_code=code,
            message="nothing to do: every row has ended, and the tables are in place"
            + (f"; {past.failed} rows failed, see `pipeline failures` and --retry-failed" if code else ""),
            finished=True,
            rows=past.rows,
            statuses=past.statuses,
            failures=past.failures,
            ended_this_run=0,
            totals=past.totals,
            prices=self.job.prices,
            in_doubt=0,
            seconds=time.monotonic() - self.clock,
            started=self.began,
            folder=self.folder,
            simulated=self.checkpoint.job.simulated,
            question=self.job.question,
            input=fingerprint,
            nothing_to_do=True,
        )


def evaluated(job: Job, join: Join) -> Evaluation | None:
    """The labels held against the gold ones, where the spec asks for it."""
    asked = job.spec.evaluate
    return None if asked is None else evaluate(join.pairs(asked.gold, asked.field))


def _count(table: pl.DataFrame) -> tuple[dict[str, int], dict[str, int], int]:
    """Rows by status, failed rows by kind, and how many of these a rerun tries again."""
    by_status = table.group_by(pl.col("status").fill_null("pending")).agg(pl.len()).sort("status")
    failed = table.filter(~pl.col("answered"))
    by_kind = failed.group_by("kind").agg(pl.len()).sort("kind")
    transient = int((~failed["permanent"]).sum())
    return dict(by_status.iter_rows()), dict(by_kind.iter_rows()), transient


def _stats(folder: str) -> dict[str, list[int]]:
    """Size and time of each table; a table that is not there has none."""
    stats = {}
    for name in (RESULTS, FAILED, ATTEMPTS):
        try:
            seen = os.stat(os.path.join(folder, name))
        except FileNotFoundError:
            continue
        stats[name] = [seen.st_size, seen.st_mtime_ns]
    return stats


def _starting(work: Work, job: Job) -> str:
    resumed = f", {work.done_before} are done" if work.done_before else ""
    return f"{job.spec.name}: {work.to_send} of {work.rows} rows to send to {job.model.name}{resumed}"


def allowed_failures(text: str, rows: int) -> float:
    """``--max-failed``: a count, or a share of the rows with a per cent sign. Raises SpecError."""
    number = text.strip()
    try:
        value = float(number.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise SpecError(f"--max-failed must be a count like 10 or a share like 2%, not {text!r}")
    return value / 100 * rows if number.endswith("%") else value


def _run_loop(main: Coroutine[None, None, None]) -> None:
    # Each request makes objects that die with it; walking all that was imported again and again for their sake costs
    # a third of a request.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(main)
