"""A table in ranges of rows, of which one at a time is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import polars as pl

from pipeline.storage.scratch import Shelves

RANGE_ROWS = 1 << 16
"""A range with all that is made of it takes about 20 MB."""


class Ranged:
    """Walked as often as asked, each time in the same order."""

    def __init__(
        self, frames: Callable[[], Iterator[pl.DataFrame]], schema: Mapping[str, pl.DataType], height: int | None = None
    ) -> None:
        self.schema = dict(schema)
        self._frames = frames
        self._height = height

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Ranged:
        return cls(lambda: iter([frame]), frame.schema, frame.height)

    @classmethod
    def on(cls, shelves: Shelves) -> Ranged:
        return cls(lambda: map(shelves.get, shelves), shelves.schema, shelves.height)

    @property
    def columns(self) -> list[str]:
        return list(self.schema)

    @property
    def height(self) -> int:
        if self._height is None:
            self._height = sum(frame.height for frame in self._frames())
        return self._height

    def frames(self) -> Iterator[pl.DataFrame]:
        """Raises StorageError where the disk fails us."""
        return self._frames()

    def filter(self, wanted: pl.Expr) -> Ranged:
        return Ranged(lambda: (frame.filter(wanted) for frame in self._frames()), self.schema)

    def any(self, true: pl.Expr) -> bool:
        return any(bool(frame.select(true.any()).item()) for frame in self._frames())

    def whole(self) -> pl.DataFrame:
        """All of it at once, in about 40 bytes a row."""
        return pl.concat([pl.DataFrame(schema=self.schema), *self._frames()])


def gathered(frames: Iterable[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """The same rows in frames of at least so many, but for the last."""
    held: list[pl.DataFrame] = []
    count = 0
    for frame in frames:
        held.append(frame)
        count += frame.height
        if count >= rows:
            yield pl.concat(held)
            held.clear()
            count = 0
    if held:
        yield pl.concat(held)


def cut(frames: Iterable[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """The same rows in frames of exactly so many, but for the last; each in one piece of memory."""
    held: list[pl.DataFrame] = []
    missing = rows
    for frame in frames:
        rest = frame
        while rest.height:
            held.append(rest[:missing])
            rest = rest[missing:]
            missing -= held[-1].height
            if not missing:
                yield pl.concat(held)
                held.clear()
                missing = rows
    if held:
        yield pl.concat(held)


class Cursor:
    """Takes the rows of a table from its front, in whatever portions."""

    def __init__(self, table: Ranged) -> None:
        self._frames = table.frames()
        self._held = pl.DataFrame(schema=table.schema)

    def take(self, rows: int) -> pl.DataFrame:
        """So many rows; fewer at the end."""
        taken = [self._held[:rows]]
        missing = rows - taken[0].height
        self._held = self._held[rows:]
        while missing and (frame := next(self._frames, None)) is not None:
            taken.append(frame[:missing])
            self._held = frame[missing:]
            missing -= taken[-1].height
        return taken[0] if len(taken) == 1 else pl.concat(taken)
