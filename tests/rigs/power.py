"""What a power cut may leave of a recorded history.

Durable is what a sync came back for. Of everything else any part may or may not have reached the disk: a name that
was made, moved or removed; a write as a whole, in blocks, as zeros, or as what an older file left in its blocks.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.rigs.disk import Disk, Op

BLOCK = 512
Tree = dict[str, bytes | None]


@dataclass(slots=True)
class _Node:
    durable: bytes = b""
    pending: list[Op] = field(default_factory=list)
    lost: list[Op] = field(default_factory=list)  # their sync failed: perhaps there, and no later sync says so

    def sync(self) -> None:
        self.durable, self.pending = self.current(), []
        self.lost = [op for op in self.lost if op.offset < len(self.durable)]

    def lose(self) -> None:
        self.lost += [op for op in self.pending if op.kind == "write"]
        self.pending = [op for op in self.pending if op.kind != "write"]

    def current(self) -> bytes:
        content = self.durable
        for op in self.pending:
            content = _apply(content, op, op.data)
        return content


@dataclass(slots=True)
class _Folder:
    durable: dict[str, int] = field(default_factory=dict)  # name to node, 0 for a folder
    pending: list[Op] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Luck:
    rng: random.Random
    names: float  # how likely a change of a name has arrived
    data: float  # ... a write
    filling: str  # what stands in a block that has not


class Volume:
    """A disk as a history of calls has left it."""

    def __init__(self, disk: Disk, ops: Iterable[Op]) -> None:
        self.root = disk.root
        self._nodes: dict[int, _Node] = {}
        self._folders: dict[str, _Folder] = {self.root: _Folder()}
        self._names: dict[str, int] = {}
        self._stale: list[bytes] = []  # what removed files leave in their blocks
        for number, (name, data) in enumerate(sorted(disk.base.items()), 1):
            path = os.path.join(self.root, name)
            self._folder(path).durable[os.path.basename(path)] = 0 if data is None else number
            if data is None:
                self._folders[path] = _Folder()
            else:
                self._nodes[number] = _Node(data)
                self._names[path] = number
        for op in ops:
            self._take(op)

    def _folder(self, path: str) -> _Folder:
        return self._folders.setdefault(os.path.dirname(path), _Folder())

    def _take(self, op: Op) -> None:
        if op.kind == "create":
            self._nodes[op.node] = _Node()
            self._names[op.path] = op.node
            self._folder(op.path).pending.append(op)
        elif op.kind in ("write", "truncate"):
            self._nodes[op.node].pending.append(op)
        elif op.kind == "sync":
            self._nodes[op.node].sync()
        elif op.kind == "lose":
            self._nodes[op.node].lose()
        elif op.kind == "rename":
            if os.path.dirname(op.path) != os.path.dirname(op.target):
                raise NotImplementedError("a rename from folder to folder")
            node_number = self._names.pop(op.path)
            self._names[op.target] = node_number
            self._folder(op.path).pending.append(Op("rename", op.path, op.target, node_number))
        elif op.kind == "unlink":
            content = self._nodes[self._names.pop(op.path)].current()
            if op.path.endswith(".jsonl"):  # lines, which could pass for lines of another file
                self._stale.append(content)
            self._folder(op.path).pending.append(op)
        elif op.kind == "folder":
            self._folders[op.path] = _Folder()
            self._folder(op.path).pending.append(op)
        elif op.kind == "sync_folder":
            folder = self._folders.setdefault(op.path, _Folder())
            for change in folder.pending:
                _rename(folder.durable, change)
            folder.pending = []

    def image(self, seed: int) -> Tree:
        """One of the states in which the machine may come up again."""
        rng = random.Random(seed)
        names, data = rng.choice([0.0, 0.5, 0.9, 1.0]), rng.choice([0.0, 0.5, 0.9, 1.0])
        filling = rng.choice(["zeros", "old", "stale"])
        tree: Tree = {}
        self._fill(self.root, "", tree, _Luck(rng, names, data, filling))
        return tree

    def worst(self) -> Tree:
        """Nothing has stayed but what a sync came back for."""
        tree: Tree = {}
        self._fill(self.root, "", tree, _Luck(random.Random(0), 0.0, 0.0, "zeros"))
        return tree

    def _fill(self, path: str, under: str, tree: Tree, luck: _Luck) -> None:
        folder = self._folders[path]
        names = dict(folder.durable)
        for change in folder.pending:
            if luck.rng.random() < luck.names:
                _rename(names, change)
        for name, number in sorted(names.items()):
            if number:
                tree[under + name] = self._content(self._nodes[number], luck)
            else:
                tree[under + name] = None
                self._fill(os.path.join(path, name), f"{under}{name}/", tree, luck)

    def _content(self, node: _Node, luck: _Luck) -> bytes:
        content = node.durable
        for op in (*node.lost, *node.pending):
            if luck.rng.random() >= luck.data:
                continue
            data = op.data
            if op.kind == "write" and luck.rng.random() < 0.5:
                data = self._torn(op, content, luck)
            content = _apply(content, op, data)
        return content

    def _torn(self, op: Op, before: bytes, luck: _Luck) -> bytes:
        """The write with some of its blocks (as they lie on the disk) not arrived."""
        data = bytearray(op.data)
        stale = luck.rng.choice(self._stale) if self._stale and luck.filling == "stale" else b""
        begin = op.offset
        while begin < op.offset + len(data):
            end = min((begin // BLOCK + 1) * BLOCK, op.offset + len(data))
            if luck.rng.random() < 0.5:
                there = {"old": before, "stale": stale}.get(luck.filling, b"")[begin:end]
                data[begin - op.offset : end - op.offset] = there.ljust(end - begin, b"\0")
            begin = end
        return bytes(data)


def _apply(content: bytes, op: Op, data: bytes) -> bytes:
    if op.kind == "truncate":
        return content[: op.offset].ljust(op.offset, b"\0")
    return content[: op.offset].ljust(op.offset, b"\0") + data + content[op.offset + len(data) :]


def _rename(names: dict[str, int], change: Op) -> None:
    name = os.path.basename(change.path)
    if change.kind == "create":
        names[name] = change.node
    elif change.kind == "folder":
        names[name] = 0
    elif change.kind == "unlink":
        names.pop(name, None)
    else:
        names.pop(name, None)
        names[os.path.basename(change.target)] = change.node
