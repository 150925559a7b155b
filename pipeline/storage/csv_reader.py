"""CSV and TSV in, frames of text out: flat in memory, exact, and strict where polars is lenient.

Polars (2.1) parses fast, but fills a short line with nulls, takes semicolons for one wide column, drops a carriage
return at the end of a bare cell, and fails on a quote inside a bare cell (``5" disk``). So every chunk is looked at
before it is parsed. The look is a few passes in C over the bytes: quoted cells are replaced by one letter, and what is
left holds separators and newlines that mean what they say. Deleting all else leaves the shape of the table, which for
a sound chunk is one line repeated.

An empty cell is null, an empty quoted cell is an empty text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NoReturn

import polars as pl

from pipeline.errors import InputError
from pipeline.storage.blocks import BLOCK_BYTES, excerpt, first_line
from pipeline.storage.csv_chunks import CR_ONLY, Chunk, Chunks, Grammar

_BLANK = re.compile(rb"(?<![^\n])\r?\n")
_LONE_CR = re.compile(rb"\r(?!\n)")


class CsvTable:
    """One CSV or TSV file. All columns are text, as they stand in the file."""

    def __init__(
        self, path: str, separator: str = ",", encoding: str | None = None, chunk_bytes: int = BLOCK_BYTES
    ) -> None:
        self.path = path
        self.blank_lines = 0
        self._grammar = Grammar(separator.encode())
        self._split = Chunks(path, self._grammar, encoding, chunk_bytes)
        self._rows: int | None = None
        self._names = self._header_names(next(iter(self._split), None))
        self.schema: dict[str, pl.DataType] = dict.fromkeys(self._names, pl.String())
        self._shape = separator.encode() * (len(self._names) - 1) + b"\n"
        self._positions = separator.join(map(str, range(len(self._names)))).encode() + b"\n"

    def frames(self, columns: Sequence[str], start: int = 0) -> Iterator[pl.DataFrame]:
        for chunk in self._chunks():
            data, rows, _ = self._sound(chunk)
            if start >= rows:
                start -= rows
                continue
            yield self._parsed(chunk, data, rows, columns)[start:]
            start = 0

    def count(self) -> int:
        if self._rows is None:
            rows = blank = 0
            for chunk in self._chunks():
                _, in_chunk, skipped = self._sound(chunk)
                rows += in_chunk
                blank += skipped
            self._rows, self.blank_lines = rows, blank
        return self._rows

    def place(self, row: int) -> str:
        for chunk in self._chunks():
            lines = self._grammar.record_lines(chunk)
            if row < len(lines):
                return f"line {lines[row]}"
            row -= len(lines)
        return "past its end"

    def _chunks(self) -> Iterator[Chunk]:
        """The chunks after the header."""
        chunks = iter(self._split)
        head = next(chunks, None)
        if head is None:
            raise InputError(f"{self.path} is empty now")
        end = self._header_end(head)
        lines = head.raw.count(b"\n", 0, end)
        if rest := head.raw[end:]:
            yield Chunk(rest, self._grammar.outside(rest), head.line + lines)
        yield from chunks

    # -- the header

    def _header_end(self, chunk: Chunk) -> int:
        raw = chunk.raw
        for match in self._grammar.line_end.finditer(raw):
            if match[0] == b"\n" and raw[: match.start()].strip(b"\r\n"):
                return match.end()
        return len(raw)

    def _header_names(self, chunk: Chunk | None) -> list[str]:
        header = chunk.raw[: self._header_end(chunk)].strip(b"\r\n") if chunk else b""
        if not header:
            raise InputError(f"{self.path} is empty: not even a header line; its first line must name the columns")
        if b"\r" in self._grammar.outside(header + b"\n"):
            raise InputError(f"{self.path}: {CR_ONLY}")
        columns = self._grammar.outside(header + b"\n").count(self._grammar.separator) + 1
        data = self._grammar.quote_odd_cells(header + b"\n")
        positions = self._grammar.separator.join(b"%d" % i for i in range(columns)) + b"\n"
        names = [name or "" for name in self._read_csv(positions + data).row(0)]
        self._refuse_names(names)
        return names

    def _refuse_names(self, names: list[str]) -> None:
        seen: set[str] = set()
        for position, name in enumerate(names, 1):
            if not name.strip():
                raise InputError(f"{self.path} line 1: column {position} has no name; give every column one")
            if name in seen:
                raise InputError(f"{self.path} line 1 names column {name!r} twice; rename one of them")
            if "\ufffd" in name or "\0" in name:
                raise InputError(f"{self.path} line 1: the column name {name!r} is damaged; save the file as UTF-8")
            seen.add(name)
        others = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
        own = others.pop(self._grammar.separator.decode(), "separator")
        for character, other in others.items():
            if len(names) == 1 and character in names[0]:
                hint = {"\t": "say `format: tsv`", ",": "say `format: csv`"}.get(character, "convert it to commas")
                raise InputError(
                    f"{self.path} line 1 ({excerpt(names[0])}) has a {other} and no {own}: the file looks "
                    f"{other}-separated; {hint} (or rename the column)"
                )

    # -- the look, and the parsing

    def _sound(self, chunk: Chunk) -> tuple[bytes, int, int]:
        """The chunk as polars reads it rightly, its number of rows, and of blank lines left out."""
        raw, outside, blank = chunk.raw, chunk.outside, 0
        if b'"' in outside or _LONE_CR.search(outside):
            raw = self._grammar.quote_odd_cells(raw)
        rows = self._rows_of(outside)
        if rows is None or (len(self._names) == 1 and _BLANK.search(outside)):
            outside, blank = _BLANK.subn(b"", outside)
            raw = self._grammar.blank.sub(lambda m: m[0] if m[0].startswith(b'"') else b"", raw)
            rows = self._rows_of(outside)
        if rows is None:
            self._refuse_ragged(chunk, outside)
        return raw, rows, blank

    def _rows_of(self, outside: bytes) -> int | None:
        """Rows, if every line has as many separators as the header; a blank line has as many in a single column."""
        shape = outside.translate(None, self._grammar.noise)
        rows = len(shape) // len(self._shape)
        return rows if shape == self._shape * rows else None

    def _refuse_ragged(self, chunk: Chunk, outside: bytes) -> NoReturn:
        wanted = len(self._names)
        lines = outside.split(b"\n")
        row, cells = next(
            (i, n) for i, text in enumerate(lines) if (n := text.count(self._grammar.separator) + 1) != wanted
        )
        line = self._grammar.record_lines(chunk)[row]
        text = chunk.raw.split(b"\n", line - chunk.line + 1)[line - chunk.line]
        hint = (
            "a cell that holds a separator must stand in double quotes"
            if cells > wanted
            else "write out the empty cells too, and put a cell that holds a line break in double quotes"
        )
        raise InputError(
            f"{self.path} line {line} has {cells} cells where the header names {wanted} ({excerpt(text)}); {hint}"
        )

    def _parsed(self, chunk: Chunk, data: bytes, rows: int, columns: Sequence[str]) -> pl.DataFrame:
        wanted = {str(self._names.index(name)): name for name in columns}
        try:
            # The line in front also keeps polars from stripping a byte order mark that is part of the first cell.
            frame = self._read_csv(self._positions + data, list(wanted))
        except pl.exceptions.PolarsError as exc:
            raise InputError(f"{self._place_of(chunk)}: not readable as CSV: {first_line(exc)}") from exc
        if frame.height != rows:
            raise InputError(f"{self._place_of(chunk)}: {rows} rows expected, {frame.height} read")
        return frame.select(list(wanted)).rename(wanted)

    def _place_of(self, chunk: Chunk) -> str:
        last = chunk.line + chunk.raw.count(b"\n") - 1
        return f"{self.path} lines {chunk.line} to {last}"

    def _read_csv(self, data: bytes, columns: list[str] | None = None) -> pl.DataFrame:
        separator = self._grammar.separator.decode()
        return pl.read_csv(data, separator=separator, columns=columns, infer_schema=False, glob=False)
