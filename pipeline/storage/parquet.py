"""A table whole, or not at all: the parts of the checkpoint, and any table that a user is given.

Polars writes Parquet in place, without sync or rename, and its reader takes most flipped bits for data; so a part is
built in memory and written by us, and the manifest keeps its SHA-256.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping

import polars as pl

from pipeline.errors import StorageError
from pipeline.storage.files import Files, write_pieces
from pipeline.storage.noted import Save, lightened, unsaved
from pipeline.storage.ranged import cut
from pipeline.storage.row_groups import joined

COMPRESSION_LEVEL = 1  # a third of level 3's time for 5 % more bytes
ROW_GROUP = 10_000
ROW_GROUP_BYTES = 32 << 20
"""Of texts, from which on a row group of a long table is complete before it has all its rows."""

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
    return bytes(_encoded(table))


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


Onlooker = Callable[[pl.DataFrame], object]


def nobody(frame: pl.DataFrame) -> None:
    """Looks on."""


def write_table(
    files: Files,
    path: str,
    schema: Mapping[str, pl.DataType],
    frames: Iterable[pl.DataFrame],
    *,
    onlooker: Onlooker = nobody,
    time_ns: int | None = None,
) -> int:
    """Stream frames of one schema into a Parquet file that appears whole or not at all. Gives the rows written.

    The bytes depend on the rows alone, not on how they were cut into frames (but for lists of categories, whose names
    polars writes as they lie in memory). ``onlooker`` is shown each row group; ``time_ns``: what the file's time shall
    say. Raises ValueError for a frame of another schema.
    """
    counted = 0

    def tables() -> Iterator[memoryview]:
        nonlocal counted
        for frame in cut(frames, ROW_GROUP, ROW_GROUP_BYTES):
            if frame.schema != pl.Schema(schema):
                raise ValueError(f"a frame of another schema than that of {path}")
            counted += frame.height
            onlooker(frame)
            encoded = _encoded(frame)
            del frame  # it may be large, and the next one is made before the name is taken again
            yield encoded
            del encoded
        if not counted:
            yield _encoded(pl.DataFrame(schema=dict(schema)))

    write_pieces(files, path, joined(tables()), time_ns=time_ns)
    return counted


def _encoded(table: pl.DataFrame) -> memoryview:
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd", compression_level=COMPRESSION_LEVEL, row_group_size=ROW_GROUP)
    return buffer.getbuffer()


def _first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:200]


def part_name(number: int) -> str:
    return f"part-{number:04d}.parquet"
