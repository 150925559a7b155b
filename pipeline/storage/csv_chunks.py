"""A CSV file cut into chunks of whole lines, without taking a newline inside a quoted cell for the end of one.

Grammar: RFC 4180, any line end of LF or CRLF. A cell is quoted when its first character is a quote; a quote elsewhere
is an ordinary character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import InputError
from pipeline.storage.blocks import MAX_LINE_BYTES, UTF16_BOMS, excerpt, read_blocks

CR_ONLY = (
    "its lines end with CR alone (an old Macintosh form), which reads as one line; convert it, "
    "for example with: tr '\\r' '\\n' < OLD > NEW"
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines of the file."""

    raw: bytes  # as they stand; ends with a newline
    outside: bytes  # the same with every quoted cell replaced by one letter
    line: int  # number of the first one, from 1


_QUOTED = b"q"
"""Stands for a quoted cell in what is looked at."""


class Grammar:
    """The patterns of one separator. Every pattern is tried at the start of a chunk or right after a whole cell."""

    def __init__(self, separator: bytes) -> None:
        sep = re.escape(separator)
        # A quote opens a cell when it follows a separator, a newline or nothing. The test comes after the quote, so
        # that the search jumps from quote to quote.
        opening = rb'"(?<![^%s\n]")' % sep
        body = rb'[^"]*(?:""[^"]*)*"(?!")'
        quoted = opening + body + rb"(?=%s|\r?\n)" % sep
        self.quoted = re.compile(quoted)
        self.opening = re.compile(opening)
        self.closed_early = re.compile(b'"' + body)
        self.token = re.compile(quoted + rb"|\n|" + opening)
        self.cell = re.compile(quoted + rb'|[^%s\n"][^%s\n]*' % (sep, sep))
        self.line_end = re.compile(quoted + rb"|\n")
        self.blank = re.compile(quoted + rb"|(?<![^\n])\r?\n")
        self.separator = separator
        self.noise = bytes(set(range(256)) - {separator[0], 10})

    def outside(self, raw: bytes) -> bytes:
        return self.quoted.sub(_QUOTED, raw) if b'"' in raw else raw

    def quote_odd_cells(self, raw: bytes) -> bytes:
        """Puts bare cells that hold a quote or a carriage return into quotes, which polars needs."""

        def quote(match: re.Match[bytes]) -> bytes:
            cell, end = match[0], b""
            if cell.startswith(b'"'):
                return cell
            if cell.endswith(b"\r") and raw[match.end() : match.end() + 1] == b"\n":
                cell, end = cell[:-1], b"\r"
            if b'"' not in cell and b"\r" not in cell:
                return match[0]
            return b'"' + cell.replace(b'"', b'""') + b'"' + end

        return self.cell.sub(quote, raw)

    def record_lines(self, chunk: Chunk) -> list[int]:
        """Number of the line that each row of the chunk begins in."""
        lines, line, start = [], chunk.line, 0
        for match in self.line_end.finditer(chunk.raw):
            if match[0] != b"\n":
                continue
            if chunk.raw[start : match.start()] not in (b"", b"\r"):
                lines.append(line)
            line += chunk.raw.count(b"\n", start, match.end())
            start = match.end()
        return lines


class Chunks:
    """The chunks of one file, header line included; a fresh pass at each ``iter``. Raises InputError for faults."""

    def __init__(self, path: str, grammar: Grammar, encoding: str | None, chunk_bytes: int) -> None:
        self.path = path
        self._grammar = grammar
        self._encoding = encoding
        self._chunk_bytes = chunk_bytes

    def __iter__(self) -> Iterator[Chunk]:
        buffer, goal, line = b"", self._chunk_bytes, 1
        for block in read_blocks(self.path, self._chunk_bytes, self._encoding):
            if not buffer and line == 1:
                self._refuse_utf16(block)
            buffer += block
            if len(buffer) < goal:
                continue
            chunk = self._cut(buffer, line)
            if not chunk.raw:
                goal = 2 * len(buffer)
                self._refuse_endless(buffer, line)
                continue
            yield chunk
            buffer, goal, line = buffer[len(chunk.raw) :], self._chunk_bytes, line + chunk.raw.count(b"\n")
        if buffer:
            yield from self._last(buffer if buffer.endswith(b"\n") else buffer + b"\n", line)

    def _last(self, buffer: bytes, line: int) -> Iterator[Chunk]:
        chunk = self._cut(buffer, line)
        if rest := buffer[len(chunk.raw) :]:
            line += chunk.raw.count(b"\n")
            raise InputError(
                f"{self.path} line {line} opens a quote that is never closed ({excerpt(rest)}); "
                "close it, or put the whole cell into quotes and double the quotes in it"
            )
        yield chunk

    def _cut(self, buffer: bytes, line: int) -> Chunk:
        """The lines at the front that surely end; none when none does yet."""
        prefix = buffer[: buffer.rfind(b"\n") + 1]
        outside = self._grammar.outside(prefix)
        if b'"' not in outside or not self._grammar.opening.search(outside):
            return self._decodable(Chunk(prefix, outside, line))
        end = opening = 0
        for match in self._grammar.token.finditer(prefix):
            if match[0] == b'"':
                opening = match.start()
                break
            if match[0] == b"\n":
                end = match.end()
        if self._grammar.closed_early.match(prefix, opening):
            self._refuse_cr_only(prefix)
            line += buffer.count(b"\n", 0, opening)
            raise InputError(
                f"{self.path} line {line}: a quoted cell goes on after its closing quote "
                f"({excerpt(buffer[opening:])}); double the quotes that belong to the text, close the ones that do not"
            )
        prefix = prefix[:end]
        return self._decodable(Chunk(prefix, self._grammar.outside(prefix), line))

    def _decodable(self, chunk: Chunk) -> Chunk:
        raw = chunk.raw
        if not raw.isascii():
            try:
                raw.decode()
            except UnicodeDecodeError as exc:
                line = chunk.line + raw.count(b"\n", 0, exc.start)
                seen = raw[raw.rfind(b"\n", 0, exc.start) + 1 : exc.end + 20]
                raise InputError(
                    f"{self.path} line {line} is not UTF-8 ({excerpt(seen)}); say which encoding it is, "
                    "for example `encoding: latin-1` or `encoding: cp1252` under `input`"
                ) from exc
        return chunk

    def _refuse_endless(self, buffer: bytes, line: int) -> None:
        if len(buffer) <= MAX_LINE_BYTES:
            return
        self._refuse_cr_only(buffer)
        mib = MAX_LINE_BYTES >> 20
        raise InputError(
            f"{self.path} line {line} does not end within {mib} MiB ({excerpt(buffer)}); is a quote not closed there?"
        )

    def _refuse_cr_only(self, buffer: bytes) -> None:
        if b"\r" in buffer and b"\n" not in buffer[:-1]:
            raise InputError(f"{self.path}: {CR_ONLY}")

    def _refuse_utf16(self, block: bytes) -> None:
        if block.startswith(UTF16_BOMS) or b"\0" in block.split(b"\n", 1)[0]:
            raise InputError(
                f"{self.path} looks like UTF-16 (zero bytes in its first line); say `encoding: utf-16` under `input`"
            )
