"""Do the ids name rows? Empty ones and repeated ones are found with 8 bytes of memory a row.

First the 64-bit hashes are compared; only where two agree are the ids themselves looked at, in a second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import polars as pl

SHOWN = 10
_LOOKED_AT = 1_000
"""Rows whose hash repeats that one exact pass looks at; bounds its memory when nearly every id is repeated."""

Batches = Callable[[], Iterator[tuple[pl.Series, pl.Series]]]
"""Gives a fresh pass over (ids as text, positions of their rows)."""


@dataclass(frozen=True, slots=True)
class Offenders:
    """What is wrong with the ids: counts, and the first ten by position."""

    empty: int
    empty_at: tuple[int, ...]
    repeated: int
    repeated_at: tuple[tuple[str, int, int], ...]  # id, row that had it first, row that repeats it


def find_offenders(batches: Batches, hashed: Callable[[pl.Series], pl.Series] = pl.Series.hash) -> Offenders:
    empty, empty_at, hashes = 0, list[int](), list[pl.Series]()
    for ids, rows in batches():
        blank = (ids.is_null() | (ids == "")).fill_null(True)
        if count := int(blank.sum()):
            empty += count
            empty_at += rows.filter(blank).head(SHOWN - len(empty_at)).to_list()
        hashes.append(hashed(ids.filter(~blank)))
    repeats = _repeats(hashes)
    found = _look(batches, hashed, repeats) if repeats.len() else []
    return Offenders(empty, tuple(empty_at), repeats.len() if found else 0, tuple(found))


def _repeats(hashes: list[pl.Series]) -> pl.Series:
    """The hashes that occurred before, in input order. Sorting is the cheap test for whether there are any."""
    if not hashes:
        return pl.Series(dtype=pl.UInt64)
    every = pl.concat(hashes)
    ordered = every.sort()
    if not (ordered == ordered.shift(1)).any():
        return every.clear()
    return every.filter(~every.is_first_distinct())


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
