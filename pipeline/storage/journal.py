"""A line that outlives the process.

A segment is an append-only file of JSON lines. The first line is its header, with a random salt; the last member of
every line is ``"c"``, the CRC-32 of the bytes before it, seeded with the salt (the header's with the job's id). So a
line left over in a disk block of another file never passes for a record of this one.

One unbuffered ``write`` per line survives ``kill -9``. A group ``fdatasync`` makes all lines before it survive a power
cut; it is noted in the file itself (a ``y`` line with the offset), so that a later reader can tell damage to what
was acknowledged from the ragged end that a power cut leaves.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.storage.files import Files, create_log, sync_folder

FORMAT = 1
_TAIL = re.compile(rb',"c":"([0-9a-f]{8})"\}$')
_TAIL_BYTES = len(b',"c":"00000000"}')


def body_of(members: Mapping[str, Any]) -> bytes:
    """A record without its check, as it is kept until it is durable."""
    return orjson.dumps(members)[:-1]


def line_of(body: bytes, seed: int) -> bytes:
    """The record as a line under a segment's seed, newline included."""
    return b'%b,"c":"%08x"}\n' % (body, zlib.crc32(body, seed))


def seal_line(members: Mapping[str, Any], seed: int) -> bytes:
    return line_of(body_of(members), seed)


def checked(line: bytes, seed: int) -> bool:
    """Whether a line (without its newline) is as it was written under this seed."""
    match = _TAIL.search(line, max(0, len(line) - _TAIL_BYTES))
    return match is not None and zlib.crc32(line[: match.start()], seed) == int(match[1], 16)


def job_seed(job: str) -> int:
    return zlib.crc32(job.encode())


def segment_name(number: int) -> str:
    return f"{number:04d}.jsonl"


class Segment:
    """The one that is being appended to. Not safe for two writers; ``sync`` may run in another thread."""

    def __init__(self, files: Files, path: str, job: str, number: int) -> None:
        self.files = files
        self.path = path
        self.number = number
        salt = secrets.token_hex(4)
        self.seed = int(salt, 16)
        self.fd = create_log(files, path)
        self.size = 0  # the last good offset: everything before it is whole lines
        self.durable = 0  # the offset up to which a sync has come back
        self.records = 0
        self.append(seal_line({"e": "h", "format": FORMAT, "job": job, "seg": number, "salt": salt}, job_seed(job)))
        self.sync()
        sync_folder(files, os.path.dirname(path))

    def append(self, data: bytes) -> None:
        """Whole lines in one write. On an error or a short write the file is cut back to whole lines; it raises."""
        try:
            done = self.files.write(self.fd, data)
        except OSError:
            self._cut_back()
            raise
        if done != len(data):
            self._cut_back()
            raise OSError(28, f"only {done} of {len(data)} bytes could be written", self.path)
        self.size += done

    def _cut_back(self) -> None:
        # Going on after a short write would glue the next record to the fragment and lose both.
        self.files.truncate(self.fd, self.size)

    def sync(self) -> None:
        size = self.size
        self.files.datasync(self.fd)
        self.durable = size

    def note_synced(self) -> None:
        self.append(seal_line({"e": "y", "o": self.durable}, self.seed))

    def give_up(self) -> None:
        """A sync failed: keep what was durable before, as far as the disk still listens."""
        with contextlib.suppress(OSError):
            self.files.truncate(self.fd, self.durable)

    def close(self) -> None:
        if self.fd >= 0:
            self.files.close(self.fd)
            self.fd = -1


@dataclass(frozen=True, slots=True)
class Scan:
    """What a segment's bytes hold. ``damaged`` counts bad lines before ``synced``: these had been acknowledged."""

    header: Mapping[str, Any] | None
    lines: list[bytes]  # the good record lines, without newline; header and sync notes left out
    damaged: int
    tail: bytes  # what a crash left unfinished, in file order
    synced: int


def scan(data: bytes, job: str) -> Scan:
    """Read a segment whatever happened to it. Never raises for its content.

    The last line is taken only with its newline: without it the write was cut.
    """
    header_line, newline, more = data.partition(b"\n")
    header = _header(header_line, job) if newline else None
    if header is None:
        # A header is synced before the first record: a bad one with records behind it is damage, not a torn start.
        return Scan(None, [], more.count(b"\n"), data, 0)
    seed = int(str(header["salt"]), 16)
    lines: list[bytes] = []
    bad: list[tuple[int, bytes]] = []
    synced = 0
    offset = 0
    pieces = data.split(b"\n")
    rest = pieces.pop()
    for piece in pieces:
        if not checked(piece, seed):
            if offset:
                bad.append((offset, piece))
        elif piece.startswith(b'{"e":"y"'):
            synced = max(synced, int(orjson.loads(piece)["o"]))
        else:
            lines.append(piece)
        offset += len(piece) + 1
    if rest:
        bad.append((offset, rest))
    damaged = sum(1 for at, _ in bad if at < synced)
    return Scan(header, lines, damaged, b"\n".join(piece for _, piece in bad), synced)


def _header(line: bytes, job: str) -> Mapping[str, Any] | None:
    if not checked(line, job_seed(job)):
        return None
    header = orjson.loads(line)
    return header if isinstance(header, dict) and header.get("e") == "h" else None
