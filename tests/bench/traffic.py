"""Which files the bytes of a run go to: what it writes more than once is seen by its kind."""

from __future__ import annotations

import re
from collections import Counter

from pipeline.storage.files import Files

_KINDS = (
    ("parts", re.compile(r"/parts/")),
    ("tables", re.compile(r"/(results|failed|attempts)\.parquet")),
    ("keys", re.compile(r"/keys[.\d]|/begun")),
)
_MARK = b'{"e":"s"'
"""How the line begins that is written before a request is sent."""


def counted() -> Counter[str]:
    """From here on every write through ``Files`` adds to it. The command's own code is not touched."""
    by_kind: Counter[str] = Counter()
    paths: dict[int, str] = {}
    open_, write = Files.open, Files.write

    def open_noted(self: Files, path: str, flags: int) -> int:
        fd = open_(self, path, flags)
        paths[fd] = path
        return fd

    def write_counted(self: Files, fd: int, data: bytes | memoryview) -> int:
        count = write(self, fd, data)
        by_kind[_kind(paths.get(fd, ""), data)] += count
        return count

    Files.open, Files.write = open_noted, write_counted  # type: ignore[method-assign]
    return by_kind


def _kind(path: str, data: bytes | memoryview) -> str:
    if "/journal/" in path:
        return "marks before requests" if data[: len(_MARK)] == _MARK else "journal"
    return next((kind for kind, pattern in _KINDS if pattern.search(path)), "other")


def told(by_kind: dict[str, int], answers: int) -> str:
    """Each kind in multiples of the answers, the largest first."""
    largest = sorted(by_kind.items(), key=lambda one: -one[1])
    return ", ".join(f"{kind} {count / answers:.2f}" for kind, count in largest if count >= 0.005 * answers)
