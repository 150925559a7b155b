"""Parquet in, frames of its own types out: slices of a lazy scan, which polars reads without the rest of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import polars as pl

from pipeline.errors import InputError
from pipeline.storage.blocks import first_line, is_remote, require_file

T = TypeVar("T")

SLICE_BYTES = 16 << 20
FIRST_ROWS, MAX_ROWS = 1_000, 50_000
"""Measured on rows of 200 characters: slices of 50,000 rows cost a fifth more CPU than whole row groups, and keep a
file that is one huge row group bounded. Wider rows get shorter slices."""


class ParquetTable:
    """One Parquet file; or, at a remote address, whatever polars finds there."""

    blank_lines = 0

    def __init__(self, path: str) -> None:
        self.path = path
        if not is_remote(path):
            require_file(path)
        self.schema: dict[str, pl.DataType] = dict(self._guarded(lambda: self._scan().collect_schema()))
        self._rows: int | None = None

    def frames(self, columns: Sequence[str], start: int = 0) -> Iterator[pl.DataFrame]:
        rows, count = FIRST_ROWS, self.count()
        while start < count:
            frame = self._slice(columns, start, rows)
            if not frame.height:
                raise InputError(f"{self.path} ends at row {start} and says it has {count}; has it been written to?")
            yield frame
            start += frame.height
            per_row = frame.estimated_size() / frame.height
            rows = max(1, min(MAX_ROWS, int(SLICE_BYTES / max(per_row, 1))))

    def count(self) -> int:
        if self._rows is None:
            self._rows = self._guarded(lambda: int(self._scan().select(pl.len()).collect().item()))
        return self._rows

    def place(self, row: int) -> str:
        return f"row {row + 1}"

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_parquet(self.path, glob=is_remote(self.path), hive_partitioning=False)

    def _slice(self, columns: Sequence[str], start: int, rows: int) -> pl.DataFrame:
        return self._guarded(lambda: self._scan().select(columns).slice(start, rows).collect())

    def _guarded(self, read: Callable[[], T]) -> T:
        try:
            return read()
        # A flipped bit may make polars panic, and its PanicException is no Exception.
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as exc:
            raise InputError(
                f"{self.path} cannot be read as Parquet ({first_line(exc)}); if it is Parquet, it is damaged: "
                "write or fetch it again"
            ) from exc
