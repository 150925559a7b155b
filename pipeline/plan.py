"""What a run would do, before it does it: the keys of the input against the keys of the checkpoint.

All in columns: a row costs a few dozen bytes here, whatever it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import polars as pl

from pipeline.drift import Drift
from pipeline.errors import SpecError
from pipeline.job import Job, same_ids
from pipeline.ledger import Totals
from pipeline.records import Usage
from pipeline.storage.files import Files
from pipeline.storage.keys import Keys
from pipeline.storage.output import COPY
from pipeline.storage.snapshot import STANDING_SCHEMA, Snapshot

ALL_KINDS = "all"


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
class Wish:
    """What a run does beyond sending what has no answer. ``expired_before``: answers older than this moment (seconds
    since 1970) have expired; None: the spec declares no age."""

    retry_failed: str | None = None  # None, ALL_KINDS, or a kind
    expired_before: float | None = None
    refresh_expired: bool = False

    @classmethod
    def of(cls, job: Job, now: float, retry_failed: str | None, *, refresh_expired: bool) -> Wish:
        """Raises SpecError for ``--refresh-expired`` without an age."""
        age_s = job.expire_s
        if refresh_expired and age_s is None:
            raise SpecError(
                "--refresh-expired: the spec does not say when an answer expires; write for example `expire: 30d`"
            )
        return cls(retry_failed, None if age_s is None else now - age_s, refresh_expired)

    def expired(self) -> pl.Expr:
        if self.expired_before is None:
            return pl.lit(False)
        return pl.col("answered").fill_null(False) & (pl.col("at") < self.expired_before)

    def renews(self) -> pl.Expr:
        """The row has an answer, and is asked all the same."""
        return self.expired() if self.refresh_expired else pl.lit(False)

    def to_do(self) -> pl.Expr:
        known = pl.col("answered")
        again = ~pl.col("permanent")
        if self.retry_failed == ALL_KINDS:
            again = pl.lit(True)
        elif self.retry_failed is not None:
            again = again | (pl.col("kind") == self.retry_failed)
        return known.is_null() | (~known & again) | self.renews()


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


@dataclass(frozen=True, slots=True)
class Standing:
    """Each input row beside what the checkpoint knows of it. Columns: ordinal, key and STANDING_SCHEMA's."""

    table: pl.DataFrame

    def each(self, asked: pl.Expr) -> bytes:
        """One truth value per ordinal, 0 or 1."""
        return bytes(self.table.select("ordinal", asked.alias("asked"))["asked"].cast(pl.UInt8).to_list())

    def to_do(self, wish: Wish) -> bytes:
        """Which rows are to be sent: of those that share a request the first."""
        asked = wish.to_do()
        return self.each(asked & ~pl.col(COPY) if COPY in self.table.columns else asked)

    def expired(self, wish: Wish) -> int:
        return int(self.table.filter(wish.expired()).height)

    def oldest(self) -> int | None:
        """When the oldest answer came; None when there is none."""
        found: int | None = self.table.filter("answered")["at"].min()  # type: ignore[assignment]
        return found


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
    return Keys(has_ids=_has_ids(job), dedupe=job.spec.dedupe if dedupe is None else dedupe)


def kept_keys(job: Job, files: Files, path: str, fingerprint: str) -> Keys | None:
    if not fingerprint:
        return None
    name = keys_name(job, fingerprint)
    return Keys.load(files, path, name, has_ids=_has_ids(job), dedupe=job.spec.dedupe)


def stand(keys: Keys, snapshot: Snapshot | None) -> tuple[Standing, pl.DataFrame]:
    """Rows beside what is known of them, and the checkpoint's keys that no row has any more."""
    known = snapshot.standing() if snapshot is not None else pl.DataFrame(schema=STANDING_SCHEMA)
    rows = keys.frame()
    table = rows.join(known, on="key", how="left", maintain_order="left")
    gone = known.join(rows, on="key", how="anti")
    return Standing(table), gone


def make(
    job: Job,
    standing: Standing,
    gone: pl.DataFrame,
    snapshot: Snapshot | None,
    *,
    wish: Wish,
    asked_before: str,
) -> Plan:
    """Count what a run would do. ``asked_before``: the job's question when it last ran, empty for a new one."""
    table = standing.table
    if COPY in table.columns:
        table = table.filter(~pl.col(COPY))
    marked = table.select(
        pl.col("answered").fill_null(False).alias("done"),
        pl.col("answered").is_null().alias("unknown"),
        wish.to_do().alias("to_do"),
        wish.expired().alias("expired"),
        "ordinal",
    )
    done = int(marked["done"].sum())
    unknown = int(marked["unknown"].sum())
    failed = table.height - done - unknown
    failed_again = int((marked["to_do"] & ~marked["unknown"] & ~marked["done"]).sum())
    expired = int(marked["expired"].sum())
    unknown_rows = marked.filter("unknown")["ordinal"]
    changed = _changed(job, unknown_rows, gone, snapshot)
    return Plan(
        rows=standing.table.height,
        done=done,
        new=unknown - changed,
        changed=changed,
        failed_again=failed_again,
        failed_kept=failed - failed_again,
        removed=max(0, gone.height - changed),
        again=_again(job, unknown_rows, gone, snapshot, asked_before),
        expired=expired,
        expired_again=expired if wish.refresh_expired else 0,
        copies=standing.table.height - table.height,
    )


def _again(job: Job, unknown: pl.Series, gone: pl.DataFrame, snapshot: Snapshot | None, asked_before: str) -> int:
    """Requests for rows that have their answer under the question ``asked_before``."""
    if asked_before in ("", job.question):
        return 0
    if asked_before == job.question_if(dedupe=not job.spec.dedupe):
        # The rows are known by other keys, and nothing else has changed: those keys tell exactly.
        before, _ = stand(_listed(job, no_keys(job, dedupe=not job.spec.dedupe)), snapshot)
        answered = before.table.filter(pl.col("answered").fill_null(False))["ordinal"]
        return int(unknown.is_in(answered.implode()).sum())
    answers = gone.filter("answered")
    # Without ids, or under other ones, nobody can tell which answers were these rows': as many as may be.
    comparable = _has_ids(job) and same_ids(asked_before, job.question)
    return _changed(job, unknown, answers, snapshot) if comparable else min(unknown.len(), answers.height)


def since_last_run(plan: Plan, gone: pl.DataFrame | None, listed_before: Keys | None) -> dict[str, int]:
    """The rows of the input beside those of the last run: kept (the same question was asked before), new, changed;
    and gone, of the questions that the last run had listed. Of rows that share a question the first alone counts."""
    kept = plan.rows - plan.copies - plan.new - plan.changed
    left = 0 if gone is None else gone.height
    if gone is not None and listed_before is not None:
        left = gone.join(listed_before.frame(), on="key", how="semi").height
    return {"kept": kept, "new": plan.new, "changed": plan.changed, "gone": max(0, left - plan.changed)}


def _has_ids(job: Job) -> bool:
    return job.spec.input.id is not None


def _changed(job: Job, unknown: pl.Series, gone: pl.DataFrame, snapshot: Snapshot | None) -> int:
    """Rows without a known key whose id has one under another question. Without ids an edit is a new row."""
    if snapshot is None or not _has_ids(job) or unknown.is_empty() or gone.is_empty():
        return 0
    wanted = snapshot.ids(gone)
    count = 0
    place = 0
    waiting = iter(unknown)
    current = next(waiting, None)
    for rows in job.source.rows(()):
        end = place + len(rows)
        while current is not None and current < end:
            count += rows[current - place].id in wanted
            current = next(waiting, None)
        if current is None:
            break
        place = end
    return count
