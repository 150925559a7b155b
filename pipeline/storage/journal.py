"""A line that outlives the process.

A segment is an append-only file of lines, JSON or packed (``packing``). The first is its header, with a random salt.
Each line ends with a check, the CRC-32 of the bytes before it, seeded with the salt (the header's with the job's id):
the last member, ``"c"``, of a JSON line, the mere digits in a packed one. So a line left over in a disk block of
another file never passes for a record of this one.

One unbuffered ``write`` per line survives ``kill -9``. A group ``fdatasync`` makes all lines before it survive a power
cut; it is noted in the file itself (a ``y`` line with the offset), so that a later reader can tell damage to what
was acknowledged from the ragged end that a power cut leaves.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.storage.files import Files, create_log, sync_folder, write_whole
from pipeline.storage.packing import PACKED, Packer, Unpacker

FORMAT = 2
READABLE = (1, FORMAT)  # 1: no packed lines
REMEMBERED_BYTES = 8 << 20
REMEMBERED_RECORDS = 8_000
"""A segment beyond either is read from its file alone. Bytes are counted as they stand there; of packed ones the second
number is the bound, as no record of more than 2 KiB is packed."""

_CHECK_BYTES = 8
_TAIL_BYTES = len(b',"c":"00000000"}')
_START = re.compile(rb'\{"(?:e":"|z")')
_SYNCED = b'{"e":"y"'
_RECORD = b'{"e":"'
_NOTED = re.compile(rb'\{"e":"y","o":\d+,"s":"([0-9a-f]{8})","c":"[0-9a-f]{8}"\}')


def body_of(members: Mapping[str, Any]) -> bytes:
    """A record without its check, as it is kept until it is durable."""
    return orjson.dumps(members)[:-1]


def line_of(body: bytes, seed: int) -> bytes:
    """The record as a JSON line under a segment's seed, newline included."""
    return b'%b,"c":"%08x"}\n' % (body, zlib.crc32(body, seed))


def lines_of(bodies: Sequence[bytes], seed: int, packer: Packer) -> bytes:
    """Records as lines, packed where that is shorter."""
    if len(bodies) == 1:  # every answer comes alone; several only where a segment takes over from another
        return _packed_line(bodies[0], seed, packer)
    return b"".join([_packed_line(body, seed, packer) for body in bodies])


def _packed_line(body: bytes, seed: int, packer: Packer) -> bytes:
    packed = packer.packed(body)
    return line_of(body, seed) if packed is body else b"%b%08x\n" % (packed, zlib.crc32(packed, seed))


def seal_line(members: Mapping[str, Any], seed: int) -> bytes:
    return line_of(body_of(members), seed)


def checked(line: bytes, seed: int) -> bool:
    """Whether a line (without its newline) is as it was written under this seed."""
    if line.startswith(PACKED):
        return line[-_CHECK_BYTES:] == b"%08x" % zlib.crc32(line[:-_CHECK_BYTES], seed)
    return line[-_TAIL_BYTES:] == b',"c":"%08x"}' % zlib.crc32(line[:-_TAIL_BYTES], seed)


def job_seed(job: str) -> int:
    return zlib.crc32(job.encode())


def _header(job: str, number: int, salt: str) -> bytes:
    return seal_line({"e": "h", "format": FORMAT, "job": job, "seg": number, "salt": salt}, job_seed(job))


def _note(synced: int, seed: int, job: str) -> bytes:
    # The seed comes along, bound to the job, so that a damaged header does not take its lines with it.
    return seal_line({"e": "y", "o": synced, "s": f"{seed ^ job_seed(job):08x}"}, seed)


def segment_name(number: int) -> str:
    return f"{number:04d}.jsonl"


def segment_number(name: str) -> int | None:
    return number_in(name, "", ".jsonl")


def number_in(name: str, prefix: str, suffix: str) -> int | None:
    """The number of a file of ours, None for any other name."""
    middle = name.removeprefix(prefix).removesuffix(suffix)
    return int(middle) if middle.isdecimal() and name == f"{prefix}{middle}{suffix}" else None


class Segment:
    """The one that is being appended to. Not safe for two writers; ``flush`` may run in another thread."""

    def __init__(self, files: Files, path: str, job: str, number: int) -> None:
        self.files = files
        self.path = path
        self.number = number
        salt = secrets.token_hex(4)
        self.seed = int(salt, 16)
        self.job = job
        self.fd = create_log(files, path)
        self.size = 0  # the last good offset: everything before it is whole lines
        self.durable = 0  # the offset up to which a sync has come back
        self.records = 0
        self.acknowledged = 0  # of these records
        self._bodies: list[bytes] | None = []  # of the records; None where they are to be read from the file
        self._check = 0  # the CRC-32 of all that was appended
        self._ragged = False  # bytes of an unfinished line may stand behind ``size``
        try:
            self.append(_header(job, number, salt))
            self.sync()
            sync_folder(files, os.path.dirname(path))
        except OSError:
            self.close()
            raise

    def append(self, data: bytes, records: Sequence[bytes] = ()) -> None:
        """Whole lines in one write; ``records``: the bodies of those that are records. On an error or a short write the
        file is cut back to whole lines; it raises."""
        if self._ragged:
            self._cut_back()
        try:
            done = self.files.write(self.fd, data)
        except OSError:
            self._cut_back()
            raise
        if done != len(data):
            self._cut_back()
            raise OSError(28, f"only {done} of {len(data)} bytes could be written", self.path)
        self.size += done
        if records and self._bodies is not None:
            self._bodies += records
            if self.size > REMEMBERED_BYTES or len(self._bodies) > REMEMBERED_RECORDS:
                self._bodies = None
        self._check = zlib.crc32(data, self._check)  # last: whatever strikes before it, the file is taken apart

    def held(self) -> Scan:
        """What the file holds; of one that is as it was written the records alone, for then its lines need not be taken
        apart. To be asked once. Raises OSError."""
        data = self.files.read(self.path)
        bodies, self._bodies = self._bodies, None  # the writer keeps its last segment
        if bodies is not None and len(data) == self.size and zlib.crc32(data) == self._check:
            return Scan([body + b"}" for body in bodies], 0, b"", self.durable)
        return scan(data, self.job)

    def _cut_back(self) -> None:
        # Going on after a short write would glue the next record to the fragment and lose both.
        self._ragged = True
        self.files.truncate(self.fd, self.size)
        self._ragged = False

    def flush(self) -> None:
        """Everything written before this call is durable when it returns; whoever calls notes that in ``durable``."""
        self.files.datasync(self.fd)

    def sync(self) -> None:
        """As ``flush``, where nothing is appended meanwhile."""
        self.flush()
        self.durable = self.size

    def note_synced(self) -> None:
        self.append(_note(self.durable, self.seed, self.job))

    def give_up(self) -> None:
        """A sync failed, and what was not durable stands elsewhere by now: keep the rest alone, if the disk lets us."""
        try:
            kept = self.files.read(self.path)[: self.durable]
            # As a new file: no sync of this one can be relied on any more, not even to make it shorter.
            write_whole(self.files, self.path, kept + _note(self.durable, self.seed, self.job))
        except OSError:
            with contextlib.suppress(OSError):
                self.files.truncate(self.fd, self.durable)

    def remove(self) -> None:
        """Close and forget it, as far as the disk still listens."""
        self.close()
        with contextlib.suppress(OSError):
            self.files.unlink(self.path)

    def close(self) -> None:
        if self.fd >= 0:
            self.files.close(self.fd)
            self.fd = -1


@dataclass(frozen=True, slots=True)
class Scan:
    """What a segment's bytes hold. ``damaged`` counts bad pieces before ``synced``: these had been acknowledged."""

    lines: list[bytes]  # the good ones, JSON objects without their checks; no header, no sync notes
    damaged: int
    tail: bytes  # what is no good line (as a rule what a crash left unfinished), in file order
    synced: int


def scan(data: bytes, job: str) -> Scan:
    """Read a segment whatever happened to it. Never raises for its content.

    The last line is taken only with its newline: without it the write was cut.
    """
    header, newline, more = data.partition(b"\n")
    seed = _seed_of(header, job) if newline else None
    start = len(header) + 1
    if seed is None:
        seed, start = _spare_seed(data, job), 0
    if seed is None:
        # A header is synced before the first record: a bad one with records behind it is damage, not a torn start.
        return Scan([], more.count(b"\n"), data, 0)
    lines: list[bytes] = []
    bad: list[tuple[int, bytes]] = []
    synced = 0
    unpacker = Unpacker()
    for offset, piece, good in _pieces(data, start, seed):
        body = _body_in(piece, unpacker) if good else None
        if body is None:
            bad.append((offset, piece))
        elif body.startswith(_SYNCED):
            synced = max(synced, int(orjson.loads(piece)["o"]))
        else:
            lines.append(body + b"}")
    damaged = sum(1 for at, _ in bad if at < synced)
    return Scan(lines, damaged, b"\n".join(piece for _, piece in bad), synced)


def _body_in(line: bytes, unpacker: Unpacker) -> bytes | None:
    """What a line says whose check holds; None for a packed one that is none of ours all the same."""
    if not line.startswith(PACKED):
        return line[:-_TAIL_BYTES]
    body = unpacker.unpacked(line[:-_CHECK_BYTES])
    return body if body is not None and body.startswith(_RECORD) else None


def mended(held: Scan, job: str, number: int) -> bytes:
    """A segment of the good lines alone."""
    salt = secrets.token_hex(4)
    seed = int(salt, 16)
    lines = lines_of([line[:-1] for line in held.lines], seed, Packer())
    whole = _header(job, number, salt) + lines
    return whole + _note(len(whole), seed, job)


def _pieces(data: bytes, offset: int, seed: int) -> Iterator[tuple[int, bytes, bool]]:
    """Offset, bytes, and whether it is a good line."""
    while offset < len(data):
        end = data.find(b"\n", offset)
        piece = data[offset:] if end < 0 else data[offset:end]
        if end >= 0 and checked(piece, seed):
            yield offset, piece, True
        else:
            yield from _unglued(piece, offset, seed, whole=end >= 0)
        offset += len(piece) + 1


def _unglued(piece: bytes, offset: int, seed: int, *, whole: bool) -> Iterator[tuple[int, bytes, bool]]:
    """Cut a bad line where lines begin: a lost newline must not take two records with it.

    Nothing inside a line holds what a line begins with: the quotes of strings are escaped, and a record whose frame
    holds it is not packed.
    """
    starts = [0, *(match.start() for match in _START.finditer(piece, 1))]
    for begin, end in itertools.pairwise(starts):
        good = checked(piece[begin : end - 1], seed)
        if good:
            yield offset + begin, piece[begin : end - 1], True
            begin = end - 1
        yield offset + begin, piece[begin:end], False
    last = piece[starts[-1] :]
    yield offset + starts[-1], last, whole and checked(last, seed)


def _seed_of(line: bytes, job: str) -> int | None:
    if not checked(line, job_seed(job)):
        return None
    header = orjson.loads(line)
    return int(header["salt"], 16) if header.get("e") == "h" else None


def _spare_seed(data: bytes, job: str) -> int | None:
    """The seed as a sync note tells it, for a segment whose header is damaged."""
    for match in _NOTED.finditer(data):
        seed = int(match[1], 16) ^ job_seed(job)
        if checked(match[0], seed):
            return seed
    return None
