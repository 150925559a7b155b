"""Which parts there are: one line per sealed segment, each with the part's size and SHA-256.

The last line of a segment counts. A line with ``dropped`` says that a damaged part was given up by ``verify --repair``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from pipeline.storage.files import Files, create_log, write_all, write_whole
from pipeline.storage.journal import checked, job_seed, seal_line

NAME = "manifest.jsonl"

Print = tuple[int, str]
"""Size and SHA-256 of a file."""


@dataclass(frozen=True, slots=True)
class Part:
    """One immutable file of records."""

    segment: int
    name: str
    rows: int
    size: int
    sha256: str

    def fault(self, found: Print | None) -> str | None:
        """What is wrong with the file, None when it is as it was written."""
        if found is None:
            return f"{self.name} is missing ({self.rows} records)"
        size, sha256 = found
        if size != self.size:
            return f"{self.name} has {size} bytes instead of {self.size} ({self.rows} records)"
        if sha256 != self.sha256:
            return f"{self.name} does not match its SHA-256 ({self.rows} records)"
        return None


@dataclass(frozen=True, slots=True)
class Listing:
    """A manifest as read: its parts by segment, its damaged lines, the offset where a torn last line begins."""

    parts: dict[int, Part]
    dropped: frozenset[int]
    damaged: int
    good_size: int


def read(data: bytes, job: str) -> Listing:
    """Never raises for the content. A bad last line is a torn one; a bad line before a good one is damage."""
    seed = job_seed(job)
    parts: dict[int, Part] = {}
    dropped: set[int] = set()
    bad_at: list[int] = []
    offset = good_size = 0
    for piece in data.split(b"\n")[:-1]:
        end = offset + len(piece) + 1
        # Its beginning too: the header of a removed segment, left in a disk block, has the same seed.
        if piece.startswith(b'{"seg":') and checked(piece, seed):
            _take(orjson.loads(piece), parts, dropped)
            good_size = end
        else:
            bad_at.append(offset)
        offset = end
    return Listing(parts, frozenset(dropped), sum(1 for at in bad_at if at < good_size), good_size)


def _take(line: dict[str, object], parts: dict[int, Part], dropped: set[int]) -> None:
    segment = int(str(line["seg"]))
    if line.get("dropped"):
        parts.pop(segment, None)
        dropped.add(segment)
        return
    dropped.discard(segment)
    parts[segment] = Part(
        segment, str(line["part"]), int(str(line["rows"])), int(str(line["bytes"])), str(line["sha256"])
    )


def part_line(part: Part, job: str) -> bytes:
    members = {"seg": part.segment, "part": part.name, "rows": part.rows, "bytes": part.size, "sha256": part.sha256}
    return seal_line(members, job_seed(job))


def dropped_line(segment: int, job: str) -> bytes:
    return seal_line({"seg": segment, "dropped": True}, job_seed(job))


class Manifest:
    """The file, open for appending. Opening cuts a torn last line off."""

    shared = False

    def __init__(self, files: Files, folder: str, job: str) -> None:
        self.files = files
        self.job = job
        self.path = os.path.join(folder, NAME)
        try:
            data = files.read(self.path)
        except FileNotFoundError:
            files.close(create_log(files, self.path))
            data = b""
        self.listing = read(data, job)
        self.fd = files.open(self.path, os.O_WRONLY | os.O_APPEND)
        self.size = self.listing.good_size
        if len(data) > self.size and not self.shared:
            files.truncate(self.fd, self.size)

    def add(self, line: bytes) -> None:
        """Durable when it returns; cut back to whole lines when it raises."""
        try:
            write_all(self.files, self.fd, line)
        except OSError:
            self.files.truncate(self.fd, self.size)
            raise
        self.size += len(line)
        self.files.datasync(self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            self.files.close(self.fd)
            self.fd = -1


class SharedManifest(Manifest):
    """As several processes append to it, one at a time. Opening cuts nothing off: it may be the line that another one
    is just writing."""

    shared = True

    def add(self, line: bytes) -> None:
        with self._alone():
            data = self.files.read(self.path)
            self.size = data.rfind(b"\n") + 1
            if len(data) > self.size:  # whoever wrote that died over it
                self.files.truncate(self.fd, self.size)
            super().add(line)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self.fd, fcntl.LOCK_UN)


def rewrite(files: Files, folder: str, job: str, listing: Listing) -> None:
    """The good lines alone, as a whole and durable file."""
    lines = [part_line(part, job) for _, part in sorted(listing.parts.items())]
    lines += [dropped_line(segment, job) for segment in sorted(listing.dropped)]
    write_whole(files, os.path.join(folder, NAME), b"".join(lines))
