"""The bytes of an input file, block by block, and what a reader of any format promises.

Polars could read whole files by itself; reading our own blocks keeps memory flat whatever the size of the file, and
lets an error name the line.
"""

from __future__ import annotations

import codecs
import gzip
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import polars as pl

from pipeline.errors import InputError

BLOCK_BYTES = 1 << 20
"""Measured: with blocks of 4 MiB, 10 million CSV rows are read in as little memory as 1 million."""

MAX_LINE_BYTES = 64 << 20
"""A longer line or quoted cell is taken for a fault (a quote never closed), or memory would not be bounded."""

EXCERPT = 60
"""Characters of the input that a message shows."""

UTF8_BOM = b"\xef\xbb\xbf"
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


class Table(Protocol):
    """One input file, read as often as asked."""

    path: str
    schema: dict[str, pl.DataType]
    blank_lines: int
    """Lines skipped because nothing stood in them, as the last whole pass counted them."""

    def frames(self, columns: Sequence[str], start: int = 0) -> Iterator[pl.DataFrame]:
        """Frames of bounded size in file order, from row ``start`` on, with these columns (at least one)."""
        ...

    def count(self) -> int: ...

    def place(self, row: int) -> str:
        """Where row ``row`` (from 0) stands, in the words of an editor: ``line 17`` or ``row 17``."""
        ...


def is_remote(path: str) -> bool:
    return "://" in path


def excerpt(text: bytes | str) -> str:
    """The start of what was seen, safe to print in one line."""
    if isinstance(text, bytes):
        text = text[: 4 * EXCERPT].decode("utf-8", "replace")
    return repr(text.rstrip("\r\n")[:EXCERPT])


def require_file(path: str) -> None:
    """Raises InputError unless a plain, readable file stands there."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise InputError(f"no file {path} (working directory: {os.getcwd()}, which -C DIR changes)") from None
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}") from exc
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder; name its files, for example {os.path.join(path, '*.parquet')}")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is not a plain file; the input is read more than once, so save it to a file first")


def read_blocks(path: str, size: int = BLOCK_BYTES, encoding: str | None = None) -> Iterator[bytes]:
    """The file as UTF-8 blocks without byte order mark; unpacked when it ends in ``.gz``, decoded when ``encoding`` is
    given. Without ``encoding`` the bytes come as they stand, still to be checked.
    """
    raw = _remote(path) if is_remote(path) else _local(path, size)
    return _decoded(path, raw, encoding) if encoding else _without_bom(raw)


def _local(path: str, size: int) -> Iterator[bytes]:
    require_file(path)
    try:
        with gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb") as file:
            while block := file.read(size):
                yield block
    except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
        raise InputError(f"{path} is not a whole gzip file ({exc}); fetch or pack it again") from exc
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror or exc}") from exc


def _remote(path: str) -> Iterator[bytes]:
    try:
        for batch in pl.scan_lines(path, glob=False).collect_batches(chunk_size=20_000, maintain_order=True):
            yield "\n".join([*batch.to_series().to_list(), ""]).encode()
    except (OSError, pl.exceptions.PolarsError) as exc:
        raise InputError(f"cannot read {path}: {first_line(exc)}") from exc


def _without_bom(blocks: Iterator[bytes]) -> Iterator[bytes]:
    head = b""
    for block in blocks:
        head += block
        if len(head) >= len(UTF8_BOM):
            break
    if head := head.removeprefix(UTF8_BOM):
        yield head
    yield from blocks


def require_encoding(encoding: str) -> None:
    try:
        "".encode(encoding)
        codecs.getincrementaldecoder(encoding)
    except LookupError:
        raise InputError(
            f"{encoding!r} is not an encoding; well-known ones are utf-8, latin-1, cp1252, utf-16, shift_jis"
        ) from None


def _decoded(path: str, blocks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    lines, first = 1, True
    for block in _and_end(blocks):
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as exc:
            line = lines + exc.object[: exc.start].decode(encoding, "replace").count("\n")
            seen = exc.object[exc.start : exc.end].hex(" ")
            raise InputError(
                f"{path} line {line} is not {encoding} (bytes {seen}); name the right one in `input.encoding`"
            ) from exc
        lines += text.count("\n")
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        if text:
            yield text.encode()


def _and_end(blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield from blocks
    yield b""


def first_line(exc: BaseException) -> str:
    """Polars adds paragraphs of advice on its own parameters, which no user of ours can set."""
    return str(exc).strip().split("\n", 1)[0]
