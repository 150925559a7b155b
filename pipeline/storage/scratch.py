"""What need not stay in memory, in a file without a name.

The name goes as soon as the file is open, so that nothing is left of it, however the process ends. It is read and
written by blocks: pages of a mapped file would count as memory of the process.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import tempfile
import weakref
from collections.abc import Iterator, Mapping

import polars as pl

from pipeline.errors import StorageError
from pipeline.storage.files import ASIDE, Files, discard, write_all

_ELSEWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS})
"""Nothing can be put into this folder; that says nothing of the system's own."""

_SHELF = "\0shelf"


class Scratch:
    """Bytes at offsets. Closes with its last user."""

    def __init__(self, files: Files, fd: int, size: int = 0) -> None:
        self.files = files
        self.size = size
        self._fd = fd
        weakref.finalize(self, files.close, fd)

    @classmethod
    def new(cls, files: Files, folder: str | None) -> Scratch:
        """In ``folder``, or where the system keeps its temporary files. Raises StorageError."""
        places = [folder] if folder is not None else []
        for place in (*places, tempfile.gettempdir()):
            path = os.path.join(place, f"scratch-{secrets.token_hex(8)}{ASIDE}")
            try:
                fd = files.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND)
            except OSError as exc:
                if exc.errno in _ELSEWHERE and place in places:
                    continue
                raise _no_room(place, exc) from exc
            scratch = cls(files, fd)
            try:
                discard(files, path)
            except OSError as exc:
                raise _no_room(place, exc) from exc
            return scratch
        raise AssertionError("the last place returns or raises")

    def append(self, data: bytes | memoryview) -> int:
        """Gives the offset. All of it is written, or none, and it raises StorageError."""
        begin = self.size
        try:
            write_all(self.files, self._fd, data)
        except OSError as exc:
            self.files.truncate(self._fd, begin)
            raise _no_room("a temporary file", exc) from exc
        self.size += len(data)
        return begin

    def read(self, offset: int, size: int) -> bytes:
        """Raises StorageError where the disk does not give back so many bytes."""
        pieces = []
        while size:
            try:
                piece = self.files.read_at(self._fd, size, offset)
            except OSError as exc:
                raise _no_room("a temporary file", exc) from exc
            if not piece:
                raise StorageError(f"a file ends {size} bytes before its end; run the same command again")
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _no_room(place: str, exc: OSError) -> StorageError:
    return StorageError(
        f"{place}: {exc.strerror or exc}. A job of many rows needs about 150 bytes a row on the disk while it is "
        "planned; every acknowledged answer is kept. Free some space or mend the disk, then run the same command again"
    )


class Shelves:
    """Frames of one schema by number. What is put on a shelf comes back in the order in which it was put there."""

    def __init__(self, scratch: Scratch, schema: Mapping[str, pl.DataType]) -> None:
        self.schema = dict(schema)
        self.height = 0
        self._columns = list(schema)
        self._scratch = scratch
        self._places: dict[int, list[tuple[int, int, int]]] = {}

    def __iter__(self) -> Iterator[int]:
        """The shelves with something on them."""
        return iter(sorted(self._places))

    def put(self, shelf: int, frame: pl.DataFrame) -> None:
        """Raises StorageError."""
        if frame.is_empty():
            return
        if frame.columns != self._columns:  # selecting them takes longer than writing a few hundred rows
            frame = frame.select(self._columns)
        buffer = io.BytesIO()
        frame.write_ipc_stream(buffer)
        data = buffer.getbuffer()
        self._places.setdefault(shelf, []).append((self._scratch.append(data), len(data), frame.height))
        self.height += frame.height

    def spread(self, frame: pl.DataFrame, shelf: pl.Expr) -> None:
        """Each row to its shelf, in the order of the rows. Raises StorageError."""
        numbered = frame.select(*self._columns, shelf.cast(pl.UInt32).alias(_SHELF))
        parts = numbered.partition_by(_SHELF, maintain_order=True, include_key=False, as_dict=True)
        for (number,), part in parts.items():
            self.put(int(number), part)

    def rows_on(self, shelf: int) -> int:
        return sum(height for _, _, height in self._places.get(shelf, ()))

    def clear(self, shelf: int) -> None:
        """What was put there counts no longer."""
        self.height -= self.rows_on(shelf)
        self._places.pop(shelf, None)

    def get(self, shelf: int) -> pl.DataFrame:
        """Raises StorageError."""
        frames = [
            pl.read_ipc_stream(io.BytesIO(self._scratch.read(offset, size)))
            for offset, size, _ in self._places.get(shelf, ())
        ]
        return pl.concat(frames) if frames else pl.DataFrame(schema=self.schema)
