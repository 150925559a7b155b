"""The rows of the input beside what the checkpoint knows of them, joined by key in bounded memory.

Up to one range of rows it is a plain join. Beyond that, rows and records are spread by their key over shelves of a file
without a name, each shelf is joined alone, and what comes of it is brought back into ranges of rows in input order.
So it does not matter where a row stood when it was asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from pipeline.storage.files import Files
from pipeline.storage.keys import Keys, with_copies
from pipeline.storage.ranged import RANGE_ROWS, Ranged
from pipeline.storage.scratch import Scratch, Shelves
from pipeline.storage.snapshot import OUTCOME_SCHEMA, STANDING_SCHEMA, Snapshot, that_count

_KINDS = {
    "kind": pl.String(),
    "rows": pl.UInt32(),
    "permanent": pl.Boolean(),
    "piece": pl.UInt32(),
    "place": pl.UInt32(),
}
_ROWS = {"ordinal": pl.UInt32(), "key": pl.Int128()}


def beside(keys: Keys, snapshot: Snapshot | None, range_rows: int = RANGE_ROWS) -> tuple[Ranged, Ranged]:
    """One row per row of the input, in order: ordinal, key and what is known of it (``STANDING_SCHEMA``), with
    ``dedupe`` also copy. And the keys of the checkpoint that no row has any more. Raises StorageError."""
    records = 0 if snapshot is None else snapshot.records
    if max(len(keys), records) <= range_rows:
        known = pl.DataFrame(schema=STANDING_SCHEMA) if snapshot is None else snapshot.standing()
        table, gone = _joined(keys.frame(), known)
        return Ranged.of(table), Ranged.of(gone)
    return _Spread(keys, snapshot, range_rows).joined()


def standings(snapshot: Snapshot, range_rows: int = RANGE_ROWS) -> Ranged:
    """``Snapshot.standing`` in bounded memory; its keys in no order that means anything. Raises StorageError."""
    if snapshot.records <= range_rows:
        return Ranged.of(snapshot.standing())
    return _Spread(Keys(has_ids=True), snapshot, range_rows).joined()[1]


def by_kind(table: Ranged) -> pl.DataFrame:
    """Failures by kind, most frequent first: kind, rows, permanent, and piece and place of the one recorded first."""
    kinds = [pl.DataFrame(schema=_KINDS)]
    for frame in table.frames():
        failed = frame.filter(~pl.col("answered")).with_columns(pl.col("kind").cast(pl.String), pl.lit(1).alias("rows"))
        kinds = [_summed([*kinds, failed.select(list(_KINDS)).cast(pl.Schema(_KINDS))])]
    return kinds[0].sort(["rows", "kind"], descending=[True, False])


def _summed(kinds: list[pl.DataFrame]) -> pl.DataFrame:
    ordered = pl.concat(kinds).sort("piece", "place")
    firsts = (pl.col(name).first() for name in ("piece", "place"))
    return ordered.group_by("kind").agg(pl.col("rows").sum(), pl.col("permanent").all(), *firsts)


def _joined(rows: pl.DataFrame, known: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    table = rows.join(known, on="key", how="left", maintain_order="left")
    return table, known.join(rows, on="key", how="anti")


class _Spread:
    def __init__(self, keys: Keys, snapshot: Snapshot | None, range_rows: int) -> None:
        self.keys = keys
        self.snapshot = snapshot
        self.range_rows = range_rows
        records = 0 if snapshot is None else snapshot.records
        self.shelves = -(-max(len(keys), records) // range_rows)
        self.shelf = pl.col("key").cast(pl.UInt64, wrap_numerical=True) % self.shelves

    def joined(self) -> tuple[Ranged, Ranged]:
        gone = self._new(STANDING_SCHEMA)
        table = self._in_order(self._tables(gone))
        return Ranged.on(table), Ranged.on(gone)

    def _tables(self, gone: Shelves) -> Iterator[pl.DataFrame]:
        """Rows with what is known of them, shelf by shelf; in each in input order."""
        rows, found = self._rows(), self._found()
        for number in range(self.shelves):
            table, lost = _joined(with_copies(rows.get(number), dedupe=self.keys.dedupe), that_count(found.get(number)))
            gone.put(number, lost)
            yield table

    def _rows(self) -> Shelves:
        rows = self._new(_ROWS)
        for frame in self.keys.frames(self.range_rows):
            rows.spread(frame, self.shelf)
        return rows

    def _found(self) -> Shelves:
        found = self._new(OUTCOME_SCHEMA)
        for frame in self.snapshot.batches(self.range_rows) if self.snapshot is not None else ():
            found.spread(frame, self.shelf)
        return found

    def _in_order(self, tables: Iterator[pl.DataFrame]) -> Shelves:
        mixed = self._new(self._schema())
        for table in tables:
            mixed.spread(table, pl.col("ordinal") // self.range_rows)
        ordered = self._new(mixed.schema)
        for number in mixed:
            ordered.put(number, mixed.get(number).sort("ordinal"))
        return ordered

    def _schema(self) -> dict[str, pl.DataType]:
        copy = {"copy": pl.Boolean()} if self.keys.dedupe else {}
        known = {name: kind for name, kind in STANDING_SCHEMA.items() if name != "key"}
        return {**_ROWS, **copy, **known}

    def _new(self, schema: Mapping[str, pl.DataType]) -> Shelves:
        if self.snapshot is None:
            return Shelves(Scratch.new(Files(), None), schema)
        return Shelves(Scratch.new(self.snapshot.files, self.snapshot.layout.folder), schema)
