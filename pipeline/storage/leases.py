"""Jobs of one user that draw on the same allowance, seen through files: one lease for each job that runs.

The state folder holds a ``secret`` and, for each address and key, a folder with a ``LOCK``, held for the moment of a
look, and the leases. A job holds a ``flock`` on its own lease for as long as it runs. The kernel frees that the moment
the job dies, however it dies, so no number of a process is ever trusted; and a job that is alive but stopped is known
by a lease whose words do not change. Nothing here is synced: after a power cut there is no job to remember.

The key is in no file. It names the folder through a hash that needs the secret, so no name tells whether a guessed key
is the right one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b

from pipeline.storage.files import ASIDE, Files, content, create, discard, is_named, write_all

STALE_S = 5.0
"""A lease that says the same for so long belongs to a job that is stopped, and counts for nothing."""

LOCK_WAIT_S = 1.0
_SECRET_BYTES = 32
_MOST_BYTES = 65_536
_LEASE = ".lease"
_APP = "prompt-pipeline"

Step = Callable[[Sequence[bytes]], bytes]
"""The words of the other leases in, the words of one's own out."""


def state_folder(environ: Mapping[str, str]) -> str:
    """Where programs of this user keep what outlives them. Raises OSError when there is no such place."""
    told = environ.get("XDG_STATE_HOME", "")
    home = told if os.path.isabs(told) else os.path.join(os.path.expanduser("~"), ".local", "state")
    if not os.path.isabs(home):
        raise FileNotFoundError("this user has no home folder, and XDG_STATE_HOME names none")
    return os.path.join(home, _APP)


def table_name(secret: bytes, base_url: str, key: str | None, format_: int) -> str:
    """Equal for jobs that share. Without the secret it tells nothing of the key."""
    named = "\0".join((str(format_), base_url, key or ""))
    return blake2b(named.encode("utf-8", "surrogateescape"), key=secret, digest_size=16).hexdigest()


class Leases:
    """This job's lease among the others. Every method may block on the disk; any thread may call it."""

    def __init__(
        self,
        home: str,
        base_url: str,
        key: str | None,
        format_: int,
        *,
        files: Files | None = None,
        clock: Callable[[], float] = time.monotonic,
        lock_wait_s: float = LOCK_WAIT_S,
    ) -> None:
        self._home = home
        self._named = (base_url, key, format_)
        self._files = files or Files()
        self._clock = clock
        self._lock_wait_s = lock_wait_s
        self._path = ""  # of the own lease, when it has one
        self._fd = -1
        self._seen: dict[str, tuple[bytes, float]] = {}  # what other leases say, and since when
        self._busy = threading.Lock()
        self._left = False

    def exchange(self, step: Step) -> None:
        """Look at the others' words and say one's own, while nobody else does. Raises OSError; what others see then
        is the lease as it was."""
        if not self._busy.acquire(blocking=False):
            raise TimeoutError("the last look at the table has not ended")
        try:
            if self._left:
                return
            folder = self._table()
            with self._alone(folder):
                self._own(folder)
                self._say(step(self._others(folder)))
        finally:
            self._busy.release()

    def leave(self) -> None:
        """Give the lease back, for good. Raises nothing: what cannot be removed dies with the process."""
        self._left = True
        if not self._busy.acquire(timeout=self._lock_wait_s):
            return
        try:
            with contextlib.suppress(OSError):
                if self._path and self._named_still():
                    discard(self._files, self._path)
            self._drop()
        finally:
            self._busy.release()

    # -- folders ---------------------------------------------------------------------------------------------------

    def _table(self) -> str:
        self._files.make_folder(self._home)
        base_url, key, format_ = self._named
        folder = os.path.join(self._home, table_name(self._secret(), base_url, key, format_))
        self._files.make_folder(folder)
        return folder

    def _secret(self) -> bytes:
        """None there yet, or a broken one: whoever has the lock makes it, the others read what it made."""
        path = os.path.join(self._home, "secret")
        found = content(self._files, path)
        if found is None or len(found) != _SECRET_BYTES:
            with self._alone(self._home):
                found = content(self._files, path)
                if found is None or len(found) != _SECRET_BYTES:
                    found = secrets.token_bytes(_SECRET_BYTES)
                    self._write_aside(path, found)
        return found

    def _write_aside(self, path: str, data: bytes) -> None:
        aside = path + ASIDE
        discard(self._files, aside)
        fd = create(self._files, aside)
        try:
            write_all(self._files, fd, data)
        finally:
            self._files.close(fd)
        self._files.rename(aside, path)

    # -- locks -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self, folder: str) -> Iterator[None]:
        fd = self._files.open(os.path.join(folder, "LOCK"), os.O_RDWR | os.O_CREAT)
        try:
            self._lock(fd)
            yield
        finally:
            self._files.close(fd)

    def _lock(self, fd: int) -> None:
        """Others have it for a moment; one that was stopped in that moment must not stop us."""
        until_s = self._clock() + self._lock_wait_s
        while not _locked(fd, fcntl.LOCK_EX):
            if self._clock() >= until_s:
                raise TimeoutError(f"another job kept the lock of {self._home} for {self._lock_wait_s:g} s")
            time.sleep(0.002)

    # -- leases ----------------------------------------------------------------------------------------------------

    def _own(self, folder: str) -> None:
        """Have a lease there. The one that is held may have been removed with its folder."""
        if self._fd >= 0 and os.path.dirname(self._path) == folder and self._named_still():
            return
        self._drop()
        path = os.path.join(folder, secrets.token_hex(8) + _LEASE)
        fd = self._files.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        if not _locked(fd, fcntl.LOCK_EX):
            self._files.close(fd)
            raise BlockingIOError(f"{path} is new, and locked by somebody else")
        self._path, self._fd = path, fd

    def _named_still(self) -> bool:
        return is_named(self._fd, self._path)

    def _say(self, words: bytes) -> None:
        # In place: nobody reads without the lock, and whoever dies here leaves a lease that nobody believes.
        if os.pwrite(self._fd, words, 0) < len(words):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
        self._files.truncate(self._fd, len(words))

    def _drop(self) -> None:
        if self._fd >= 0:
            self._files.close(self._fd)
            self._fd, self._path = -1, ""

    def _others(self, folder: str) -> list[bytes]:
        """What the leases of jobs say that are alive and not stopped; those of the dead are removed."""
        found, now = [], self._clock()
        seen: dict[str, tuple[bytes, float]] = {}
        for name in self._files.names(folder):
            path = os.path.join(folder, name)
            if not name.endswith(_LEASE) or path == self._path:
                continue
            words = self._living(path)
            if words is None:
                continue
            before = self._seen.get(name)
            seen[name] = before if before is not None and before[0] == words else (words, now)
            if now - seen[name][1] < STALE_S:
                found.append(words)
        self._seen = seen
        return found

    def _living(self, path: str) -> bytes | None:
        """None: its job is dead, and the file is gone now."""
        try:
            fd = self._files.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None  # its job has just left
        try:
            if _locked(fd, fcntl.LOCK_SH):
                discard(self._files, path)
                return None
            return os.pread(fd, _MOST_BYTES, 0)
        finally:
            self._files.close(fd)


def _locked(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
