"""A disk for the checkpoint that records every call, fails where it is told to, and can be full.

Nothing is synced for real (that is what makes a thousand crashes a matter of seconds): what would have survived a
power cut is worked out from the recorded calls in ``power.py``.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.storage.files import Files

KINDS = ("open", "write", "datasync", "fsync", "rename", "unlink", "truncate")
_ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}


class Killed(BaseException):
    """The process ends here: every further call raises it too."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The ``at``-th call of a kind goes wrong: ``kill``, ``ENOSPC``, ``EIO``, ``short`` (half of a write), or ``dead``
    (EIO, and every later call fails as well)."""

    kind: str
    at: int
    what: str


@dataclass(frozen=True, slots=True)
class Op:
    """One change, as far as a power cut is concerned."""

    kind: str  # create write truncate sync lose rename unlink folder sync_folder
    path: str = ""
    target: str = ""
    node: int = 0
    offset: int = 0  # of a write; the new size of a truncate
    data: bytes = b""


class Disk(Files):
    def __init__(self, root: str, *faults: Fault, room: int | None = None) -> None:
        self.root = root
        self.faults = faults
        self.room = room  # bytes left, None for plenty
        self.fired = False
        self.dead = False
        self.broken = False
        self.synced_again = 0  # syncs of a descriptor after a sync of it had failed
        self.calls: Counter[str] = Counter()
        self.ops: list[Op] = []
        self.before_op: Callable[[], None] = lambda: None
        self.base: dict[str, bytes | None] = tree_of(root)  # what there was at first; None for a folder
        self._names: dict[str, int] = {}  # path to node
        self._open: dict[int, _Opened] = {}
        self._sizes: dict[int, int] = {}
        self._reserved: dict[int, int] = {}  # node to bytes allocated
        self._failed: set[int] = set()  # nodes whose last sync failed
        for number, (name, data) in enumerate(sorted(self.base.items()), 1):
            if data is not None:
                self._names[os.path.join(root, name)] = number
                self._sizes[number] = len(data)
        self._next = len(self.base) + 1

    # -- the life of a process -------------------------------------------------------------------------------------

    def die(self) -> None:
        """What a killed process leaves: its descriptors close, and it makes no further call."""
        self.dead = True
        for fd in list(self._open):
            os.close(fd)
        self._open.clear()

    def revive(self, *faults: Fault) -> None:
        """The next process, on the same disk."""
        self.die()
        self.dead = self.broken = self.fired = False
        self.faults = faults
        self.calls.clear()

    # -- faults ----------------------------------------------------------------------------------------------------

    def _enter(self, kind: str) -> str | None:
        if self.dead:
            raise Killed
        self.calls[kind] += 1
        if self.broken:
            return "EIO"
        for fault in self.faults:
            if fault.kind == kind and self.calls[kind] == fault.at:
                self.fired = True
                self.broken = fault.what == "dead"
                return "EIO" if self.broken else fault.what
        return None

    def _strike(self, what: str | None) -> None:
        if what == "kill":
            self.dead = True
            raise Killed
        if what in _ERRORS:
            raise OSError(_ERRORS[what], os.strerror(_ERRORS[what]))

    def _note(self, op: Op) -> None:
        self.before_op()
        self.ops.append(op)

    # -- calls -----------------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int) -> int:
        self._strike(self._enter("open"))
        fd = super().open(path, flags)
        if flags & os.O_DIRECTORY:
            self._open[fd] = _Opened(path, 0, append=False)
            return fd
        if path not in self._names:
            self._names[path] = self._next
            self._next += 1
            self._note(Op("create", path, node=self._names[path]))
        node = self._names[path]
        if flags & os.O_TRUNC:
            self._note(Op("truncate", node=node))
            self._sizes[node] = 0
        self._open[fd] = _Opened(path, node, append=bool(flags & os.O_APPEND))
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        what = self._enter("write")
        data = bytes(data)
        if what == "short" or (what == "kill" and self.calls["write"] % 2):
            data = data[: len(data) // 2]
        elif what is not None:
            self._strike(what)
        if self.room is not None and len(data) > self.room:
            if not self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[: self.room]
        done = super().write(fd, data)
        opened = self._open[fd]
        offset = self._sizes.get(opened.node, 0) if opened.append else opened.position
        self._note(Op("write", opened.path, node=opened.node, offset=offset, data=data))
        opened.position = offset + done
        self._sizes[opened.node] = max(self._sizes.get(opened.node, 0), offset + done)
        self._use(done)
        if what == "kill":
            self._strike(what)
        return done

    def datasync(self, fd: int) -> None:
        self._sync("datasync", fd)

    def fsync(self, fd: int) -> None:
        self._sync("fsync", fd)

    def _sync(self, kind: str, fd: int) -> None:
        what = self._enter(kind)
        opened = self._open[fd]
        if what in _ERRORS and opened.node:
            # As Linux does it: the pages count as clean from here, and the next sync has nothing to complain of.
            self._failed.add(opened.node)
            self._note(Op("lose", opened.path, node=opened.node))
        self._strike(what)
        self.synced_again += opened.node in self._failed
        self._note(Op("sync", node=opened.node) if opened.node else Op("sync_folder", opened.path))

    def truncate(self, fd: int, size: int) -> None:
        self._strike(self._enter("truncate"))
        super().truncate(fd, size)
        opened = self._open[fd]
        self._note(Op("truncate", opened.path, node=opened.node, offset=size))
        self._use(size - self._sizes.get(opened.node, 0))
        self._sizes[opened.node] = size

    def allocate(self, fd: int, size: int) -> None:
        if self.dead:
            raise Killed
        if self.room is not None and size > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._reserved[self._open[fd].node] = size
        self._use(size)

    def close(self, fd: int) -> None:
        if self._open.pop(fd, None) is not None:
            super().close(fd)

    def rename(self, source: str, target: str) -> None:
        self._strike(self._enter("rename"))
        super().rename(source, target)
        self._note(Op("rename", source, target))
        self._names[target] = self._names.pop(source)

    def unlink(self, path: str) -> None:
        self._strike(self._enter("unlink"))
        super().unlink(path)
        self._note(Op("unlink", path))
        node = self._names.pop(path)
        self._use(-self._reserved.pop(node, self._sizes.get(node, 0)))

    def make_folder(self, path: str) -> None:
        if self.dead:
            raise Killed
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
            self._note(Op("folder", path))

    def read(self, path: str) -> bytes:
        if self.dead:
            raise Killed
        return super().read(path)

    def names(self, folder: str) -> list[str]:
        if self.dead:
            raise Killed
        return super().names(folder)

    def _use(self, size: int) -> None:
        if self.room is not None:
            self.room -= size


@dataclass(slots=True)
class _Opened:
    path: str
    node: int  # 0 for a folder
    append: bool
    position: int = 0


def tree_of(root: str) -> dict[str, bytes | None]:
    """Every file and folder under ``root``, by relative path; the lock, which no power cut can hurt, left out."""
    tree: dict[str, bytes | None] = {}
    for folder, folders, files in os.walk(root):
        for name in folders:
            tree[os.path.relpath(os.path.join(folder, name), root)] = None
        for name in files:
            if name != "LOCK":
                with open(os.path.join(folder, name), "rb") as file:
                    tree[os.path.relpath(os.path.join(folder, name), root)] = file.read()
    return tree


def lay_out(tree: dict[str, bytes | None], root: str) -> None:
    """The other way: a folder as ``tree`` has it."""
    os.makedirs(root)
    for name, data in sorted(tree.items()):
        path = os.path.join(root, name)
        if data is None:
            os.makedirs(path, exist_ok=True)
        else:
            with open(path, "wb") as file:
                file.write(data)
