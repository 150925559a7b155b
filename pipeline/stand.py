"""How each row of the input stands, range by range: what is known of it, and what a run wishes to do about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import polars as pl

from pipeline.errors import SpecError
from pipeline.job import Job
from pipeline.records import Status
from pipeline.storage.keys import Keys
from pipeline.storage.output import COPY
from pipeline.storage.ranged import RANGE_ROWS, Ranged
from pipeline.storage.snapshot import Snapshot
from pipeline.storage.standing import beside

ALL_KINDS = "all"


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
class Standing:
    """Each input row beside what the checkpoint knows of it. Columns: ordinal, key and STANDING_SCHEMA's."""

    table: Ranged

    def each(self, *asked: pl.Expr) -> bytes:
        """One byte per ordinal: 0, plus 1 where the first is true, 2 where the second is, and so on."""
        bits = pl.sum_horizontal(
            (one.fill_null(False).cast(pl.UInt8) * (1 << place)).alias(str(place)) for place, one in enumerate(asked)
        )
        every = bytearray()
        for frame in self.table.frames():
            every += bytes(frame.select("ordinal", bits.cast(pl.UInt8).alias("bits"))["bits"].to_list())
        return bytes(every)

    def count(self, **true: pl.Expr) -> dict[str, int]:
        """For how many rows each is true; of those that share a request the first alone counts."""
        counts = dict.fromkeys(true, 0)
        sums = [(self._first() & one).sum().alias(name) for name, one in true.items()]
        for frame in self.table.frames():
            for name, found in frame.select(sums).row(0, named=True).items():
                counts[name] += found
        return counts

    def unknown(self) -> bytes:
        """One byte per ordinal: 1 where nothing is known of the row, nor of one that it shares its request with."""
        return self.each(self._first() & pl.col("answered").is_null())

    def _first(self) -> pl.Expr:
        return ~pl.col(COPY) if COPY in self.table.columns else pl.col("ordinal").is_not_null()

    def to_do(self, wish: Wish) -> pl.Expr:
        """Which rows are to be sent: of those that share a request the first."""
        return wish.to_do() & self._first()

    def left_alone(self, wish: Wish) -> Ranged:
        """The others, of those that share a request the first."""
        return self.table.filter(~wish.to_do() & self._first())

    def expired(self, wish: Wish) -> int:
        return self.table.filter(wish.expired()).height

    def oldest(self) -> int | None:
        """When the oldest answer came; None when there is none."""
        found = (frame.filter("answered")["at"].min() for frame in self.table.frames())
        return min((int(str(at)) for at in found if at is not None), default=None)

    def kinds(self) -> list[str]:
        """Of failures, in alphabetical order."""
        failed = self.table.filter(~pl.col("answered"))
        return sorted({str(kind) for frame in failed.frames() for kind in frame["kind"].unique().drop_nulls()})


def stand(keys: Keys, snapshot: Snapshot | None, range_rows: int = RANGE_ROWS) -> tuple[Standing, Ranged]:
    """Rows beside what is known of them, and the checkpoint's keys that no row has any more. Raises StorageError."""
    table, gone = beside(keys, snapshot, range_rows)
    return Standing(table), gone


def count_ended(table: Ranged) -> tuple[dict[str, int], dict[str, int], int]:
    """Rows by status, failed rows by kind, and how many of these a rerun tries again."""
    statuses, kinds, transient = Counter[str](), Counter[str](), 0
    for frame in table.frames():
        statuses.update(dict(frame.group_by(pl.col("status").fill_null("pending")).len().iter_rows()))
        failed = frame.filter(~pl.col("answered"))
        kinds.update(dict(failed.group_by("kind").len().iter_rows()))
        transient += int((~failed["permanent"]).sum())
    in_order = [status.value for status in Status if status in statuses]
    return {status: statuses[status] for status in in_order}, dict(sorted(kinds.items())), transient
