"""Who holds a job's lock, and how it is told to stop: it, and never anyone else.

The number in LOCK is a note for people. Before a signal leaves, all of this must hold: the lock is held, the note was
written on this host, and the process of that number has this very file open. The process is pinned before that is
looked at, so that its number cannot pass to another one in between.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator

from pipeline.errors import RunPaused
from pipeline.storage.files import Files, content
from pipeline.storage.lock import Holder, held, holder_in


def noted(path: str) -> Holder | None:
    """None without a whole note: there is no lock file, or its holder is just about to write."""
    return holder_in(content(Files(), path) or b"")


def terminate(path: str, holder: Holder) -> bool:
    """Send SIGTERM to the holder of the lock; False when it has ended meanwhile. Raises RunPaused where it cannot be
    told for certain which process that is."""
    if holder.host != socket.gethostname():
        raise _refused(path, holder, f"it runs on {holder.host}; run `pipeline stop` there")
    try:
        with _pinned(holder.pid) as send:
            if not held(path):
                return False
            if not _has_open(holder.pid, path):
                raise _refused(path, holder, f"no process {holder.pid} is seen here that has the lock open")
            send(signal.SIGTERM)
    except ProcessLookupError:
        if held(path):
            raise _refused(path, holder, f"there is no process {holder.pid} here") from None
        return False
    except PermissionError as exc:
        raise _refused(path, holder, "it belongs to another user") from exc
    return True


@contextlib.contextmanager
def _pinned(pid: int) -> Iterator[Callable[[int], None]]:
    """Gives what sends a signal to this process and to no later one of the same number."""
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError) as exc:
        if isinstance(exc, OSError) and exc.errno != errno.ENOSYS:
            raise
        # An old kernel: numbers are given out in turn, so none comes round between the last look and the signal.
        yield lambda number: os.kill(pid, number)
        return
    try:
        yield lambda number: signal.pidfd_send_signal(fd, number)
    finally:
        os.close(fd)


def _has_open(pid: int, path: str) -> bool:
    ours = os.stat(path, follow_symlinks=False)
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return False
    for name in names:
        with contextlib.suppress(OSError):  # closed while we looked
            seen = os.stat(os.path.join(folder, name))
            if (seen.st_dev, seen.st_ino) == (ours.st_dev, ours.st_ino):
                return True
    return False


def _refused(path: str, holder: Holder, why: str) -> RunPaused:
    return RunPaused(
        f"{os.path.dirname(path)} is in use by process {holder.pid} on {holder.host} (since {holder.started}), but "
        f"{why}. Nothing was signalled; where that run was started, Ctrl-C or `kill -TERM {holder.pid}` stops it"
    )
