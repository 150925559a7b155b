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

from pipeline import comparison
from pipeline.descriptors import make_room
from pipeline.drift import Drift, exceeded, judge
from pipeline.environment import ignored_proxies
from pipeline.errors import CheckpointError, PipelineError, RunPaused, SpecError, StorageError
from pipeline.evaluate import Evaluation, evaluate
from pipeline.job import Job
from pipeline.ledger import Ledger, Totals
from pipeline.plan import (
    ALL_KINDS,
    Finished,
    Plan,
    Standing,
    Wish,
    go_on,
    kept_keys,
    keys_name,
    list_keys,
    make,
    no_keys,
    since_last_run,
    stand,
)
from pipeline.progress import Display, money, plain
from pipeline.records import ApiReply
from pipeline.runlog import Echo, RunLog
from pipeline.sending import INPUT_CHANGED, Sending, Work, connections_each, words
from pipeline.stand import count_ended
from pipeline.stop import DRAIN_S, Stop, signals_raise, signals_wait
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.files import Files, discard
from pipeline.storage.keys import Keys
from pipeline.storage.layout import CHECKPOINT as CHECKPOINT
from pipeline.storage.layout import Layout
from pipeline.storage.lock import Lock
from pipeline.storage.output import ATTEMPTS, FAILED, RESULTS, Join, publish
from pipeline.storage.published import Published, in_place, look, settle_time, unfinished_ns
from pipeline.storage.ranged import Ranged
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
    refresh_expired: bool = False


@dataclass(slots=True)
class _Known:
    """What the checkpoint and the input say before anything is sent."""

    fingerprint: str
    keys: Keys
    plan: Plan
    standing: Standing | None  # None for a fresh job, whose rows are not looked at before they are sent
    before: Totals
    rows: int
    listed: bool  # the keys are those of all rows, and kept
    fresh: bool  # there is no answer in the folder
    since_last_run: Mapping[str, int]
    kept: Mapping[str, Sequence[ApiReply]] = field(default_factory=dict)  # paid replies of unfinished rows
    unfetched: Mapping[str, str] = field(default_factory=dict)  # texts with links that are still to be fetched
    seen: tuple[Snapshot, Ranged] | None = None  # what ``standing`` was made of; the keys that no row has


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


class _OneRun:
    def __init__(
        self,
        job: Job,
        checkpoint: Checkpoint,
        options: Options,
        wish: Wish,
        log: RunLog,
        say: Callable[[str], None],
        files: Files,
        began: float,
        clock: float,
    ) -> None:
        self.job = job
        self.checkpoint = checkpoint
        self.options = options
        self.wish = wish
        self.log = log
        self.say = say
        self.files = files
        self.began = began
        self.clock = clock
        self.folder = job.folder
        self.stamp: Stamp = ()
        self.limits_found: dict[str, object] = {}
        self.not_renewed = 0

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
        self._refuse_buying_again(known.plan)
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
            if self.checkpoint.job.question != self.job.question:
                self.checkpoint.update(question=self.job.question)
            self._seal()
        return self._end(known, stop, sent, complete)

    def _end(self, known: _Known, stop: Stop, sent: int, complete: bool) -> Summary:
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
        snapshot = Snapshot(checkpoint.layout.folder, checkpoint.job.job, self.files)
        kept = kept_keys(job, self.files, checkpoint.layout.keys, fingerprint)
        cut_off = go_on(job, self.files, checkpoint.layout, fingerprint, snapshot) if kept is None else None
        if kept is None and cut_off is None:
            job.source.check_ids()  # no list is begun before that
        rows = len(kept) if kept is not None else cut_off.rows if cut_off is not None else job.source.count()
        # Files may change before their row is sent: then its key, made of what was there, is not made again.
        # Which rows are copies, all the keys together tell.
        if not len(snapshot) and not job.attach.reads_files and not job.spec.dedupe:
            keys = no_keys(job)
            self._begin(keys, fingerprint, rows)
            plan = Plan.fresh(rows)
            since = since_last_run(plan, None, None)
            return _Known(fingerprint, keys, plan, None, Totals(), rows, False, True, since)
        if kept is None and job.attach.reads_files:
            self.say(f"{job.spec.name}: looking at the attached files of {rows} rows, to know what is to be asked")
        keys = cut_off.keys if cut_off is not None else list_keys(job, kept)
        if self._changed():
            raise RunPaused(INPUT_CHANGED)
        listed_before = kept or Keys.load(self.files, checkpoint.layout.keys, None, has_ids=True)
        if cut_off is not None:
            self._begin(keys, fingerprint, rows)
        elif kept is None:
            keys.save(self.files, checkpoint.layout.keys, keys_name(job, fingerprint))
        standing, gone = (cut_off.standing, cut_off.gone) if cut_off is not None else stand(keys, snapshot)
        asked_before = checkpoint.job.question
        plan = make(job, standing, gone, snapshot, wish=self.wish, asked_before=asked_before, rows=rows)
        self.log.info("plan", **asdict(plan))
        self._tell_unknown_kind(standing)
        if plan.expired > plan.expired_again:
            self.say(_expired(job, plan.expired))
        fresh = not plan.done and not gone.any(pl.col("answered"))
        since = since_last_run(plan, gone, listed_before)
        replies = snapshot.kept(self._replies_since())
        unfetched = snapshot.unfetched() if job.media is not None and job.media.download else {}
        totals, listed = snapshot.totals(), cut_off is None
        seen = snapshot, gone
        return _Known(fingerprint, keys, plan, standing, totals, rows, listed, fresh, since, replies, unfetched, seen)

    def _begin(self, keys: Keys, fingerprint: str, rows: int) -> None:
        """What is listed while rows are sent outlives this process."""
        if fingerprint:
            keys.begin(self.files, self.checkpoint.layout.begun, keys_name(self.job, fingerprint), rows)

    def _replies_since(self) -> float:
        """A refresh goes on from no reply that has expired itself."""
        return (self.wish.expired_before or 0.0) if self.wish.refresh_expired else 0.0

    def _tell_unknown_kind(self, standing: Standing) -> None:
        if self.options.retry_failed in (None, ALL_KINDS):
            return
        kinds = standing.kinds()
        if self.options.retry_failed not in kinds:
            there = f"there are: {', '.join(kinds)}" if kinds else "no row has failed"
            self.say(f"--retry-failed {self.options.retry_failed}: no row failed with this kind; {there}")

    def _refuse_buying_again(self, plan: Plan) -> None:
        if not plan.again or self.options.accept_changes:
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
        work = self._work(known)
        make_room(self._at_once(work), connections_each(self.job, served_here=self.options.simulated is True))
        self._begin_log(key)
        self.checkpoint.update(question=self.job.question, finished=None)
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
            self._until_sealed(sending, stop)
        finally:
            if display is not None:
                display.close(sending.view() if sending.counts.ended else None)
        self.limits_found = dict(sending.wire.found())
        self.not_renewed = sending.counts.not_renewed
        self.checkpoint.heartbeat(sending.heartbeat("ending"))
        return sending

    def _until_sealed(self, sending: Sending, stop: Stop) -> None:
        try:
            _run_loop(sending.go(self._seconds_left()))
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

    def _work(self, known: _Known) -> Work:
        if known.standing is None:
            return Work(known.rows, 0, 0, known.rows, 0, None, changed=self._changed)
        failed = pl.col("answered").eq(False)
        marks = known.standing.each(known.standing.to_do(self.wish), failed, self.wish.renews())
        plan = known.plan
        left_alone = known.standing.table.filter(~self.wish.to_do())
        statuses, kinds, _ = count_ended(left_alone)
        return Work(
            plan.rows - plan.copies,
            plan.done - plan.expired_again,
            plan.failed_kept,
            plan.to_send,
            min((at for at in map(marks.find, (1, 3, 5, 7)) if at >= 0), default=len(marks)),
            lambda ordinal: ordinal >= len(marks) or bool(marks[ordinal] & 1),
            lambda ordinal: ordinal < len(marks) and bool(marks[ordinal] & 2),
            self._changed,
            known.fresh,
            kept=known.kept,
            renews=lambda ordinal: ordinal < len(marks) and bool(marks[ordinal] & 4),
            statuses=statuses,
            kinds=kinds,
            unfetched=known.unfetched,
            copies=plan.copies,
        )

    def _at_once(self, work: Work) -> int:
        """Rows in flight at most: a short job opens fewer connections than its limits allow."""
        most = self.job.spec.limits.concurrency
        return most if work.to_send is None else min(most, max(work.to_send, len(work.unfetched)))

    def _host(self) -> str:
        return urlsplit(self.job.spec.endpoint.base_url).netloc

    # -- the end ---------------------------------------------------------------------------------------------------

    def _finish(self, known: _Known, reason: PipelineError | None, sent: int, complete: bool) -> Summary:
        snapshot, standing, gone = self._now(known)
        statuses, failures, transient = count_ended(standing.table)
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
        told = words(reason) if reason is not None else {"message": summary.message}
        self.log.info("end", exit_code=summary.exit_code, statuses=statuses, **told)
        return summary

    def _now(self, known: _Known) -> tuple[Snapshot, Standing, Ranged]:
        """The checkpoint as it stands; as it stood, where no record has come since: none is ever taken away."""
        snapshot = Snapshot(self.checkpoint.layout.folder, self.checkpoint.job.job, self.files)
        if known.standing is not None and known.seen is not None:
            before, gone = known.seen
            if before.records == snapshot.records and len(known.keys) == known.standing.table.height:
                return before, known.standing, gone
        return snapshot, *stand(known.keys, snapshot)

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
        if not known.listed:
            known.keys.save(self.files, self.checkpoint.layout.keys, keys_name(job, known.fingerprint))
        join = Join(
            job.source,
            standing.table,
            snapshot,
            job.prices,
            job.prefix,
            self._changed,
            job.fields,
            job.spec.samples,
            job.media and replace(job.media, save=self.checkpoint.shelf.save),
        )
        answers = f"{known.keys.digest()} {summary.totals.attempts}"
        compared = comparison.begin(self.files, self.checkpoint.layout, job.folder, answers)
        past = self._past(known.fingerprint)
        if past is None or not self._in_place(past):
            # Until it is judged it looks unfinished to make.
            doubtful = job.spec.alarm is not None or summary.failed > self._allowed(known.rows)
            publish(self.files, job.folder, join, job.spec.input.id, unfinished_ns(self.began) if doubtful else None)
        drift = compared.end(job, summary, self.log.run)
        told = f"{summary.failed} rows failed; look with `pipeline failures`, then --retry-failed"
        done = replace(summary, finished=True, evaluation=evaluated(job, join))
        done = self._judged(done, drift, told)
        if self.not_renewed and not done.message:
            done = replace(done, message=f"{self.not_renewed} answers were not renewed, and stay; see run.log")
        settle_time(self.files, self.folder, self.began, finished=done.exit_code == 0)
        done.write(self.files)
        tables = look(job.folder)
        finished = Finished(
            input=known.fingerprint,
            question=job.question,
            output=self._output_print(),
            tables=tables.stats,
            rows=known.rows,
            statuses=done.statuses,
            failures=done.failures,
            transient=transient,
            removed=removed,
            totals=done.totals,
            drift=drift,
            oldest=standing.oldest(),
            feet=tables.feet,
        )
        self.checkpoint.update(finished=asdict(finished))
        comparison.settle(self.files, self.checkpoint.layout, drift)
        return done

    def _allowed(self, rows: int | None) -> float:
        return allowed_failures(self.options.max_failed, rows or 0)

    def _judged(self, summary: Summary, drift: Drift, told: str) -> Summary:
        """The exit code of a finished run, with its reasons; ``told`` is for failed rows."""
        reasons = exceeded(drift, comparison.alarm_of(self.job))
        if reasons:
            self.log.warning("alarm", reasons=reasons)
        code, message = judge(summary.failed, self._allowed(summary.rows), reasons, told)
        return replace(summary, exit_code=code, message=message, drift=drift, alarm=reasons)

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
            plan=asdict(known.plan),
            since_last_run=dict(known.since_last_run),
            limits_found=self.limits_found,
            run=self.log.run,
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

    def _past(self, fingerprint: str) -> Finished | None:
        """The finished run before this one, when nothing has been sent or changed since."""
        past = Finished.of(self.checkpoint.job.finished)
        return past if past is not None and past.of_this(self.job, fingerprint) else None

    def _in_place(self, past: Finished) -> bool:
        """The tables are as that run left them, and would be made the same again."""
        return past.output == self._output_print() and in_place(self.folder, Published(past.tables, past.feet))

    def _expired(self, past: Finished, fingerprint: str) -> int:
        if not past.may_have_expired(self.wish):
            return 0
        keys = list_keys(self.job, kept_keys(self.job, self.files, self.checkpoint.layout.keys, fingerprint))
        snapshot = Snapshot(self.checkpoint.layout.folder, self.checkpoint.job.job, self.files)
        return stand(keys, snapshot)[0].expired(self.wish)

    def _nothing_to_do(self, fingerprint: str) -> Summary | None:
        """The finished run once more, when input, question, tables and options leave nothing to send or to write."""
        past = self._past(fingerprint)
        if past is None or past.transient or self.options.retry_failed is not None or not self._in_place(past):
            return None
        expired = self._expired(past, fingerprint)
        if expired and self.wish.refresh_expired:
            return None
        plan = replace(past.plan(), expired=expired)
        nothing = "nothing to do: every row has ended, and the tables are in place" + (
            f"; {_expired(self.job, expired)}" if expired else ""
        )
        summary = Summary(
            job=self.job.spec.name,
            exit_code=0,
            message=nothing,
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
            plan=asdict(plan),
            since_last_run=since_last_run(plan, None, None),
            nothing_to_do=True,
            carried=Summary.to_carry(self.folder),
        )
        told = f"{past.failed} rows failed, see `pipeline failures` and --retry-failed"
        judged = self._judged(summary, past.drift, told)
        return replace(judged, message="; ".join(filter(None, (nothing, judged.message))))


def evaluated(job: Job, join: Join) -> Evaluation | None:
    """The labels held against the gold ones, where the spec asks for it."""
    asked = job.spec.evaluate
    return None if asked is None else evaluate(join.pairs(asked.gold, asked.field))


def _expired(job: Job, count: int) -> str:
    return f"{count} answers are older than {job.spec.expire}; --refresh-expired asks them again"


def _starting(work: Work, job: Job) -> str:
    resumed = f", {work.done_before} are done" if work.done_before else ""
    copies = f", {work.copies} more are copies" if work.copies else ""
    return f"{job.spec.name}: {work.to_send} of {work.rows} rows to send to {job.model.name}{resumed}{copies}"


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
