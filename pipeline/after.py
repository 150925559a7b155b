"""After the last row: totals, tables and summary; and a finished job once more, which has none of that to do."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import asdict, replace

import orjson

from pipeline import comparison
from pipeline.before import expired_words
from pipeline.drift import Drift, exceeded, judge
from pipeline.errors import PipelineError, RunPaused
from pipeline.evaluate import Evaluation, evaluate
from pipeline.job import Job
from pipeline.ledger import Totals
from pipeline.onerun import Known, OneRun, allowed_failures
from pipeline.plan import Finished, Standing, kept_keys, keys_name, list_keys, since_last_run, stand
from pipeline.progress import plain
from pipeline.stand import count_ended
from pipeline.storage.labels import slices
from pipeline.storage.output import RESULTS, Join, publish
from pipeline.storage.published import Published, in_place, look, settle_time, unfinished_ns
from pipeline.storage.ranged import Ranged
from pipeline.storage.snapshot import Snapshot
from pipeline.summary import Summary
from pipeline.work import words

_OUTPUT_FORMAT = 1


class After(OneRun):
    """The part of a run that tells how it ended."""

    def _finish(self, known: Known, reason: PipelineError | None, sent: int, complete: bool) -> Summary:
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

    def _now(self, known: Known) -> tuple[Snapshot, Standing, Ranged]:
        """The checkpoint as it stands; as it stood, where no record has come since: none is ever taken away."""
        snapshot = Snapshot(self.checkpoint.layout.folder, self.checkpoint.job.job, self.files)
        if known.standing is not None and known.seen is not None:
            before, gone = known.seen
            if before.records == snapshot.records and len(known.keys) == known.standing.table.height:
                return before, known.standing, gone
        return snapshot, *stand(known.keys, snapshot)

    def _publish(
        self,
        known: Known,
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
        labels = comparison.counted(job)
        past = self._past(known.fingerprint)
        if past is None or not self._in_place(past):
            # Until it is judged it looks unfinished to make.
            doubtful = job.spec.alarm is not None or summary.failed > self._allowed(known.rows)
            time_ns = unfinished_ns(self.began) if doubtful else None
            publish(self.files, job.folder, join, job.spec.input.id, onlooker=labels.add, time_ns=time_ns)
        else:
            for frame in slices(os.path.join(job.folder, RESULTS), labels.looks_at):
                labels.add(frame)
        drift = compared.end(job, summary, self.log.run, labels.labels())
        told = f"{summary.failed} rows failed; look with `pipeline failures`, then --retry-failed"
        done = replace(summary, finished=True, evaluation=evaluated(job, join, os.path.join(job.folder, RESULTS)))
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
        self.checkpoint.update(finished=finished.members())
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
        known: Known,
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
            f"; {expired_words(self.job, expired)}" if expired else ""
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


def evaluated(job: Job, join: Join, written: str | None = None) -> Evaluation | None:
    """The labels held against the gold ones, where the spec asks for it. ``written``: the table of results, if it is
    there already."""
    asked = job.spec.evaluate
    if asked is None:
        return None
    results = None if written is None else slices(written, join.judged(asked.gold, asked.field))
    return evaluate(join.pairs(asked.gold, asked.field, results))
