"""Labels in tables of results: how often each stands there, and which rows have another one than in an older table.

In columns and slice by slice; what is kept of a row is its key as a number, and the place of its label in a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from pipeline.drift import MOST_CHARACTERS, MOST_LABELS, Flips, Labels
from pipeline.errors import InputError, StorageError
from pipeline.records import Status
from pipeline.storage.files import Files
from pipeline.storage.output import folded
from pipeline.storage.parquet_reader import ParquetTable
from pipeline.storage.ranged import RANGE_ROWS, gathered
from pipeline.storage.scratch import Scratch, Shelves

_LABELLED = ("string", "integer", "boolean")
_OTHER = "\0other"
"""Stands for a value that is no label."""
_COUNTS = {"label": pl.String(), "rows": pl.UInt32()}


def label_columns(fields: Mapping[str, str | tuple[str, str]], prefix: str) -> dict[str, str]:
    """What may hold labels, and its column: fields of one text, whole number or truth; without fields the response."""
    if not fields:
        return {"response": prefix + "response"}
    return {name: prefix + name for name, kind in fields.items() if kind in _LABELLED}


@dataclass(slots=True)
class _ColumnTally:
    ok: int = 0
    others: int = 0
    counts: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_COUNTS))

    def add(self, labels: pl.Series) -> None:
        self.ok += labels.len()
        short = labels.filter(labels.str.len_chars() <= MOST_CHARACTERS)
        self.others += labels.len() - labels.null_count() - short.len()
        seen = pl.DataFrame({"label": short}).group_by("label", maintain_order=True).agg(pl.len().alias("rows"))
        both = pl.concat([self.counts, seen.cast(pl.Schema(_COUNTS))])
        all_counts = both.group_by("label", maintain_order=True).agg(pl.col("rows").sum())
        self.counts = all_counts.head(MOST_LABELS)
        self.others += int(all_counts["rows"][MOST_LABELS:].sum())

    def labels(self, column: str) -> Labels:
        ordered = self.counts.sort(["rows", "label"], descending=[True, False])
        return Labels(column, self.ok, dict(ordered.iter_rows()), self.others)


class Tally:
    """Counts of the labels of rows that are ``ok``, in the columns that ``label_columns`` named; ``status``: the column
    that says so."""

    def __init__(self, columns: Mapping[str, str], status: str) -> None:
        self.columns = dict(columns)
        self.status = status
        self._counts = {name: _ColumnTally() for name in columns}

    @property
    def looks_at(self) -> list[str]:
        """The columns of a table that ``add`` needs."""
        return [self.status, *self.columns.values()]

    def add(self, frame: pl.DataFrame) -> None:
        answered = frame.select(self.looks_at).filter(pl.col(self.status) == Status.OK)
        for name, column in self.columns.items():
            self._counts[name].add(answered.select(_text(name, column)).to_series())

    def labels(self) -> dict[str, Labels]:
        return {name: one.labels(self.columns[name]) for name, one in self._counts.items()}


def tally(frames: Iterable[pl.DataFrame], columns: Mapping[str, str], status: str) -> dict[str, Labels]:
    """The labels in all of ``frames``, as :class:`Tally` counts them."""
    counted = Tally(columns, status)
    for frame in frames:
        counted.add(frame)
    return counted.labels()


def slices(path: str, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Named columns of a table that a run has published. Raises InputError when it cannot be read."""
    return ParquetTable(path).frames(list(dict.fromkeys(columns)))


@dataclass(frozen=True, slots=True)
class Table:
    """A table of results, and what is known of it."""

    path: str
    status: str
    labels: Mapping[str, Labels]


def flips(
    before: Table, now: Table, names: Sequence[str], key: Sequence[str], *, unique: bool, range_rows: int = RANGE_ROWS
) -> tuple[Flips, ...]:
    """Rows of both tables whose label differs. ``key``: the columns that name a row; of equal ones the first is held
    against the first. Raises StorageError when a table cannot be read."""
    if not names:
        return ()
    known = {name: sorted({_OTHER, *before.labels[name].counts, *now.labels[name].counts}) for name in names}
    sums = [(0, 0)] * len(names)
    try:
        rows = max(ParquetTable(table.path).count() for table in (before, now))
        shelves = -(-rows // range_rows) or 1
        old, new = (_Keyed(gathered(_keys(table, known, key), range_rows), known, shelves) for table in (before, now))
        for shelf in old:
            both = old.join(shelf, new, unique=unique)
            sums = [(a + c, b + d) for (a, b), (c, d) in zip(sums, _compared(both, known), strict=True)]
    except (InputError, pl.exceptions.PolarsError, OSError, pl.exceptions.PanicException) as exc:
        why = (str(exc) or "unreadable").splitlines()[0][:200]
        raise StorageError(f"{before.path} and {now.path} cannot be compared: {why}") from exc
    return tuple(Flips(name, flipped, compared) for name, (compared, flipped) in zip(names, sums, strict=True))


def _compared(both: pl.DataFrame, known: Mapping[str, list[str]]) -> Iterator[tuple[int, int]]:
    """For each name: rows that have a label then and now, and those of them where it differs."""
    for name, labels in known.items():
        then, since, other = pl.col(name), pl.col(f"{name}\0now"), labels.index(_OTHER)
        labelled = then.is_not_null() & since.is_not_null() & ((then != other) | (since != other))
        yield both.select(labelled.sum(), (labelled & (then != since)).sum().alias("flipped")).row(0)


class _Keyed:
    """Keys of rows and their labels as numbers, spread over shelves by key."""

    def __init__(self, frames: Iterator[pl.DataFrame], labels: Iterable[str], shelves: int) -> None:
        self._shelves = Shelves(
            Scratch.new(Files(), None), {"key": pl.UInt64(), **{name: pl.UInt32() for name in labels}}
        )
        for frame in frames:
            self._shelves.spread(frame, pl.col("key") % shelves)

    def __iter__(self) -> Iterator[int]:
        return iter(self._shelves)

    def join(self, shelf: int, other: _Keyed, *, unique: bool) -> pl.DataFrame:
        ours, theirs = (each._numbered(shelf, unique=unique) for each in (self, other))
        return ours.join(theirs, on=["key", "again"], how="inner", suffix="\0now")

    def _numbered(self, shelf: int, *, unique: bool) -> pl.DataFrame:
        """With the number of a row among equals."""
        again = pl.lit(0, pl.UInt32) if unique else pl.int_range(pl.len(), dtype=pl.UInt32).over("key")
        return self._shelves.get(shelf).with_columns(again.alias("again"))


def _keys(table: Table, known: Mapping[str, list[str]], key: Sequence[str]) -> Iterator[pl.DataFrame]:
    """A row's key, and of each label its number."""
    named = pl.struct(pl.col(name).cast(pl.String) for name in key).hash(0).alias("key")
    ok = pl.col(table.status) == Status.OK
    labels = [
        pl.when(ok & text.is_not_null())
        .then(pl.when(text.is_in(labels)).then(text).otherwise(pl.lit(_OTHER)))
        .cast(pl.Enum(labels))
        .to_physical()
        .cast(pl.UInt32)
        .alias(name)
        for name, labels in known.items()
        for text in [_text(name, table.labels[name].column)]
    ]
    columns = [*key, table.status, *(table.labels[name].column for name in known)]
    for frame in slices(table.path, columns):
        yield frame.select(named, *labels)


def _text(name: str, column: str) -> pl.Expr:
    """The value as a label is written: a response in lower case and without blanks around, as gold labels see it."""
    text = pl.col(column).cast(pl.String)
    return (folded(text) if name == "response" else text).alias("label")
