"""Keys of 16 bytes one after another: in memory while they are few, then in a file without a name.

Ten million keys are 160 MB, more than all the rest of a run takes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import polars as pl

from pipeline.storage.files import Files
from pipeline.storage.scratch import Scratch

KEY_BYTES = 16
HELD_ROWS = 1 << 18
"""Keys in memory at most (4 MiB). Writing so many out at once takes two milliseconds."""

_BLOCK_ROWS = 1 << 12
_STREAM_ROWS = 1 << 16


class KeyList:
    """Grows at its end. ``kept``: the file that its beginning lies in, the keys from offset ``begin`` on."""

    def __init__(
        self,
        folder: str | None = None,
        files: Files | None = None,
        *,
        kept: Scratch | None = None,
        begin: int = 0,
        held_rows: int = HELD_ROWS,
    ) -> None:
        self._folder = folder
        self._files = files or Files()
        self._held_bytes = held_rows * KEY_BYTES
        self._kept = kept
        self._begin = begin
        self._kept_bytes = 0 if kept is None else kept.size - begin
        self._out: Scratch | None = None  # what no longer is in memory
        self._tail = bytearray()
        self._block: tuple[int, bytes] = (0, b"")  # the last one read, and its offset

    def __len__(self) -> int:
        return (self._first + len(self._tail)) // KEY_BYTES

    @property
    def _first(self) -> int:
        """Bytes before the tail."""
        return self._kept_bytes + (0 if self._out is None else self._out.size)

    def append(self, key: bytes) -> None:
        """One key, or several one after another. Raises StorageError when the disk does not take the keys before it;
        the key is in the list all the same."""
        self._tail += key
        if len(self._tail) >= self._held_bytes:
            if self._out is None:
                self._out = Scratch.new(self._files, self._folder)
            self._out.append(bytes(self._tail))
            self._tail.clear()

    def at(self, ordinal: int) -> bytes:
        """Nothing behind the end. Raises StorageError."""
        offset = ordinal * KEY_BYTES
        inside = offset - self._first
        if inside >= 0:
            return bytes(self._tail[inside : inside + KEY_BYTES])
        begin, block = self._block
        if not begin <= offset < begin + len(block):
            begin = ordinal // _BLOCK_ROWS * _BLOCK_ROWS * KEY_BYTES
            block = self._read(begin, min(begin + _BLOCK_ROWS * KEY_BYTES, self._first))
            self._block = begin, block
        return block[offset - begin : offset - begin + KEY_BYTES]

    def slice(self, ordinal: int, rows: int) -> bytes:
        """Raises StorageError."""
        return self._read(ordinal * KEY_BYTES, (ordinal + rows) * KEY_BYTES)

    def _read(self, begin: int, end: int) -> bytes:
        pieces = []
        if begin < self._kept_bytes and self._kept is not None:
            pieces.append(self._kept.read(self._begin + begin, min(end, self._kept_bytes) - begin))
            begin = min(end, self._kept_bytes)
        if begin < min(end, self._first) and self._out is not None:
            stop = min(end, self._first)
            pieces.append(self._out.read(begin - self._kept_bytes, stop - begin))
            begin = stop
        if begin < end:
            pieces.append(bytes(self._tail[begin - self._first : end - self._first]))
        return b"".join(pieces)

    def blocks(self, rows: int = _STREAM_ROWS) -> Iterator[bytes]:
        """All keys in order, ``rows`` at a time. Raises StorageError."""
        end, step = len(self) * KEY_BYTES, rows * KEY_BYTES
        for begin in range(0, end, step):
            yield self._read(begin, min(begin + step, end))

    def digest(self) -> bytes:
        """SHA-256 of all keys."""
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return digest.digest()

    def frames(self, rows: int) -> Iterator[pl.DataFrame]:
        """Columns ``ordinal`` and ``key`` (as a 128-bit integer, which joins fast), ``rows`` rows at a time."""
        begin = 0
        for block in self.blocks(rows):
            count = len(block) // KEY_BYTES
            whole = pl.Series("key", [block], dtype=pl.Binary)
            numbers = whole.bin.reinterpret(dtype=pl.Array(pl.Int128, count)).explode()
            yield pl.DataFrame({"key": numbers}).with_row_index("ordinal", offset=begin)
            begin += count
