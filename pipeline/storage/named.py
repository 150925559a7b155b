"""Sets of rows held against each other by key or by id, in bounded memory: spread over shelves beyond one range."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from pipeline.storage.files import Files
from pipeline.storage.keys import Keys
from pipeline.storage.ranged import RANGE_ROWS, Ranged, gathered
from pipeline.storage.scratch import Scratch, Shelves
from pipeline.storage.snapshot import Snapshot

_KEY, _ID = {"key": pl.Int128()}, {"id": pl.String()}


def count_listed(gone: Ranged, listed: Keys, range_rows: int = RANGE_ROWS) -> int:
    """How many of some keys, each once, a list holds. Raises StorageError."""
    if gone.height <= range_rows:
        rest = gone.whole().select("key")
        for frame in listed.frames(range_rows):
            rest = rest.join(frame, on="key", how="anti")
        return gone.height - rest.height
    shelves = _shelves_for(max(gone.height, len(listed)), range_rows)
    shelf = pl.col("key").cast(pl.UInt64, wrap_numerical=True) % shelves
    ours, theirs = (Shelves(Scratch.new(Files(), listed.folder), _KEY) for _ in range(2))
    for frame in gone.frames():
        ours.spread(frame.select("key"), shelf)
    for frame in listed.frames(range_rows):
        theirs.spread(frame.select("key"), shelf)
    return sum(ours.get(number).join(theirs.get(number), on="key", how="semi").height for number in ours)


def count_named(ids: Iterator[pl.Series], records: Ranged, snapshot: Snapshot, range_rows: int = RANGE_ROWS) -> int:
    """How many of some ids are those of records (piece, place). Raises StorageError."""
    if records.height <= range_rows:
        wanted = snapshot.ids(records.whole()).implode()
        return sum(int(some.is_in(wanted).sum()) for some in ids)
    shelf = pl.col("id").hash() % _shelves_for(records.height, range_rows)
    ours, theirs = (Shelves(Scratch.new(snapshot.files, snapshot.layout.folder), _ID) for _ in range(2))
    for frame in _ids_of(records, snapshot, range_rows):
        theirs.spread(frame, shelf)
    for frame in gathered((some.alias("id").to_frame() for some in ids), range_rows):
        ours.spread(frame, shelf)
    return sum(int(ours.get(number)["id"].is_in(theirs.get(number)["id"].implode()).sum()) for number in ours)


def _ids_of(records: Ranged, snapshot: Snapshot, range_rows: int) -> Iterator[pl.DataFrame]:
    """In the order of the pieces, so that each is read once."""
    pieces = max(1, len(snapshot) // _shelves_for(records.height, range_rows))
    places = Shelves(Scratch.new(snapshot.files, snapshot.layout.folder), {"piece": pl.UInt32(), "place": pl.UInt32()})
    for frame in records.frames():
        places.spread(frame, pl.col("piece") // pieces)
    for number in places:
        yield snapshot.ids(places.get(number)).alias("id").to_frame()


def _shelves_for(rows: int, range_rows: int) -> int:
    return -(-rows // range_rows)
