"""What a run would do, before it does it: the keys of the input against the keys of the checkpoint.

All in columns and by ranges of rows: beyond a range a row costs one byte of memory here, whatever it holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import polars as pl

from pipeline.drift import Drift
from pipeline.job import Job, same_ids
from pipeline.ledger import Totals
from pipeline.records import Usage
from pipeline.stand import ALL_KINDS as ALL_KINDS
from pipeline.stand import Standing as Standing
from pipeline.stand import Wish as Wish
from pipeline.stand import stand as stand
from pipeline.storage.files import Files
from pipeline.storage.keys import Keys
from pipeline.storage.layout import CHECKPOINT, Layout
from pipeline.storage.named import count_listed, count_named
from pipeline.storage.ranged import Ranged
from pipeline.storage.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Plan:
    """Counts of rows. ``done + failed_kept + failed_again + new + changed + copies == rows``."""

    rows: int
    done: int  # have their answer
    new: int
    changed: int  # known by their id, but asked another question now
    failed_again: int  # failed before, and go again
    failed_kept: int  # failed for good; ``--retry-failed`` sends them again
    removed: int  # answers whose row or question is no longer there; kept, and free if it comes back
    again: int  # finished rows that would be bought again because the question changed
    expired: int = 0  # of those done: their answer is older than the spec's ``expire``
    expired_again: int = 0  # ... and is asked for again, as ``--refresh-expired`` says
    copies: int = 0  # rows that share the request of one before them (``dedupe``): free, and counted nowhere else

    @classmethod
    def fresh(cls, rows: int) -> Plan:
        """Of a job without a checkpoint."""
        return cls(rows, done=0, new=rows, changed=0, failed_again=0, failed_kept=0, removed=0, again=0)

    @property
    def to_send(self) -> int:
        return self.new + self.changed + self.failed_again + self.expired_again


@dataclass(frozen=True, slots=True)
class Finished:
    """How the last finished run left a job: while nothing of it changes, there is nothing to look at row by row."""

    input: str
    question: str
    output: str  # names how the tables are made
    tables: dict[str, list[int]]  # size and time of each table
    rows: int
    statuses: dict[str, int]
    failures: dict[str, int]
    transient: int  # failed rows that a plain rerun tries again
    removed: int
    totals: Totals
    drift: Drift  # from the finished run before it
    oldest: int | None = None  # when the oldest answer came; None: not known
    feet: dict[str, str] = field(default_factory=dict)  # names the content of each table

    @classmethod
    def of(cls, members: dict[str, Any] | None) -> Finished | None:
        """Out of ``job.json``; None when there is none, or another version wrote it otherwise."""
        known = {part.name for part in fields(cls)}
        if members is None or not known - {"oldest", "feet"} <= members.keys() <= known:
            return None
        totals = members["totals"]
        spent = Totals(**{**totals, "usage": Usage(**totals["usage"])})
        return cls(**{**members, "totals": spent, "drift": Drift.of(members["drift"])})

    def members(self) -> dict[str, Any]:
        """What ``of`` reads."""
        members = asdict(self)
        members["totals"]["usage"] = self.totals.usage._asdict()
        return members

    def of_this(self, job: Job, fingerprint: str) -> bool:
        """The same rows, and the same question about them."""
        return bool(fingerprint) and self.input == fingerprint and self.question == job.question

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    def may_have_expired(self, wish: Wish) -> bool:
        """Whether it takes a look row by row to know that no answer has expired."""
        return wish.expired_before is not None and (self.oldest is None or self.oldest < wish.expired_before)

    def plan(self) -> Plan:
        """What a plain rerun would do."""
        return Plan(
            rows=self.rows,
            done=self.rows - self.failed,
            new=0,
            changed=0,
            failed_again=self.transient,
            failed_kept=self.failed - self.transient,
            removed=self.removed,
            again=0,
        )


def keys_name(job: Job, fingerprint: str) -> str:
    """What a kept list of keys belongs to."""
    return f"{fingerprint} {job.question}"


def list_keys(job: Job, known: Keys | None, tick: Callable[[int], None] = lambda rows: None) -> Keys:
    """The keys of all rows: the kept list, or made by rendering every row."""
    return _listed(job, no_keys(job), tick) if known is None else known


def _listed(job: Job, keys: Keys, tick: Callable[[int], None] = lambda rows: None) -> Keys:
    for rows in job.source.rows(job.used):
        for row in rows:
            keys.add(row.id, job.asked(row))
        tick(len(keys))
    return keys


def no_keys(job: Job, *, dedupe: bool | None = None) -> Keys:
    """To be filled as the rows are rendered."""
    return Keys(
        has_ids=_has_ids(job),
        dedupe=job.spec.dedupe if dedupe is None else dedupe,
        folder=os.path.join(job.folder, CHECKPOINT),
        rows=job.source.counted or 0,
    )


def kept_keys(job: Job, files: Files, path: str, fingerprint: str) -> Keys | None:
    if not fingerprint:
        return None
    name = keys_name(job, fingerprint)
    return Keys.load(files, path, name, has_ids=_has_ids(job), dedupe=job.spec.dedupe)


@dataclass(frozen=True, slots=True)
class Looked:
    """The rows of the input, all of them or the first, beside what the checkpoint knows of them."""

    keys: Keys
    rows: int  # of the whole input; those behind the keys have never been asked
    standing: Standing
    gone: Ranged


def go_on(job: Job, files: Files, layout: Layout, fingerprint: str, snapshot: Snapshot) -> Looked | None:
    """Where a first run was cut off: its list of keys, which ends with the last rows that it drew. None where there is
    no such list, or not every record is of a row in it."""
    if not fingerprint or job.spec.dedupe or job.attach.reads_files:
        return None
    keys = no_keys(job)
    rows = keys.go_on(files, layout.begun, keys_name(job, fingerprint))
    if rows is None:
        return None
    drawn = snapshot.last_ordinal() + 1
    for batch in job.source.rows(job.used, len(keys)) if len(keys) < drawn else ():
        for row in batch[: drawn - len(keys)]:
            keys.add(row.id, job.asked(row))
        if len(keys) >= drawn:
            break
    standing, gone = stand(keys, snapshot)
    # Keys are distinct: when every record is of one of these rows, none is of a row behind them.
    return None if gone.height else Looked(keys, rows, standing, gone)


def make(
    job: Job,
    standing: Standing,
    gone: Ranged,
    snapshot: Snapshot | None,
    *,
    wish: Wish,
    asked_before: str,
    rows: int | None = None,
) -> Plan:
    """Count what a run would do. ``asked_before``: the job's question when it last ran, empty for a new one. ``rows``:
    of the whole input, where ``standing`` is of its first rows and the rest has never been asked."""
    unknown, done = pl.col("answered").is_null(), pl.col("answered").fill_null(False)
    counted = standing.count(
        first=pl.col("ordinal").is_not_null(),
        done=done,
        unknown=unknown,
        failed_again=wish.to_do() & ~unknown & ~done,
        expired=wish.expired(),
    )
    failed = counted["first"] - counted["done"] - counted["unknown"]
    changed = _changed(job, standing, counted["unknown"], gone, snapshot)
    behind = 0 if rows is None else rows - standing.table.height
    return Plan(
        rows=standing.table.height + behind,
        done=counted["done"],
        new=counted["unknown"] - changed + behind,
        changed=changed,
        failed_again=counted["failed_again"],
        failed_kept=failed - counted["failed_again"],
        removed=max(0, gone.height - changed),
        again=_again(job, standing, counted["unknown"], gone, snapshot, asked_before),
        expired=counted["expired"],
        expired_again=counted["expired"] if wish.refresh_expired else 0,
        copies=standing.table.height - counted["first"],
    )


def _again(
    job: Job, standing: Standing, unknown: int, gone: Ranged, snapshot: Snapshot | None, asked_before: str
) -> int:
    """Requests for rows that have their answer under the question ``asked_before``."""
    if asked_before in ("", job.question):
        return 0
    if asked_before == job.question_if(dedupe=not job.spec.dedupe):
        # The rows are known by other keys, and nothing else has changed: those keys tell exactly.
        before, _ = stand(_listed(job, no_keys(job, dedupe=not job.spec.dedupe)), snapshot)
        answered = before.each(pl.col("answered"))
        both = int.from_bytes(answered) & int.from_bytes(standing.unknown())
        return both.bit_count()
    answers = gone.filter(pl.col("answered"))
    # Without ids, or under other ones, nobody can tell which answers were these rows': as many as may be.
    comparable = _has_ids(job) and same_ids(asked_before, job.question)
    return _changed(job, standing, unknown, answers, snapshot) if comparable else min(unknown, answers.height)


def since_last_run(plan: Plan, gone: Ranged | None, listed_before: Keys | None) -> dict[str, int]:
    """The rows of the input beside those of the last run: kept (the same question was asked before), new, changed;
    and gone, of the questions that the last run had listed. Of rows that share a question the first alone counts."""
    kept = plan.rows - plan.copies - plan.new - plan.changed
    left = 0 if gone is None else gone.height
    if gone is not None and listed_before is not None:
        left = count_listed(gone, listed_before)
    return {"kept": kept, "new": plan.new, "changed": plan.changed, "gone": max(0, left - plan.changed)}


def _has_ids(job: Job) -> bool:
    return job.spec.input.id is not None


def _changed(job: Job, standing: Standing, unknown: int, gone: Ranged, snapshot: Snapshot | None) -> int:
    """Rows without a known key whose id has one under another question. Without ids an edit is a new row."""
    if snapshot is None or not _has_ids(job) or not unknown or not gone.height:
        return 0
    return count_named(_ids(job, standing.unknown()), gone, snapshot)


def _ids(job: Job, asked: bytes) -> Iterator[pl.Series]:
    """Ids of the rows whose byte is 1."""
    begin, end = asked.find(1), asked.rfind(1) + 1
    for ids in job.source.ids(begin):
        if begin >= end:
            return
        yield ids.filter(pl.Series(asked[begin : begin + ids.len()], dtype=pl.UInt8) == 1)
        begin += ids.len()
