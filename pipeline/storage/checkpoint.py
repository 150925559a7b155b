"""Which rows are done: the one folder that knows, and its one writer.

``Checkpoint`` takes the lock, brings the folder into order, records what happens to rows, and leaves everything
sealed. ``storage/snapshot.py`` reads the same folder without the lock.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson

from pipeline.errors import CheckpointError, ProviderError, StorageError
from pipeline.records import ApiReply, Billed, Outcome
from pipeline.storage import recovery
from pipeline.storage.files import ASIDE, Files, create, discard, make_folder, sync_folder, write_all
from pipeline.storage.job_file import Job, job_of, read_job, refuse_mixing, write_job
from pipeline.storage.journal import FORMAT, body_of
from pipeline.storage.layout import Layout
from pipeline.storage.lines import attempt_body, outcome_body, reply_body
from pipeline.storage.lock import Lock
from pipeline.storage.manifest import Manifest, rewrite
from pipeline.storage.noted import fetched_note, mark
from pipeline.storage.shelf import Entry, Shelf
from pipeline.storage.writer import BALLAST_BYTES, SEAL_BYTES, SEAL_ROWS, Writer


class Checkpoint:
    """Open for writing. Use ``open``, then ``start``; end with ``close`` (or ``abandon`` in a hurry)."""

    def __init__(self, files: Files, layout: Layout, job: Job, lock: Lock, writer: Writer) -> None:
        self.files = files
        self.layout = layout
        self.job = job
        self.lock = lock
        self.writer = writer
        self.in_doubt = 0  # requests that an earlier run sent and never heard of again
        self.cut_tails = 0
        self._in_flight = writer.in_flight
        self.lent = False  # other processes have recorded here, too

    @classmethod
    def open(
        cls,
        folder: str,
        name: str,
        *,
        simulated: bool | None = False,
        files: Files | None = None,
        lock: Lock | None = None,
        seal_rows: int = SEAL_ROWS,
        seal_bytes: int = SEAL_BYTES,
    ) -> Checkpoint:
        """Take the lock (unless it is handed in) and recover. ``simulated``: whether the answers to come are the
        simulator's, None if not known yet (see ``settle_simulated``). Raises RunPaused when another run holds it,
        CheckpointError for a folder of another job or a damaged one, StorageError when the disk fails us."""
        files = files or Files()
        layout = Layout(folder)
        try:
            for path in (layout.folder, layout.journal, layout.parts, layout.quarantine):
                make_folder(files, path)
            lock = lock or Lock(layout.lock)
        except OSError as exc:
            raise CheckpointError(f"{folder} cannot be used as an output folder: {exc.strerror or exc}") from exc
        try:
            _forget_heartbeat(files, layout)
            job = job_of(files, layout, name, simulated)
            return cls._recover(files, layout, job, lock, seal_rows, seal_bytes)
        except OSError as exc:
            lock.release()
            raise StorageError(f"the checkpoint at {folder} cannot be opened: {exc}") from exc
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _recover(
        cls, files: Files, layout: Layout, job: Job, lock: Lock, seal_rows: int, seal_bytes: int
    ) -> Checkpoint:
        found = recovery.look(files, layout, job.job)
        recovery.refuse_damage(found, layout.folder)
        if job.format != FORMAT:  # found whole; from the first segment on it is this version's
            write_job(files, layout, job)
        recovery.empty_asides(files, layout)
        if found.sealed:
            # Their lines may not be durable, whatever a sync of this file says now: an earlier one may have failed.
            rewrite(files, layout.folder, job.job, found.listing)
        manifest = Manifest(files, layout.folder, job.job)
        _lay_ballast(files, layout)
        sync_folder(files, layout.folder)
        for number in found.sealed:
            discard(files, layout.segment(number))
        writer = Writer(
            files, layout, job.job, manifest, recovery.next_segment(found), seal_rows=seal_rows, seal_bytes=seal_bytes
        )
        checkpoint = cls(files, layout, job, lock, writer)
        checkpoint._take_over(found)
        return checkpoint

    def _take_over(self, found: recovery.Findings) -> None:
        """What a killed run left: note what is in doubt (durably, before its marks go), then seal the rest."""
        doubts = recovery.in_doubt(found.segments.values())
        for line in doubts:
            mark = orjson.loads(line)
            self.writer.append(
                body_of({"e": "t", "k": mark["k"], "x": "in_doubt", "b": Billed.MAYBE, "w": mark.get("w")})
            )
        if doubts:
            self.writer.commit()
        self.in_doubt = len(doubts)
        for number, held in found.segments.items():
            self.cut_tails += bool(held.tail)
            self.writer.roll(number, held)
        if found.segments:
            # Or a segment of marks alone could come back after the note of its doubts has left the journal.
            sync_folder(self.files, self.layout.journal)

    # -- recording -------------------------------------------------------------------------------------------------

    def start(self, on_failure: Callable[[], None]) -> None:
        """Commit and seal in the background; ``on_failure`` is called from a thread when the disk fails us."""
        self.writer.on_failure = on_failure
        self.writer.start()

    def sent(self, key: str) -> None:
        """A request for this row is about to go out."""
        mark = b'{"e":"s","k":"%b","w":%.3f' % (key.encode(), time.time())
        self._in_flight[key] = mark
        self.writer.mark(mark)

    def superseded(self, key: str, error: ProviderError) -> None:
        """An attempt failed, and another one of the same row may follow."""
        self._in_flight.pop(key, None)
        self.writer.append(attempt_body(key, error))

    def keep(self, key: str, reply: ApiReply) -> None:
        """A paid reply that the row's exchange goes on from; a later run gives it again instead of buying it again."""
        self._in_flight.pop(key, None)
        self.writer.append(reply_body(key, reply))

    def record(self, outcome: Outcome, links: int | None = None) -> None:
        """The row has ended. From here it survives the process; it counts once it is acknowledged.

        ``links``: how many of its text are to be fetched; None where the job does not ask for media at all."""
        self._in_flight.pop(outcome.key, None)
        self.writer.append(outcome_body(outcome, None if links is None else mark(outcome.text, links)))
        if self.writer.full:
            self.lock.check()
            self.writer.rotate()

    def fetched(self, key: str, entries: Sequence[Entry], errors: Sequence[str]) -> None:
        """What came of the links of a recorded answer; its files are whole on the disk."""
        note = fetched_note(entries, errors)
        self.writer.append(body_of({"e": "f", "k": key, "w": round(time.time(), 3), "o": note}))

    @property
    def shelf(self) -> Shelf:
        return Shelf(self.files, self.layout.folder)

    @property
    def acknowledged(self) -> int:
        return self.writer.acknowledged

    # -- the job file and the end ----------------------------------------------------------------------------------

    def update(self, **changes: Any) -> None:
        """Change members of ``job.json``, whole or not at all. Raises StorageError."""
        changed = replace(self.job, **changes)
        try:
            write_job(self.files, self.layout, changed)
        except OSError as exc:
            raise StorageError(f"{self.layout.job} cannot be written ({exc.strerror or exc})") from exc
        self.job = changed

    def heartbeat(self, members: dict[str, Any]) -> None:
        """For ``status`` while the run goes on; never worth an error."""
        aside = self.layout.heartbeat + ASIDE
        try:
            fd = self.files.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                write_all(self.files, fd, orjson.dumps(members, default=str))
            finally:
                self.files.close(fd)
            self.files.rename(aside, self.layout.heartbeat)
        except OSError:
            return

    def settle_simulated(self, simulated: bool, *, fresh: bool) -> None:
        """The first reply has told who answers. Raises CheckpointError where that would mix; a fresh folder is told."""
        if not fresh:
            refuse_mixing(self.job, simulated, self.layout)
        elif self.job.simulated != simulated:
            self.update(simulated=simulated)

    def lend(self) -> int:
        """Other processes will record here; gives the first number of a segment that they may use."""
        self.lent = True
        return self.writer.next_number

    def take_back(self) -> None:
        """After ``lend``, when these have ended or died: recover what they left. Raises StorageError, and
        CheckpointError for damage."""
        self.lent = False
        try:
            self.job = read_job(self.files, self.layout) or self.job
            if len(self.files.names(self.layout.journal)) == 1:
                return  # the empty one of this process: the others have sealed all that they had
            self.writer.close()
            again = Checkpoint._recover(
                self.files, self.layout, self.job, self.lock, self.writer.seal_rows, self.writer.seal_bytes
            )
        except OSError as exc:
            raise StorageError(f"the checkpoint at {self.layout.folder} cannot be opened again: {exc}") from exc
        self.writer, self._in_flight = again.writer, again._in_flight
        self.in_doubt += again.in_doubt
        self.cut_tails += again.cut_tails

    def seal(self) -> None:
        """Everything recorded is durable and in parts; nothing can be recorded any more."""
        if self.lent:
            self.take_back()
        self.writer.close()

    def release(self) -> None:
        if self.lock.fd < 0:
            return  # abandoned: what lies there may be another run's by now
        try:
            _forget_heartbeat(self.files, self.layout)
            with contextlib.suppress(OSError):  # the next run lays a new one
                discard(self.files, self.layout.ballast)
        finally:
            self.lock.release()

    def abandon(self) -> None:
        """Leave at once: what was received is durable, the next run seals it."""
        with contextlib.suppress(StorageError):
            self.writer.abandon()
        _forget_heartbeat(self.files, self.layout)
        self.lock.release()


def _forget_heartbeat(files: Files, layout: Layout) -> None:
    """One that lies there without a run is the last word of a run that was killed."""
    with contextlib.suppress(OSError):
        discard(files, layout.heartbeat)


def _lay_ballast(files: Files, layout: Layout) -> None:
    """Real blocks to give up when the disk is full, so that answers in flight can still be written."""
    discard(files, layout.ballast)
    fd = create(files, layout.ballast)
    try:
        with contextlib.suppress(OSError):  # a disk too full for a ballast is told at the first record
            files.allocate(fd, BALLAST_BYTES)
    finally:
        files.close(fd)
