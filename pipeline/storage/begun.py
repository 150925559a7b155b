"""The keys of a first run while it goes on: what a run that was killed need not render again.

A complete list of keys is kept when a job has been looked at as a whole, which a first run does only at its end. Until
then the keys of the rows that it has drawn are written here, block by block, each with its check. Nothing depends on
it: a block that is torn, missing or of another input means that its rows are rendered once more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import weakref
import zlib
from collections.abc import Iterator

from pipeline.errors import StorageError
from pipeline.storage.files import Files, create, discard, write_all
from pipeline.storage.key_list import KEY_BYTES, KeyList
from pipeline.storage.scratch import Scratch

BLOCK_ROWS = 1 << 12
_BLOCK_BYTES = BLOCK_ROWS * KEY_BYTES
_CHECK_BYTES = 4
_NAME_BYTES = 32
_HEAD_BYTES = _NAME_BYTES + 8 + _CHECK_BYTES


class Begun:
    """The file, open for appending whole blocks of a list of keys that grows. Never raises for the disk: without room
    there is no such file."""

    def __init__(self, files: Files, path: str, name: str, rows: int, keys: KeyList) -> None:
        self._files = files
        self._path = path
        self._keys = keys
        self._blocks = 0
        self._fd = -1
        with contextlib.suppress(OSError):
            discard(files, path)
            self._fd = create(files, path)
            self._close = weakref.finalize(self, files.close, self._fd)
            write_all(files, self._fd, _head(name, rows))
        self._seed = _seed_of(_head(name, rows))
        self.follow()

    def follow(self) -> None:
        """Write down the whole blocks that the list has by now."""
        while self._fd >= 0 and (self._blocks + 1) * BLOCK_ROWS <= len(self._keys):
            try:
                block = self._keys.slice(self._blocks * BLOCK_ROWS, BLOCK_ROWS)
                write_all(self._files, self._fd, block + _check(block, self._seed + self._blocks))
                self._blocks += 1
            except (OSError, StorageError):
                self.end()

    def end(self) -> None:
        """The list is kept elsewhere, or cannot be kept here."""
        if self._fd >= 0:
            self._fd = -1
            self._close()
        with contextlib.suppress(OSError):
            discard(self._files, self._path)


def read(files: Files, path: str, name: str) -> tuple[int, Iterator[bytes]] | None:
    """How many rows there are in all, and the keys of the first of them, block by block; None when there is no list of
    this input and question."""
    try:
        fd = files.open(path, os.O_RDONLY)
    except OSError:
        return None
    file = Scratch(files, fd, os.fstat(fd).st_size)
    try:
        head = file.read(0, min(_HEAD_BYTES, file.size))
    except StorageError:
        return None
    rows = int.from_bytes(head[_NAME_BYTES:-_CHECK_BYTES], "little")
    return (rows, _blocks(file, _seed_of(head))) if head == _head(name, rows) else None


def _blocks(file: Scratch, seed: int) -> Iterator[bytes]:
    """The good ones from the first on."""
    step = _BLOCK_BYTES + _CHECK_BYTES
    for number, at in enumerate(range(_HEAD_BYTES, file.size - step + 1, step)):
        try:
            data = file.read(at, step)
        except StorageError:
            return
        if data[_BLOCK_BYTES:] != _check(data[:_BLOCK_BYTES], seed + number):
            return
        yield data[:_BLOCK_BYTES]


def _seed_of(head: bytes) -> int:
    """A block of another list, which a power cut may leave in the place of ours, must not pass for one of it."""
    return int.from_bytes(head[-_CHECK_BYTES:], "little")


def _check(block: bytes, seed: int) -> bytes:
    return zlib.crc32(block, seed & 0xFFFFFFFF).to_bytes(_CHECK_BYTES, "little")


def _head(name: str, rows: int) -> bytes:
    head = hashlib.sha256(name.encode()).digest() + rows.to_bytes(8, "little")
    return head + zlib.crc32(head).to_bytes(_CHECK_BYTES, "little")
