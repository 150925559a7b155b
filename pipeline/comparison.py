"""A run that finishes, beside the finished run before it: begun before its tables replace the old ones, ended after."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.drift import Alarm, Drift, Flips, Labels, Past, comparable, shifts
from pipeline.errors import StorageError
from pipeline.job import Job
from pipeline.storage.files import Files
from pipeline.storage.history import History, print_of
from pipeline.storage.labels import Table, Tally, flips, label_columns
from pipeline.storage.layout import Layout
from pipeline.storage.output import RESULTS
from pipeline.summary import Summary


def alarm_of(job: Job) -> Alarm | None:
    asked = job.spec.alarm
    return None if asked is None else Alarm(asked.label_share_change, asked.flip_rate, asked.failure_rate)


def settle(files: Files, layout: Layout, drift: Drift) -> None:
    """The end of this run is written down: what was kept for the sake of comparing it is needed no more."""
    History(files, layout).settle(drift.number)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Made by ``begin`` before the tables are published."""

    history: History
    answers: str
    before: Past | None
    table: str | None  # of the run before, in a place where it stays

    def end(self, job: Job, summary: Summary, run: str, labels: dict[str, Labels]) -> Drift:
        """Hold what was published against the run before, and keep it. ``labels``: as ``counted`` in its results."""
        before = self.before
        if before is not None and before.answers == self.answers:
            drift = before.drift  # the same run once more: only its tables were made anew
        else:
            drift = self._drift(job, summary, labels)
        usage = summary.totals.usage
        counts = [count for count in (usage.prompt_tokens, usage.completion_tokens) if count is not None]
        self.history.write(
            Past(
                number=drift.number,
                run=run,
                ended=summary.started + summary.seconds,
                question=job.question,
                answers=self.answers,
                statuses=summary.statuses,
                failures=summary.failures,
                requests=summary.totals.attempts,
                tokens=sum(counts) if counts else None,
                cost_usd=summary.totals.cost(job.prices),
                id=job.spec.input.id,
                status=job.prefix + "status",
                labels=labels,
                results=print_of(os.path.join(job.folder, RESULTS)),
                drift=drift,
            )
        )
        return drift

    def _drift(self, job: Job, summary: Summary, labels: dict[str, Labels]) -> Drift:
        before = self.before
        alone = Drift(self.history.next_number(), summary.failed, summary.rows or 0)
        if before is None:
            return alone
        drift = replace(
            alone,
            against=before.number,
            against_ended=before.ended,
            shifts=shifts(before.labels, labels),
        )
        names = comparable(before.labels, labels)
        if not names:
            return replace(drift, notes=("no column of labels is in both runs",))
        try:
            return replace(drift, flips=self._flips(job, before, labels, names))
        except _Incomparable as why:
            return replace(drift, notes=(f"flips: {why}",))

    def _flips(self, job: Job, before: Past, labels: dict[str, Labels], names: Sequence[str]) -> tuple[Flips, ...]:
        named = job.spec.input.id
        key = [named] if named is not None else list(dict.fromkeys(job.used))
        if named != before.id:
            raise _Incomparable("another column names the rows now")
        if not key:
            raise _Incomparable("nothing names a row; give input.id")
        if self.table is None:
            raise _Incomparable("the results of the run before are no longer there")
        old = Table(self.table, before.status, before.labels)
        new = Table(os.path.join(job.folder, RESULTS), job.prefix + "status", labels)
        try:
            return flips(old, new, names, key, unique=named is not None)
        except StorageError as exc:
            raise _Incomparable(str(exc)) from exc


def counted(job: Job) -> Tally:
    """To be shown the results of a run; nothing in it yet."""
    return Tally(label_columns(job.fields, job.prefix), job.prefix + "status")


class _Incomparable(Exception):
    """Never leaves this room: why there is no figure."""


def begin(files: Files, layout: Layout, folder: str, answers: str) -> Comparison:
    """Find the finished run before, and see to it that its results outlive the new ones. ``answers`` is equal for two
    runs only when they had the same rows, asked the same, with nothing sent in between."""
    history = History(files, layout)
    before = history.latest()
    if before is None or before.answers == answers:
        return Comparison(history, answers, before, None)
    return Comparison(history, answers, before, history.table(before, os.path.join(folder, RESULTS)))
