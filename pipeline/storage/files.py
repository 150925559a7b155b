"""The operating system as the checkpoint sees it: one small object, so that a test can fail, cut or record any call.

Two habits hold for every caller. A file appears whole or not at all: written aside, synced, renamed, folder synced.
And nothing is trusted to be on the disk before its ``fsync`` came back; a failed ``fsync`` is never repeated on the
same descriptor, because the kernel may have dropped the pages it could not write.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

FILE_MODE = 0o600
FOLDER_MODE = 0o700
ASIDE = ".tmp"
"""Suffix of a file that is not whole yet. It is no table suffix, so that no reader's glob takes it for one."""


class Files:
    """Plain calls of the operating system; raises OSError as it does."""

    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        return os.write(fd, data)

    def datasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def date(self, fd: int, time_ns: int) -> None:
        """When the file says it was last written to."""
        os.utime(fd, ns=(time_ns, time_ns))

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def allocate(self, fd: int, size: int) -> None:
        os.posix_fallocate(fd, 0, size)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, source: str, target: str) -> None:
        os.replace(source, target)

    def link(self, source: str, target: str) -> None:
        os.link(source, target, follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def make_folder(self, path: str) -> None:
        os.makedirs(path, FOLDER_MODE, exist_ok=True)

    def read(self, path: str) -> bytes:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(fd, "rb") as file:
            return file.read()

    def read_at(self, fd: int, size: int, offset: int) -> bytes:
        """At most ``size`` bytes; none at the end of the file."""
        return os.pread(fd, size, offset)

    def names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none when there is no such folder."""
        try:
            return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []


def write_all(files: Files, fd: int, data: bytes | memoryview) -> None:
    """Write every byte, whatever number the system takes at a time."""
    view = memoryview(data)
    while view:
        view = view[files.write(fd, view) :]


def sync_folder(files: Files, folder: str) -> None:
    """Make the names in a folder durable."""
    fd = files.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        files.fsync(fd)
    finally:
        files.close(fd)


def content(files: Files, path: str) -> bytes | None:
    """What a file holds, None when there is none."""
    try:
        return files.read(path)
    except FileNotFoundError:
        return None


def make_folder(files: Files, path: str) -> None:
    """Make a folder and what is missing above it; its name is durable, and so are theirs."""
    above = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(above):
        make_folder(files, above)
    files.make_folder(path)
    with contextlib.suppress(PermissionError):  # a folder that we may enter but not read
        sync_folder(files, above)


def discard(files: Files, path: str) -> None:
    """Remove a file that may not be there."""
    try:
        files.unlink(path)
    except FileNotFoundError:
        return


def create(files: Files, path: str) -> int:
    """A new file of our own: never an existing one, never through a link."""
    return files.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def create_log(files: Files, path: str) -> int:
    """A new file that is only ever appended to."""
    return files.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)


def publish(files: Files, aside: str, path: str) -> None:
    """Give a synced file its name, durably."""
    files.rename(aside, path)
    sync_folder(files, os.path.dirname(path))


def write_whole(files: Files, path: str, data: bytes) -> None:
    """The file holds ``data``, or what it held before, whenever the machine stops."""
    aside = path + ASIDE
    discard(files, aside)
    fd = create(files, aside)
    try:
        write_all(files, fd, data)
        files.fsync(fd)
    except OSError:
        discard(files, aside)
        raise
    finally:
        files.close(fd)
    publish(files, aside, path)


def is_named(fd: int, path: str) -> bool:
    """Whether the open file is the one of that name now."""
    ours = os.fstat(fd)
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (named.st_ino, named.st_dev) == (ours.st_ino, ours.st_dev)


def write_pieces(files: Files, path: str, pieces: Iterable[bytes | memoryview], *, time_ns: int | None = None) -> None:
    """Like :func:`write_whole`, piece by piece. ``time_ns``: what the file's time shall say."""
    aside = path + ASIDE
    discard(files, aside)
    fd = create(files, aside)
    try:
        for data in pieces:
            write_all(files, fd, data)
        if time_ns is not None:
            files.date(fd, time_ns)
        files.fsync(fd)
    except BaseException:
        discard(files, aside)
        raise
    finally:
        files.close(fd)
    publish(files, aside, path)


def write_stream(files: Files, path: str, pieces: Iterable[tuple[bytes, int]]) -> int:
    """Like :func:`write_pieces`, for pieces that come with their number of rows; gives their sum."""
    rows = 0

    def counted() -> Iterator[bytes]:
        nonlocal rows
        for data, count in pieces:
            rows += count
            yield data

    write_pieces(files, path, counted())
    return rows
