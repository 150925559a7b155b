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


def cut(frames: Iterable[pl.DataFrame], rows: int, most_bytes: int) -> Iterator[pl.DataFrame]:
    """The same rows in frames of so many; of fewer where their texts come to ``most_bytes``, and at the end. Where the
    cuts are depends on the rows alone."""
    held: list[pl.DataFrame] = []
    count = size = 0
    text_bytes: pl.Expr | None = None
    for frame in frames:
        if text_bytes is None:
            text_bytes = _text_bytes(frame.schema)
        sizes = frame.select(text_bytes.cum_sum()).to_series()
        begin = before = 0
        while begin < frame.height:
            reached = sizes.search_sorted(before + most_bytes - size) + 1
            end = min(begin + rows - count, reached, frame.height)
            held.append(frame[begin:end])
            count += end - begin
            size += sizes[end - 1] - before
            begin, before = end, sizes[end - 1]
            if count == rows or size >= most_bytes:
                count = size = 0
                yield _taken(held)
    if held:
        yield _taken(held)


def _taken(held: list[pl.DataFrame]) -> pl.DataFrame:
    """All in one; they may be large, and nobody holds them any longer."""
    whole = pl.concat(held)
    held.clear()
    return whole


def _text_bytes(schema: Mapping[str, pl.DataType]) -> pl.Expr:
    """Of each row, in texts, bytes and lists of texts."""
    sizes = [pl.repeat(0, pl.len(), dtype=pl.Int64)]
    for name, kind in schema.items():
        if kind == pl.String:
            sizes.append(pl.col(name).str.len_bytes())
        elif kind == pl.Binary:
            sizes.append(pl.col(name).bin.size())
        elif kind == pl.List(pl.String):
            sizes.append(pl.col(name).list.eval(pl.element().str.len_bytes()).list.sum())
    return pl.sum_horizontal(sizes)


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
