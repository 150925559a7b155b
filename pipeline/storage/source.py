"""The input table: files in, rows out, in input order and in bounded memory.

What the job may not assume is checked here before anything is sent: the files are there and whole, they agree on
their columns, the columns that are used exist and hold plain values, and ids name rows. Text stays as it stands in a
CSV (``007``, ``1e5`` and the word null are text); other formats keep their types.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import polars as pl

from pipeline.errors import InputError
from pipeline.records import Row, Value
from pipeline.storage import cells
from pipeline.storage.blocks import BLOCK_BYTES, Table, is_remote
from pipeline.storage.ids import SHOWN, find_offenders
from pipeline.storage.tables import open_table, require_agreement, resolve
from pipeline.storage.where import keep, parse_where

BATCH_ROWS = 2_000
_PLACE = "\0place"
"""Name of the column that carries positions; no file can have it."""

Stamp = tuple[tuple[str, int, int], ...]
"""Path, size and mtime in nanoseconds of every local file."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What of which files is the input."""

    paths: tuple[str, ...]  # files or globs, from the working directory; addresses such as s3:// go to polars
    format: str | None = None  # csv, tsv, parquet or jsonl; None: by suffix
    id: str | None = None
    where: str | None = None  # polars SQL condition on one row
    limit: int | None = None  # first rows, after ``where``
    encoding: str | None = None  # of CSV and TSV; None: UTF-8


class Source:
    """The rows of a selection. Every method raises InputError for what is wrong with the input."""

    def __init__(self, selection: Selection, batch_rows: int = BATCH_ROWS, chunk_bytes: int = BLOCK_BYTES) -> None:
        self.selection = selection
        self.files = resolve(selection.paths)
        self._batch_rows = batch_rows
        self._tables = [open_table(path, selection.format, selection.encoding, chunk_bytes) for path in self.files]
        self.schema = self._tables[0].schema
        for table in self._tables[1:]:
            require_agreement(self._tables[0], table)
        self._where = None if selection.where is None else parse_where(selection.where, self.schema)
        self._count: int | None = None

    @property
    def blank_lines(self) -> int:
        """Lines skipped because nothing stood in them; known after ``count``."""
        return sum(table.blank_lines for table in self._tables)

    def check(self, used: Collection[str]) -> None:
        """Raises unless the used columns and the id column exist and hold plain values."""
        problems = [self._problem(name) for name in dict.fromkeys([*used, *self._id_column()])]
        if told := [problem for problem in problems if problem]:
            raise InputError("\n".join(told))

    def check_ids(self) -> None:
        """Raises unless every row of the selection has an id of its own. Does nothing when no id column is named."""
        name = self.selection.id
        if name is None:
            return
        self.check([])

        def batches() -> Iterator[tuple[pl.Series, pl.Series]]:
            for frame in self._selected([name], places=True):
                yield frame.select(cells.as_text(name, self.schema[name])).to_series(), frame[_PLACE]

        offenders = find_offenders(batches)
        if offenders.empty:
            where = ", ".join(self._place(row) for row in offenders.empty_at)
            raise InputError(
                f"the id column {name!r} is empty in {offenders.empty} rows: {where}{_more(offenders.empty)}; "
                "fill it, choose another `input.id`, leave it out, or exclude the rows with `input.where`"
            )
        if offenders.repeated:
            where = ", ".join(
                f"{text[:80]!r} ({self._place(again)}, first {self._place(first)})"
                for text, first, again in offenders.repeated_at
            )
            raise InputError(
                f"the id column {name!r} repeats ids in {offenders.repeated} rows: {where}{_more(offenders.repeated)}; "
                "an id must name one row: choose another `input.id`, or leave it out"
            )

    @property
    def counted(self) -> int | None:
        """What ``count`` gave; None when nobody has asked."""
        return self._count

    def count(self) -> int:
        if self._count is None:
            if self._where is None:
                rows = sum(table.count() for table in self._tables)
                self._count = rows if self.selection.limit is None else min(rows, self.selection.limit)
            else:
                self._count = sum(frame.height for frame in self._selected([]))
        return self._count

    def frames(self, columns: Sequence[str] | None = None, start: int = 0) -> Iterator[pl.DataFrame]:
        """Frames of at most ``batch_rows`` rows, from row ``start`` of the selection on."""
        names = list(self.schema) if columns is None else list(columns)
        for frame in self._selected(names, start):
            yield from frame.select(names).iter_slices(self._batch_rows)

    def rows(self, used: Sequence[str], start: int = 0) -> Iterator[list[Row]]:
        """Batches of rows with the used columns as plain values (``cells`` says how), from row ``start`` on."""
        self.check(used)
        names = list(dict.fromkeys(used))
        wanted = [cells.as_value(name, self.schema[name]) for name in names]
        wanted += [cells.as_text(name, self.schema[name]).alias(_PLACE) for name in self._id_column()]
        ordinal = start
        for whole in self._selected([*names, *self._id_column()], start):
            for frame in whole.iter_slices(self._batch_rows):
                yield _to_rows(frame.select(wanted), names, self.selection.id is not None, ordinal, frame.height)
                ordinal += frame.height

    def ids(self, start: int = 0) -> Iterator[pl.Series]:
        """The ids as text, from row ``start`` on. Only where an id column is named."""
        (name,) = self._id_column()
        for frame in self._selected([name], start):
            yield frame.select(cells.as_text(name, self.schema[name])).to_series()

    def fingerprint(self) -> str:
        """SHA-256 of the selection and the content of its files, whatever they are called; empty when one is remote,
        because its content is not known without fetching it.
        """
        if any(map(is_remote, self.files)):
            return ""
        options = self.selection
        digest = hashlib.sha256(
            json.dumps([options.format, options.id, options.where, options.limit, options.encoding]).encode()
        )
        for path in self.files:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def stamp(self) -> Stamp:
        """What the files look like from outside, to be compared at the end of a run with ``changed_since``."""
        return tuple(_stamp(path) for path in self.files if not is_remote(path))

    def changed_since(self, stamp: Stamp) -> tuple[str, ...]:
        """The files that were written to, replaced or removed since."""
        return tuple(entry[0] for entry in stamp if _stamp(entry[0]) != entry)

    # -- reading

    def _selected(self, columns: Sequence[str], start: int = 0, places: bool = False) -> Iterator[pl.DataFrame]:
        """Rows ``start`` to ``limit`` of those that ``where`` keeps; with ``_PLACE`` when ``places`` is asked for."""
        begin = start if self._where is None else 0  # what no condition needs to see is not even parsed
        skip = start - begin
        limit = self.selection.limit
        left = None if limit is None else max(0, limit - begin)
        if left == 0:
            return
        for frame in self._matching(columns, begin, places):
            if left is not None:
                frame = frame[:left]
                left -= frame.height
            kept = frame[skip:]
            skip -= frame.height - kept.height
            if kept.height:
                yield kept
            if left == 0:
                return

    def _matching(self, columns: Sequence[str], begin: int, places: bool) -> Iterator[pl.DataFrame]:
        """What ``where`` keeps, from row ``begin`` of the files on; ``_PLACE`` counts all rows of all files."""
        looked_at = () if self._where is None else self._where.meta.root_names()
        needed = list(dict.fromkeys([*columns, *looked_at])) or list(self.schema)[:1]
        tables, begin, place = self._from(begin)
        for table in tables:
            for frame in table.frames(needed, begin):
                height = frame.height
                if places:
                    frame = frame.with_columns(pl.int_range(place, place + height, dtype=pl.Int64).alias(_PLACE))
                place += height
                yield frame if self._where is None else keep(frame, self._where, table.path)
            begin = 0

    def _from(self, row: int) -> tuple[list[Table], int, int]:
        """The tables from the one that holds this row on, the row's number in it, and its number in all of them."""
        before = row
        for number, table in enumerate(self._tables):
            if row == 0 or row < table.count():
                return self._tables[number:], row, before
            row -= table.count()
        return [], 0, before

    def _place(self, row: int) -> str:
        tables, inside, _ = self._from(row)
        place = tables[0].place(inside)
        return place if len(self._tables) == 1 else f"{tables[0].path} {place}"

    def _id_column(self) -> list[str]:
        return [] if self.selection.id is None else [self.selection.id]

    def _problem(self, name: str) -> str | None:
        if name not in self.schema:
            near = get_close_matches(name, self.schema, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            return f"{self.files[0]} has no column {name!r}{hint} It has: {', '.join(self.schema)}"
        if not cells.is_plain(self.schema[name]):
            return (
                f"{self.files[0]}: column {name!r} is {self.schema[name]}, and only text, numbers, true/false, dates "
                "and times can be used; turn it into text first"
            )
        return None


def _to_rows(frame: pl.DataFrame, names: list[str], has_id: bool, ordinal: int, height: int) -> list[Row]:
    columns = [frame[name].to_list() for name in names]
    ids = frame[_PLACE].to_list() if has_id else [None] * height
    fields: Iterable[dict[str, Value]]
    if len(names) == 1:
        fields = ({names[0]: value} for value in columns[0])
    elif names:
        fields = (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
    else:
        fields = ({} for _ in ids)
    return list(map(Row, range(ordinal, ordinal + height), ids, fields))


def _stamp(path: str) -> tuple[str, int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return path, -1, -1
    return path, found.st_size, found.st_mtime_ns


def _more(offenders: int) -> str:
    return f" and {offenders - SHOWN} more" if offenders > SHOWN else ""
