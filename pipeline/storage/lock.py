"""One writer per job folder: an exclusive ``flock`` held for the life of the run.

The kernel frees it the moment the holder dies, so there is no stale lock to clean up. What the file says is for
people only.

A run claims its folder before it loads anything slow, so that the second of two leaves at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import orjson

from pipeline.errors import CheckpointError, InUse
from pipeline.storage.files import FILE_MODE, Files, discard, is_named, make_folder
from pipeline.storage.layout import Layout


@dataclass(frozen=True, slots=True)
class Holder:
    """As the note has it, which may be an earlier holder's until the lock is known to be held."""

    pid: int
    host: str
    started: str


class Lock:
    """Taken on creation; raises InUse (exit 75) when another run holds it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1
        while not self._named():
            self.release()  # the holder before us took the file away with its empty folder: a new one counts
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
            if not _take(self.fd):
                holder = _holder(self.fd)
                self.release()
                raise _in_use(path, holder)
        note = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, orjson.dumps(note) + b"\n", 0)

    @classmethod
    def inherited(cls, path: str, fd: int) -> Self:
        """The lock of the process that started this one, which holds it as long as either lives."""
        lock = cls.__new__(cls)
        lock.path, lock.fd = path, fd
        os.set_inheritable(fd, False)
        return lock

    def check(self) -> None:
        """The lock still guards its name. Raises CheckpointError when the file was deleted or replaced."""
        if not self._named():
            raise CheckpointError(
                f"{self.path} was deleted or replaced while this run held it; another run may have started. "
                "Stop the other run, then run this job again"
            )

    def _named(self) -> bool:
        """Whether the file that we hold is the one of that name."""
        return self.fd >= 0 and is_named(self.fd, self.path)

    def release(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _take(fd: int) -> bool:
    # Again twice: `status` has the lock for an instant when it asks, and a holder needs one to write its name.
    for pause_s in (0.02, 0.08, 0.0):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause_s)
        else:
            return True
    return False


@contextlib.contextmanager
def claimed(folder: str, files: Files | None = None) -> Iterator[Lock]:
    """The lock of a checkpoint folder, which is made where it is missing. Raises RunPaused and CheckpointError.

    When nothing has been recorded by the end (the input is wrong, say), what was made for the lock is taken away.
    """
    files, layout = files or Files(), Layout(folder)
    made = _missing(folder)
    try:
        make_folder(files, folder)
        lock = Lock(layout.lock)
    except (FileExistsError, NotADirectoryError) as exc:
        raise CheckpointError(
            f"{_in_the_way(folder)} cannot be used as an output folder: a file of that name is there. "
            "Name another one in `output:`"
        ) from exc
    except OSError as exc:
        raise CheckpointError(
            f"{folder} cannot be used as an output folder: {exc.strerror or exc}. Mend that, or name another one in "
            "`output:`"
        ) from exc
    try:
        yield lock
    finally:
        if lock.fd >= 0 and not os.path.lexists(layout.job):
            _take_away(files, layout, made)
        lock.release()


def _missing(folder: str) -> list[str]:
    """The folder and those above it that are not there yet, the innermost first."""
    missing = []
    while folder and not os.path.lexists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing


def _in_the_way(folder: str) -> str:
    while folder and not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return folder


def _take_away(files: Files, layout: Layout, made: list[str]) -> None:
    with contextlib.suppress(OSError):  # somebody has put something there; it stays
        if made:
            discard(files, layout.lock)
        for folder in made:
            os.rmdir(folder)


def _in_use(path: str, holder: str) -> InUse:
    return InUse(
        f"{os.path.dirname(path)} is in use by another run{holder}; nothing was sent. "
        "Wait for it, stop it, or look at it with `pipeline status`"
    )


def held(path: str) -> bool:
    """Whether some process holds the lock now (for ``status``; out of date as soon as it is said)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _holder(fd: int) -> str:
    found = holder_in(os.pread(fd, 4096, 0))
    return "" if found is None else f" (process {found.pid} on {found.host}, since {found.started})"


def holder_in(note: bytes) -> Holder | None:
    """None without a whole note: its holder is just about to write it."""
    try:
        told = orjson.loads(note)
        return Holder(int(told["pid"]), str(told["host"]), str(told["started"]))
    except (ValueError, KeyError, TypeError):
        return None
