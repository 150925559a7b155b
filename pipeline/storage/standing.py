"""The rows of the input beside what the checkpoint knows of them, joined by key in bounded memory.

Up to one range of rows it is a plain join. Beyond that each range of rows is joined to the records of rows that stood
in it when they were asked, which are nearly always those; the few strays are then looked for in all ranges. When too
many rows have moved, rows and records are spread by their key over shelves of a file without a name, each shelf is
joined alone, and what comes of it is brought back into ranges in input order.
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
_MOST_RECORDS = 3
"""Records that the rows of a range may have on average, when each range is joined in its place."""

_ROWS = {"ordinal": pl.UInt32(), "key": pl.Int128()}


def beside(keys: Keys, snapshot: Snapshot | None, range_rows: int = RANGE_ROWS) -> tuple[Ranged, Ranged]:
    """One row per row of the input, in order: ordinal, key and what is known of it (``STANDING_SCHEMA``), with
    ``dedupe`` also copy. And the keys of the checkpoint that no row has any more. Raises StorageError."""
    records = 0 if snapshot is None else snapshot.records
    if max(len(keys), records) <= range_rows:
        known = pl.DataFrame(schema=STANDING_SCHEMA) if snapshot is None else snapshot.standing()
        table, gone = _joined(keys.frame(), known)
        return Ranged.of(table), Ranged.of(gone)
    if snapshot is not None and not keys.dedupe:
        in_place = _InPlace(keys, snapshot, range_rows).joined()
        if in_place is not None:
            return in_place
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
    return _beside(rows, known), known.join(rows, on="key", how="anti")


def _beside(rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    return rows.join(known, on="key", how="left", maintain_order="left")


class _InPlace:
    """Each row has a key of its own here. So a record that is of no row of its range is of a row elsewhere, or of none;
    and all other records of a row are strays as well, or in the row's own range."""

    def __init__(self, keys: Keys, snapshot: Snapshot, range_rows: int) -> None:
        self.keys = keys
        self.snapshot = snapshot
        self.range_rows = range_rows

    def joined(self) -> tuple[Ranged, Ranged] | None:
        """None where that would take too much memory: many rows have moved, or have several records."""
        found, strays = self._found(), pl.DataFrame(schema=OUTCOME_SCHEMA)
        if not len(self.keys) or any(found.rows_on(shelf) > _MOST_RECORDS * self.range_rows for shelf in found):
            return None
        table = _new(self.snapshot, _schema(self.keys))
        for number, rows in enumerate(self.keys.frames(self.range_rows)):
            records = found.get(number)
            known = that_count(records)
            joined = _beside(rows, known)
            if joined.height - joined["piece"].null_count() < known.height:
                strays = pl.concat([strays, records.join(rows, on="key", how="anti")])
                if strays.height > self.range_rows:
                    return None
            table.put(number, joined)
        gone = self._home(strays, found, table) if strays.height else strays
        return Ranged.on(table), Ranged.of(that_count(gone))

    def _found(self) -> Shelves:
        found = _new(self.snapshot, OUTCOME_SCHEMA)
        last = max(0, len(self.keys) - 1) // self.range_rows
        for frame in self.snapshot.batches(self.range_rows):
            found.spread(frame, (pl.col("ordinal") // self.range_rows).clip(0, last))
        return found

    def _home(self, strays: pl.DataFrame, found: Shelves, table: Shelves) -> pl.DataFrame:
        """Joins the ranges anew that strays belong to; gives those that belong to none."""
        for number, rows in enumerate(self.keys.frames(self.range_rows)):
            ours = strays.join(rows, on="key", how="semi")
            if ours.height:
                strays = strays.join(ours, on="key", how="anti", maintain_order="left")
                records = pl.concat([found.get(number), ours]).sort("piece", "place")
                table.clear(number)
                table.put(number, _beside(rows, that_count(records)))
        return strays.sort("piece", "place")


class _Spread:
    def __init__(self, keys: Keys, snapshot: Snapshot | None, range_rows: int) -> None:
        self.keys = keys
        self.snapshot = snapshot
        self.range_rows = range_rows
        records = 0 if snapshot is None else snapshot.records
        self.shelves = -(-max(len(keys), records) // range_rows)
        self.shelf = pl.col("key").cast(pl.UInt64, wrap_numerical=True) % self.shelves

    def joined(self) -> tuple[Ranged, Ranged]:
        gone = _new(self.snapshot, STANDING_SCHEMA)
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
        rows = _new(self.snapshot, _ROWS)
        for frame in self.keys.frames(self.range_rows):
            rows.spread(frame, self.shelf)
        return rows

    def _found(self) -> Shelves:
        found = _new(self.snapshot, OUTCOME_SCHEMA)
        for frame in self.snapshot.batches(self.range_rows) if self.snapshot is not None else ():
            found.spread(frame, self.shelf)
        return found

    def _in_order(self, tables: Iterator[pl.DataFrame]) -> Shelves:
        mixed = _new(self.snapshot, _schema(self.keys))
        for table in tables:
            mixed.spread(table, pl.col("ordinal") // self.range_rows)
        ordered = _new(self.snapshot, mixed.schema)
        for number in mixed:
            ordered.put(number, mixed.get(number).sort("ordinal"))
        return ordered


def _schema(keys: Keys) -> dict[str, pl.DataType]:
    copy = {"copy": pl.Boolean()} if keys.dedupe else {}
    known = {name: kind for name, kind in STANDING_SCHEMA.items() if name != "key"}
    return {**_ROWS, **copy, **known}


def _new(snapshot: Snapshot | None, schema: Mapping[str, pl.DataType]) -> Shelves:
    if snapshot is None:
        return Shelves(Scratch.new(Files(), None), schema)
    return Shelves(Scratch.new(snapshot.files, snapshot.layout.folder), schema)
