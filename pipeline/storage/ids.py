"""Do the ids name rows? Empty ones and repeated ones are found in bounded memory.

First the 64-bit hashes are compared, of a long table those of one shelf at a time; only where two agree are the ids
themselves looked at, in a second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import polars as pl

from pipeline.storage.files import Files
from pipeline.storage.ranged import RANGE_ROWS
from pipeline.storage.scratch import Scratch, Shelves

SHOWN = 10
_LOOKED_AT = 1_000
"""Rows whose hash repeats that one exact pass looks at; bounds its memory when nearly every id is repeated."""

_MOST_REPEATS = 1_000_000
_SHELVES = 64
_HASHES = {"hash": pl.UInt64(), "row": pl.UInt32()}

Batches = Callable[[], Iterator[tuple[pl.Series, pl.Series]]]
"""Gives a fresh pass over (ids as text, positions of their rows)."""


@dataclass(frozen=True, slots=True)
class Offenders:
    """What is wrong with the ids: counts, and the first ten by position."""

    empty: int
    empty_at: tuple[int, ...]
    repeated: int
    repeated_at: tuple[tuple[str, int, int], ...]  # id, row that had it first, row that repeats it


def find_offenders(
    batches: Batches, hashed: Callable[[pl.Series], pl.Series] = pl.Series.hash, range_rows: int = RANGE_ROWS
) -> Offenders:
    """Raises StorageError where the disk has no room for the hashes."""
    empty, empty_at, hashes = 0, list[int](), _Hashes(range_rows)
    for ids, rows in batches():
        blank = (ids.is_null() | (ids == "")).fill_null(True)
        if count := int(blank.sum()):
            empty += count
            empty_at += rows.filter(blank).head(SHOWN - len(empty_at)).to_list()
        hashes.add(hashed(ids.filter(~blank)), rows.filter(~blank))
    repeats = hashes.repeats()
    found = _look(batches, hashed, repeats) if repeats.len() else []
    return Offenders(empty, tuple(empty_at), hashes.repeated if found else 0, tuple(found))


class _Hashes:
    """Of ids, with their rows: in memory up to a range, then spread over shelves by what they are."""

    def __init__(self, range_rows: int) -> None:
        self.repeated = 0  # rows whose hash occurred before; counted by ``repeats``
        self._range_rows = range_rows
        self._held: list[pl.DataFrame] = []
        self._height = 0
        self._shelves: Shelves | None = None

    def add(self, hashes: pl.Series, rows: pl.Series) -> None:
        self._held.append(pl.DataFrame({"hash": hashes, "row": rows}).cast(pl.Schema(_HASHES)))
        self._height += hashes.len()
        if self._height > self._range_rows:
            self._put_out()

    def _put_out(self) -> None:
        if self._shelves is None:
            self._shelves = Shelves(Scratch.new(Files(), None), _HASHES)
        self._shelves.spread(pl.concat(self._held), pl.col("hash") % _SHELVES)
        self._held.clear()
        self._height = 0

    def repeats(self) -> pl.Series:
        """The hashes that occurred before, in input order: the first million of them."""
        found = [pl.DataFrame(schema=_HASHES)]
        for frame in self._frames():
            again = _repeats(frame)
            self.repeated += again.height
            found = [pl.concat([*found, again]).sort("row").head(_MOST_REPEATS)]
        return found[0]["hash"]

    def _frames(self) -> Iterator[pl.DataFrame]:
        if self._shelves is None:
            yield pl.concat([pl.DataFrame(schema=_HASHES), *self._held])
            return
        if self._held:
            self._put_out()
        yield from map(self._shelves.get, self._shelves)


def _repeats(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows whose hash occurred before. Sorting is the cheap test for whether there are any."""
    ordered = frame["hash"].sort()
    if not (ordered == ordered.shift(1)).any():
        return frame.clear()
    return frame.filter(~pl.col("hash").is_first_distinct())


def _look(batches: Batches, hashed: Callable[[pl.Series], pl.Series], repeats: pl.Series) -> list[tuple[str, int, int]]:
    for suspects in (repeats[i : i + _LOOKED_AT].unique() for i in range(0, repeats.len(), _LOOKED_AT)):
        found = _exact(batches, hashed, suspects)
        if found:
            return found
    return []


def _exact(
    batches: Batches, hashed: Callable[[pl.Series], pl.Series], suspects: pl.Series
) -> list[tuple[str, int, int]]:
    first: dict[str, int] = {}
    found: list[tuple[str, int, int]] = []
    for ids, rows in batches():
        mask = hashed(ids).is_in(suspects.implode())
        for name, row in zip(ids.filter(mask).to_list(), rows.filter(mask).to_list(), strict=True):
            if not name:
                continue
            if name in first:
                found.append((name, first[name], row))
            first.setdefault(name, row)
            if len(found) == SHOWN:
                return found
    return found
