"""JSON lines in, typed frames out.

The types are those of the first block (``BLOCK_BYTES``); a column that is null all through it counts as text. Later
lines must fit: a key may be missing (null), a whole number may stand where fractions are, and a text column takes any
value as its JSON text. A new key or another type is an InputError with the line; nothing turns into null silently.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence

import polars as pl
from polars.datatypes import DataTypeClass

from pipeline.errors import InputError
from pipeline.storage.blocks import BLOCK_BYTES, MAX_LINE_BYTES, excerpt, first_line, read_blocks

# Polars turns half a surrogate pair into a zero character.
# The test for the first half before it comes last, so that the search can jump to the backslash.
_HALF_PAIR = re.compile(rb"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|[c-fC-F](?<!\\u[dD][89abAB]..\\u[dD].)..)")
_BLANK = re.compile(rb"(?<![^\n])[ \t\r]*\n")


class JsonlTable:
    """One file of JSON objects, one a line."""

    def __init__(self, path: str, chunk_bytes: int = BLOCK_BYTES) -> None:
        self.path = path
        self.blank_lines = 0
        self._chunk_bytes = chunk_bytes
        self._rows: int | None = None
        first = next((data for data, _ in self._chunks() if _BLANK.sub(b"", data)), b"")
        if not first:
            raise InputError(f"{path} is empty; it must hold one JSON object a line")
        found = self._inferred(first, 1).schema
        self.schema: dict[str, pl.DataType] = {
            name: pl.String() if dtype == pl.Null else dtype for name, dtype in found.items()
        }

    def frames(self, columns: Sequence[str], start: int = 0) -> Iterator[pl.DataFrame]:
        for data, line in self._chunks():
            rows = data.count(b"\n") - _blank_lines(data)
            if start >= rows:
                start -= rows
                continue
            yield self._typed(data, line, rows).select(columns)[start:]
            start = 0

    def count(self) -> int:
        if self._rows is None:
            rows = blank = 0
            for data, _ in self._chunks():
                skipped = _blank_lines(data)
                rows += data.count(b"\n") - skipped
                blank += skipped
            self._rows, self.blank_lines = rows, blank
        return self._rows

    def place(self, row: int) -> str:
        for data, first in self._chunks():
            for line, text in enumerate(data.splitlines(), first):
                row -= bool(text.strip())
                if row < 0:
                    return f"line {line}"
        return "past its end"

    def _chunks(self) -> Iterator[tuple[bytes, int]]:
        """Whole lines, and the number of the first."""
        buffer, line = [b""], 1
        for block in read_blocks(self.path, self._chunk_bytes):
            cut = block.rfind(b"\n") + 1
            if not cut:
                buffer.append(block)
                if sum(map(len, buffer)) > MAX_LINE_BYTES:
                    raise InputError(f"{self.path} line {line} is longer than {MAX_LINE_BYTES >> 20} MiB")
                continue
            data = b"".join([*buffer, block[:cut]])
            yield data, line
            line += data.count(b"\n")
            buffer = [block[cut:]]
        if rest := b"".join(buffer):
            yield rest + b"\n", line

    def _typed(self, data: bytes, line: int, rows: int) -> pl.DataFrame:
        frame = self._inferred(data, line)
        if frame.schema != self.schema:
            if not self._fit(frame.schema):
                self._refuse_misfit(data, line)
            try:
                frame = _read(data, self.schema)
            except pl.exceptions.PolarsError as exc:
                number, text = _first_bad(data, line, lambda part: bool(_read(part, self.schema).height))
                raise InputError(f"{self.path} line {number} ({excerpt(text)}): {first_line(exc)}") from exc
        if frame.height != rows:
            raise InputError(
                f"{self.path} lines {line} to {line + data.count(10) - 1}: {rows} lines gave {frame.height} rows; "
                "each line must hold one JSON object"
            )
        return frame

    def _inferred(self, data: bytes, line: int) -> pl.DataFrame:
        self._refuse_half_pairs(data, line)
        try:
            return _read(data, None)
        except pl.exceptions.PolarsError as exc:
            number, text = _first_bad(data, line, lambda part: bool(_read(part, None).height))
            hint = "each line must hold one JSON object, in UTF-8"
            if text.lstrip().startswith(b"["):
                hint = "it begins a JSON list; write one object a line instead"
            raise InputError(f"{self.path} line {number} is not a JSON object ({excerpt(text)}); {hint}") from exc

    def _fit(self, found: pl.Schema) -> bool:
        return all(name in self.schema and _fits(dtype, self.schema[name]) for name, dtype in found.items())

    def _refuse_misfit(self, data: bytes, line: int) -> None:
        number, text = _first_bad(data, line, lambda part: self._fit(_read(part, None).schema))
        for name, dtype in _read(text, None).schema.items():
            if name not in self.schema:
                raise InputError(
                    f"{self.path} line {number} has the key {name!r}, which the lines of the first "
                    f"{self._chunk_bytes} bytes do not have; give it to the first line too (null will do)"
                )
            if not _fits(dtype, self.schema[name]):
                raise InputError(
                    f"{self.path} line {number}: {name!r} is {dtype} where earlier lines hold {self.schema[name]} "
                    f"({excerpt(text)}); write one type all through"
                )
        raise InputError(f"{self.path} line {number} does not fit the types of the first lines ({excerpt(text)})")

    def _refuse_half_pairs(self, data: bytes, line: int) -> None:
        if b"\\u" not in data:
            return
        for match in _HALF_PAIR.finditer(data):
            begin, end = data.rfind(b"\n", 0, match.start()) + 1, data.index(b"\n", match.start())
            try:
                json.dumps(json.loads(data[begin:end]), ensure_ascii=False).encode()
            except UnicodeEncodeError:
                number = line + data.count(b"\n", 0, begin)
                seen = match[0].decode()
                raise InputError(
                    f"{self.path} line {number} holds half a surrogate pair ({seen}), which is no character; mend it"
                ) from None
            except ValueError:
                return  # not JSON at all: the parser says so


def _read(data: bytes, schema: dict[str, pl.DataType] | None) -> pl.DataFrame:
    return pl.read_ndjson(io.BytesIO(data), schema=schema, infer_schema_length=None)


def _first_bad(data: bytes, line: int, good: Callable[[bytes], bool]) -> tuple[int, bytes]:
    """Number and text of the first line with which the lines up to it are no longer good."""
    lines = [(number, text) for number, text in enumerate(data.split(b"\n")[:-1], line) if text.strip()]
    low, high = 0, len(lines) - 1
    while low < high:
        middle = (low + high) // 2
        try:
            fine = good(b"\n".join(text for _, text in lines[: middle + 1]) + b"\n")
        except pl.exceptions.PolarsError:
            fine = False
        low, high = (middle + 1, high) if fine else (low, middle)
    return lines[low]


def _fits(found: pl.DataType, wanted: pl.DataType) -> bool:
    if found in (wanted, pl.Null) or wanted == pl.String:
        return True
    if isinstance(found, pl.List) and isinstance(wanted, pl.List):
        return _fits(_instance(found.inner), _instance(wanted.inner))
    if isinstance(found, pl.Struct) and isinstance(wanted, pl.Struct):
        fields = {field.name: _instance(field.dtype) for field in wanted.fields}
        return all(f.name in fields and _fits(_instance(f.dtype), fields[f.name]) for f in found.fields)
    return found.is_integer() and wanted.is_float()


def _instance(dtype: DataTypeClass | pl.DataType) -> pl.DataType:
    return dtype if isinstance(dtype, pl.DataType) else dtype()


def _blank_lines(data: bytes) -> int:
    if data.count(b"\n{") + data.startswith(b"{") == data.count(b"\n"):
        return 0
    return len(_BLANK.findall(data))
