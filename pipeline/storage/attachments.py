"""Local files that are sent to somebody else, out of one folder and nowhere else.

The paths come from a table that anyone may have written. So: a path must lead, links resolved, below the root; it is
walked from the root's own descriptor without following a link, so that nothing swapped in meanwhile leads elsewhere;
and nothing but a regular file is opened, without waiting (a FIFO would wait for ever), and never read past the cap.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterable

from pipeline.errors import SpecError, StorageError, Unattachable

_SETTLED_NS = 2_000_000_000
"""A file written to this recently may change once more without its times telling (coarse clocks of file systems)."""

_SHOWN = 150
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OF_THE_ROW = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENXIO)
)


class Shelf:
    """The folder that files are taken from. Raises SpecError when there is none."""

    def __init__(self, root: str, max_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self._real = os.path.realpath(root)
        if not os.path.isdir(self._real):
            raise SpecError(f"attachments.root: {root} is no folder that can be entered; name the one with the files")

    def read(self, path: str) -> bytes:
        """The whole content. Raises Unattachable for what is wrong with this file, StorageError when the disk fails."""
        try:
            with contextlib.ExitStack() as closing:
                fd = self._open(path, closing)
                return self._content(fd, path)
        except (OSError, ValueError) as exc:
            if isinstance(exc, OSError) and exc.errno not in _OF_THE_ROW:
                raise StorageError(
                    f"{_shown(path)} in {self.root} cannot be read: {exc.strerror or exc}; every answer is kept. "
                    "Mend that, then run the same command again"
                ) from exc
            reason = "no file can have this name" if isinstance(exc, ValueError) else exc.strerror
            raise Unattachable(
                f"{_shown(path)} in {self.root}: {reason}; mend the path, or put the file there"
            ) from None

    def stamp(self, paths: Iterable[str], now_ns: int) -> str:
        """Names the state that these files are in, without reading them: equal stamps, equal contents. Empty when one
        was written to so recently that nobody can promise that."""
        digest = hashlib.sha256(f"{self._real}\0{self.max_bytes}\n".encode("utf-8", "surrogateescape"))
        for path in paths:
            seen: tuple[int, ...]
            try:
                found = os.stat(os.path.join(self._real, path))
                # The change time tells of a content that was replaced with its old modification time kept.
                seen = (found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
                if now_ns - max(found.st_mtime_ns, found.st_ctime_ns) < _SETTLED_NS:
                    return ""
            except (OSError, ValueError):
                seen = ()
            digest.update(f"{len(path)}:{path}{seen}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def _open(self, path: str, closing: contextlib.ExitStack) -> int:
        real = os.path.realpath(os.path.join(self._real, path))
        if os.path.commonpath((self._real, real)) != self._real:
            raise Unattachable(
                f"{_shown(path)} leads out of {self.root} (attachments.root), so it is not read; copy it there"
            )
        *folders, name = os.path.relpath(real, self._real).split(os.sep)
        fd = _closed_by(closing, os.open(self._real, _FOLDER & ~os.O_NOFOLLOW))
        for folder in folders:
            fd = _closed_by(closing, os.open(folder, _FOLDER, dir_fd=fd))
        # Before it is opened: opening a device may move it, opening a FIFO frees whoever waits to write.
        _refuse_special(os.stat(name, dir_fd=fd, follow_symlinks=False), path)
        fd = _closed_by(closing, os.open(name, _FILE, dir_fd=fd))
        _refuse_special(os.fstat(fd), path)
        return fd

    def _content(self, fd: int, path: str) -> bytes:
        size = os.fstat(fd).st_size
        pieces: list[bytes] = []
        got = 0
        while got <= self.max_bytes and size <= self.max_bytes:
            piece = os.read(fd, min(max(size, 1 << 16), self.max_bytes + 1 - got))
            if not piece:
                break
            pieces.append(piece)
            got += len(piece)
        if max(got, size) > self.max_bytes:
            raise Unattachable(
                f"{_shown(path)} has {max(got, size):,} bytes, more than attachments.max_mb "
                f"({self.max_bytes / 1_000_000:g} MB) allows; shrink it, or raise that"
            )
        if not got:
            raise Unattachable(f"{_shown(path)} is empty; put the file there anew")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _shown(path: str) -> str:
    return repr(path if len(path) <= _SHOWN else path[:_SHOWN] + "...")


def _closed_by(closing: contextlib.ExitStack, fd: int) -> int:
    closing.callback(os.close, fd)
    return fd


def _refuse_special(found: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise Unattachable(f"{_shown(path)} is a folder; name the file in it")
    if not stat.S_ISREG(found.st_mode):
        raise Unattachable(
            f"{_shown(path)} is no regular file (a link, a pipe, a socket or a device), so it is not read"
        )
