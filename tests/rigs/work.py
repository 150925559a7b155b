"""A run in small: rows are sent, answered, failed and recorded at scripted points, and what happened is remembered."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pipeline.errors import StorageError, TransientError
from pipeline.media import Kind
from pipeline.records import NO_USAGE, ApiReply, Billed, Outcome, Row, Status, Usage
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.shelf import Entry
from pipeline.storage.snapshot import Snapshot
from tests.pictures import markdown, png
from tests.rigs.disk import Disk

NAME = "work"


def key_of(row: int) -> str:
    return f"{row + 1:032x}"


@dataclass(frozen=True, slots=True)
class Said:
    """One record: a text of which there is no other."""

    serial: int
    key: str
    what: str  # answer failure attempt kept renewal refusal fetched
    text: str


@dataclass(slots=True)
class Truth:
    """What the runs of one folder did, as seen from outside."""

    tried: dict[str, Said] = field(default_factory=dict)  # by text, whether or not the record came to be
    written: list[Said] = field(default_factory=list)  # the call that records it came back
    safe: set[str] = field(default_factory=set)  # texts that must never be lost
    sends: dict[str, int] = field(default_factory=dict)  # by key
    open_marks: set[str] = field(default_factory=set)  # keys on the wire
    once_open: set[str] = field(default_factory=set)  # ... when an earlier run was cut off
    unsure: set[str] = field(default_factory=set)  # keys whose call was cut short
    media: bool = False  # every second answer holds a picture, and some link to a file, which is fetched

    def say(self, key: str, what: str, length: int = 0) -> Said:
        serial = len(self.tried) + 1
        picture = f"{markdown(png(serial))} " if self.media and what == "answer" and serial % 2 else ""
        said = Said(serial, key, what, f"{what} {serial} {picture}" + 'abcdefgh\u00e9\n"{' * (length // 13))
        self.tried[said.text] = said
        return said


class Run:
    """One process at work on a folder. ``go`` may end in Killed or StorageError."""

    def __init__(self, folder: str, disk: Disk, truth: Truth, *, seal_rows: int, seed: int) -> None:
        self.folder = folder
        self.disk = disk
        self.truth = truth
        self.seal_rows = seal_rows
        self.rng = random.Random(seed)
        self.checkpoint: Checkpoint | None = None
        self._mine: list[Said] = []
        self.opened: Callable[[Checkpoint], None] = lambda checkpoint: None
        self._before = 0
        self._closing = False
        self._earlier = frozenset(truth.safe)
        truth.once_open |= truth.open_marks | truth.unsure
        truth.open_marks.clear()
        truth.unsure.clear()

    def safe(self) -> frozenset[str]:
        """Texts acknowledged by now, in this run or an earlier one."""
        if self.checkpoint is None:
            return self._earlier
        count = self.checkpoint.acknowledged - self._before
        return self._earlier | {said.text for said in self._mine[: max(0, count)]}

    def go(self, rows: Iterable[int]) -> None:
        """Open, do every row that has no answer, close."""
        try:
            self._go(list(rows))
        except StorageError:
            self._drain()
            raise
        finally:
            self.truth.safe = set(self.safe())
            if self.checkpoint is not None:
                self.checkpoint.lock.release()

    def _go(self, rows: list[int]) -> None:
        checkpoint = Checkpoint.open(self.folder, NAME, files=self.disk, seal_rows=self.seal_rows)
        self._before = checkpoint.writer.written
        self.checkpoint = checkpoint
        self.opened(checkpoint)
        # What recovery has taken over counts as done from here.
        self._earlier |= {said.text for said in self.truth.written}
        answered = answered_keys(self.folder, checkpoint.job.job)
        todo = [row for row in rows if key_of(row) not in answered]
        for start in range(0, len(todo), 4):
            if checkpoint.writer.disk_full:
                break
            self._flight(checkpoint, [key_of(row) for row in todo[start : start + 4]])
        self._closing = True
        checkpoint.seal()
        checkpoint.release()

    def _flight(self, checkpoint: Checkpoint, keys: list[str]) -> None:
        for key in keys:
            self._send(checkpoint, key)
        self.rng.shuffle(keys)
        for key in keys:
            if self.rng.random() < 0.15:
                self._record(checkpoint, self.truth.say(key, "attempt"))
                self._send(checkpoint, key)
            if self.rng.random() < 0.1:
                self._record(checkpoint, self.truth.say(key, "kept", self._length()))
                self._send(checkpoint, key)
            failed = self.rng.random() < 0.15
            self._record(checkpoint, self.truth.say(key, "failure" if failed else "answer", self._length()))
            if failed and self.rng.random() < 0.7:  # a later run would do this; the order in the journal is the same
                self._send(checkpoint, key)
                self._record(checkpoint, self.truth.say(key, "answer", self._length()))
            elif not failed and self.rng.random() < 0.15:
                for what in self.rng.choice([["renewal"], ["refusal"], ["renewal", "refusal", "renewal"]]):
                    self._send(checkpoint, key)
                    self._record(checkpoint, self.truth.say(key, what, self._length()))
            if self.truth.media and len(self.truth.tried) % 3 == 0:
                self._record(checkpoint, self.truth.say(key, "fetched", 100))
            if self.rng.random() < 0.4:
                checkpoint.writer.commit()
                if self.rng.random() < 0.5:
                    checkpoint.writer.seal()

    def _length(self) -> int:
        return self.rng.choice([0, 0, 100, 400, 1500])

    def _send(self, checkpoint: Checkpoint, key: str) -> None:
        self.truth.unsure.add(key)
        self.truth.sends[key] = self.truth.sends.get(key, 0) + 1
        checkpoint.sent(key)
        self.truth.unsure.discard(key)
        self.truth.open_marks.add(key)

    def _record(self, checkpoint: Checkpoint, said: Said) -> None:
        self.truth.unsure.add(said.key)
        self.truth.open_marks.discard(said.key)
        self._mine.append(said)
        written = checkpoint.writer.written
        try:
            if said.what == "attempt":
                checkpoint.superseded(said.key, TransientError(said.text, kind="timeout", billed=Billed.MAYBE))
            elif said.what == "kept":
                checkpoint.keep(said.key, ApiReply(200, {}, b"", said.text, NO_USAGE, 0.1))
            elif said.what == "fetched":
                checkpoint.fetched(said.key, [fetched_file(checkpoint, said)], [])
            else:
                checkpoint.record(outcome_of(said), 1 if self.truth.media else None)
        except BaseException:
            if checkpoint.writer.written == written:
                self._mine.pop()
            else:
                self.truth.written.append(said)
            raise
        self.truth.written.append(said)
        self.truth.unsure.discard(said.key)

    def _drain(self) -> None:
        """After an error of the disk: what is in flight is still recorded, as far as it goes; then the end."""
        if self.checkpoint is None or self._closing:
            return
        for key in sorted(self.truth.open_marks):
            with contextlib.suppress(StorageError):
                self._record(self.checkpoint, self.truth.say(key, "answer"))
        with contextlib.suppress(StorageError):
            self.checkpoint.seal()
        self.checkpoint.release()


def fetched_file(checkpoint: Checkpoint, said: Said) -> Entry:
    incoming = checkpoint.shelf.incoming(said.key, said.serial)
    data = said.text.encode()
    for piece in (data[:50], data[50:]):
        incoming.write(piece)
    return incoming.finish(Kind("video/mp4", "mp4"))


def outcome_of(said: Said) -> Outcome:
    row = Row(int(said.key, 16) - 1, None, {})
    renewed = said.what in ("renewal", "refusal")
    if said.what in ("failure", "refusal"):
        return Outcome(said.key, row, Status.FAILED, kind="server_error", error=said.text, attempts=1, renewed=renewed)
    usage = Usage(said.serial, 1, said.serial + 1)
    return Outcome(said.key, row, Status.OK, said.text, usage=usage, billed=Billed.YES, attempts=1, renewed=renewed)


def answered_keys(folder: str, job: str) -> set[str]:
    table = Snapshot(folder, job).standing().filter("answered")
    return {number.to_bytes(16, "little", signed=True).hex() for number in table["key"]}
