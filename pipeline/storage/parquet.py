"""A table whole, or not at all: the parts of the checkpoint, and any table that a user is given.

Polars writes Parquet in place, without sync or rename, and its reader takes most flipped bits for data; so a part is
built in memory and written by us, and the manifest keeps its SHA-256.
"""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any, cast

import polars as pl
from polars.io.plugins import register_io_source

from pipeline.errors import StorageError
from pipeline.storage.files import ASIDE, Files, create, discard, publish, write_all
from pipeline.storage.noted import Save, lightened, unsaved

COMPRESSION_LEVEL = 1  # a third of level 3's time for 5 % more bytes
ROW_GROUP = 10_000
MANY_ROWS = 4_000_000
"""From here on row groups are twice as long: what polars notes of each until the file ends takes 50 kB of memory, as
measured with 13 columns, which a thousand groups would add up."""


LINE_SCHEMA: Mapping[str, pl.DataType] = {
    "e": pl.String(),
    "k": pl.String(),
    "n": pl.Int64(),
    "i": pl.String(),
    "s": pl.String(),
    "t": pl.String(),
    "x": pl.String(),
    "d": pl.String(),
    "f": pl.String(),
    "m": pl.String(),
    "r": pl.String(),
    "h": pl.Int32(),
    "u": pl.List(pl.Int64()),
    "b": pl.String(),
    "a": pl.Int32(),
    "l": pl.Float64(),
    "w": pl.Float64(),
    "g": pl.String(),
    "z": pl.String(),
    "p": pl.Boolean(),
    "j": pl.String(),
    "v": pl.String(),
    "q": pl.List(pl.Int64()),
    "o": pl.String(),
    "vt": pl.String(),
    "y": pl.Boolean(),
}
"""The members of a journal line, by their short names."""

_LONG = {
    # outcome | attempt (superseded by a later one, or lost in a crash) | kept (a paid reply in between) | media (what
    # came of an answer's links)
    "e": "event",
    "n": "ordinal",  # position in the input when it was sent; informative only
    "i": "id",
    "s": "status",
    "t": "text",
    "x": "kind",
    "d": "error",
    "f": "finish_reason",
    "m": "model",
    "r": "request_id",
    "h": "http_status",
    "b": "billed",
    "a": "attempts",
    "l": "latency_s",
    "w": "ended_at",  # wall clock, seconds since 1970
    "g": "reasoning",
    "z": "raw",
    "p": "permanent",
    "j": "fields",  # the typed answer, as JSON
    "v": "answer_step",
    "q": "earlier",  # token counts of the row's replies before this one, in the order of the columns below
    "vt": "votes",  # of several samples, as JSON: their texts, and the agreement by field
    "y": "renewed",  # of an outcome: it was asked for although the row had an answer
    "o": "media",  # what is said of an answer's media, as JSON; see noted.py
}
_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")
_EVENTS = {"o": "outcome", "t": "attempt", "k": "kept", "f": "media"}

PART_SCHEMA: Mapping[str, pl.DataType] = {
    "key": pl.Binary(),
    **{long: LINE_SCHEMA[short] for short, long in _LONG.items()},
    **{name: pl.Int64() for name in _USAGE},
}
"""Columns of a part, one row per record of its segment. ``key`` is 16 bytes."""

_LATER = frozenset({"renewed", "votes", "media"})
"""Columns that parts of earlier versions do not have: there they are null."""


def records_in(lines: Iterable[bytes]) -> list[bytes]:
    """What a part keeps of a segment's lines: outcomes, attempts and the like, not the marks of what was sent."""
    return [line for line in lines if line.startswith((b'{"e":"o"', b'{"e":"t"', b'{"e":"k"', b'{"e":"f"'))]


def table_of(lines: Iterable[bytes], save: Save = unsaved) -> pl.DataFrame:
    """The records among a segment's good lines, in file order, as a part holds them. ``save`` is handed each media
    file that the table names."""
    kept = [lightened(line, save) for line in records_in(lines)]
    if not kept:
        return pl.DataFrame(schema=PART_SCHEMA)
    frame = pl.read_ndjson(io.BytesIO(b"\n".join(kept)), schema=dict(LINE_SCHEMA))
    return frame.select(
        pl.col("k").str.decode("hex").alias("key"),
        pl.col("e").replace_strict(_EVENTS, return_dtype=pl.String()).alias("event"),
        *(pl.col(short).alias(long) for short, long in _LONG.items() if short != "e"),
        *(pl.col("u").list.get(place, null_on_oob=True).alias(name) for place, name in enumerate(_USAGE)),
    )


def part_bytes(table: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd", compression_level=COMPRESSION_LEVEL, row_group_size=ROW_GROUP)
    return buffer.getvalue()


def read_columns(path: str, columns: Iterable[str]) -> pl.DataFrame:
    """Named columns of a part. Raises StorageError where polars cannot make sense of the file."""
    wanted = list(columns)
    try:
        try:
            return _read(path, wanted)
        except pl.exceptions.ColumnNotFoundError:
            there = pl.read_parquet_schema(path)
            old = _read(path, [name for name in wanted if name in there or name not in _LATER])
            none = (pl.lit(None, PART_SCHEMA[name]).alias(name) for name in wanted if name not in old.columns)
            return old.with_columns(none).select(wanted)
    except (pl.exceptions.PolarsError, OSError, pl.exceptions.PanicException) as exc:
        raise StorageError(f"{path} cannot be read as a part of the checkpoint: {_first_line(exc)}") from exc


def _read(path: str, columns: list[str]) -> pl.DataFrame:
    return pl.read_parquet(path, columns=columns, glob=False, hive_partitioning=False)


def write_table(
    files: Files,
    path: str,
    schema: Mapping[str, pl.DataType],
    frames: Callable[[], Iterator[pl.DataFrame]],
    *,
    time_ns: int | None = None,
    rows: int = 0,
) -> int:
    """Stream frames of one schema into a Parquet file that appears whole or not at all. Gives the rows written.

    The bytes depend on the rows alone, not on how they were cut into frames. ``time_ns``: what its time shall say;
    ``rows``: how many there will be, as far as that is known.
    """
    counted = 0

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        nonlocal counted
        for frame in frames():
            counted += frame.height
            yield frame if with_columns is None else frame.select(with_columns)

    aside = path + ASIDE
    discard(files, aside)
    sink = _Sink(files, create(files, aside))
    target = cast(IO[bytes], sink)
    try:
        lazy = register_io_source(source, schema=dict(schema), is_pure=True)
        lazy.sink_parquet(
            target,
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            row_group_size=ROW_GROUP if rows < MANY_ROWS else 2 * ROW_GROUP,
            maintain_order=True,
        )
        if time_ns is not None:
            files.date(sink.fd, time_ns)
        files.fsync(sink.fd)
    except BaseException as exc:
        discard(files, aside)
        if sink.failed is not None:
            raise sink.failed from exc
        raise
    finally:
        sink.end()
    publish(files, aside, path)
    return counted


class _Sink(io.RawIOBase):
    """A file object over :class:`Files`, which remembers the error that polars would rename."""

    def __init__(self, files: Files, fd: int) -> None:
        self.files = files
        self.fd = fd
        self.failed: OSError | None = None
        self._guard = threading.Lock()

    def end(self) -> None:
        """Nothing is written any more. After an error polars may still try, from a thread of its own, when the number
        of our descriptor belongs to another file by then."""
        with self._guard:
            fd, self.fd = self.fd, -1
            self.files.close(fd)

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        try:
            with self._guard:
                if self.fd < 0:
                    raise OSError(errno.EBADF, os.strerror(errno.EBADF))
                write_all(self.files, self.fd, bytes(view))
        except OSError as exc:
            self.failed = exc
            raise
        return len(view)

    def fileno(self) -> int:
        # Polars would write to a real descriptor behind our back.
        raise io.UnsupportedOperation("no descriptor")


def _first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:200]


def part_name(number: int) -> str:
    return f"part-{number:04d}.parquet"
