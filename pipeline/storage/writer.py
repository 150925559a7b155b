"""The write path: one line per answer at once, durable in groups, sealed into parts off the event loop.

Three things happen, each at its own pace:

- ``append`` (the event loop): one ``write``; from here the line survives ``kill -9``.
- ``commit`` (a thread, about every 50 ms): ``fdatasync``; from here it survives a power cut, and is *acknowledged*.
- ``seal`` (another thread): a full segment becomes a part (``sealing`` has the order of the steps).

Without threads (tests, recovery) the caller calls ``commit`` and ``seal`` itself.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence

from pipeline.errors import StorageError
from pipeline.storage.files import Files, discard, sync_folder
from pipeline.storage.journal import Scan, Segment, lines_of
from pipeline.storage.layout import Layout
from pipeline.storage.manifest import Manifest
from pipeline.storage.packing import Packer
from pipeline.storage.sealing import roll_segment

SEAL_ROWS = 5_000
SEAL_BYTES = 32 << 20
GROUP_S = 0.05
BALLAST_BYTES = 8 << 20
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Writer:
    """Appends records to the journal of one job. ``append`` belongs to one thread."""

    def __init__(
        self,
        files: Files,
        layout: Layout,
        job: str,
        manifest: Manifest,
        first_segment: int,
        *,
        seal_rows: int = SEAL_ROWS,
        seal_bytes: int = SEAL_BYTES,
        step: int = 1,
    ) -> None:
        """``step``: from the number of one segment to that of the next, where several processes write."""
        self.files = files
        self.layout = layout
        self.job = job
        self.manifest = manifest
        self.seal_rows = seal_rows
        self.seal_bytes = seal_bytes
        self.disk_full = False  # the ballast is spent: admit nothing new
        self.written = 0  # records written by this process
        self.acknowledged = 0  # ... of them durable
        self.failure: StorageError | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.in_flight: dict[str, bytes] = {}  # by row key: marks to be written again in every new segment
        self._packer = Packer()  # used under the guard alone
        self._numbers = itertools.count(first_segment, step)
        self._guard = threading.Lock()  # for pointer swaps and single writes; a sync under it only when the disk fails
        self._making = threading.Lock()  # held while a spare is made, so that segments follow each other by number
        self._unacknowledged: deque[bytes] = deque()
        self._unwritten: list[bytes] = []
        self._sync_dead = False  # a rescue did not come to its end: never believe a sync again
        self._full: deque[Segment] = deque()  # no longer appended to, not yet sealed
        self._synced: set[int] = set()  # numbers of full segments that are durable
        self._spare: Segment | None = None
        self._current = self._new_segment()
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._dirty = threading.Event()
        self._work = threading.Event()

    @property
    def next_number(self) -> int:
        """Of a segment after those that this writer has."""
        return max(segment.number for segment in (*self._full, self._current, self._spare) if segment is not None) + 1

    def _new_segment(self) -> Segment:
        number = next(self._numbers)
        return Segment(self.files, self.layout.segment(number), self.job, number)

    # -- appending -------------------------------------------------------------------------------------------------

    def append(self, body: bytes) -> None:
        """Write one record. Raises StorageError when the disk does not take it even on the second try."""
        with self._guard:
            try:
                one = (body,)
                self._put(one, records=one)
            except StorageError:
                self._unwritten.append(body)
                raise
            self._unacknowledged.append(body)
            self.written += 1
            self._current.records += 1
        if not self._dirty.is_set():  # it is cleared before anything is made durable
            self._dirty.set()

    def mark(self, body: bytes) -> None:
        """Write a line that no one waits for: it outlives the process, and is never counted."""
        with self._guard:
            self._put((body,))

    def _put(self, bodies: Sequence[bytes], records: Sequence[bytes] = ()) -> None:
        """``records``: those among the bodies that are no marks."""
        try:
            self._write(self._current, bodies, records)
        except OSError as exc:
            if exc.errno in _DISK_FULL:
                self._spend_ballast()
            else:
                self._rescue(exc)
            try:
                self._write(self._current, bodies, records)
            except OSError as again:
                raise self._broken(again) from again

    def _write(self, segment: Segment, bodies: Sequence[bytes], records: Sequence[bytes]) -> None:
        segment.append(lines_of(bodies, segment.seed, self._packer), records)

    def _spend_ballast(self) -> None:
        self.disk_full = True
        self.on_failure()
        with contextlib.suppress(OSError):
            discard(self.files, self.layout.ballast)

    def _broken(self, exc: OSError) -> StorageError:
        reason = "the disk is full" if exc.errno in _DISK_FULL else "the disk reports an error"
        self.failure = StorageError(
            f"{reason} at {self.layout.folder} ({exc.strerror or exc}); every acknowledged answer is kept. "
            "Free some space or mend the disk, then run the same command again"
        )
        return self.failure

    @property
    def full(self) -> bool:
        """Whether the current segment should make way for the next."""
        return self._current.records >= self.seal_rows or self._current.size >= self.seal_bytes

    def rotate(self) -> None:
        """Begin the next segment; the marks of what is in flight are written again, so that they outlive the old.
        Raises StorageError."""
        if self._spare is None:
            if self._threads:
                return  # the sealer is still making one; a segment may grow a little over its size
            self._prepare_spare()
        with self._guard:
            if self._spare is None:
                return  # a rescue was quicker
            self._full.append(self._current)
            self._current, self._spare = self._spare, None
            if self.in_flight:
                self._put(tuple(self.in_flight.values()))
        self._dirty.set()
        self._work.set()

    def _prepare_spare(self) -> None:
        with self._making:
            if self._spare is None:
                try:
                    self._spare = self._new_segment()
                except OSError as exc:
                    raise self._broken(exc) from exc

    # -- durability ------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make everything written before this call durable, then acknowledge it. Raises StorageError."""
        with self._guard:
            if self._sync_dead:
                raise self.failure or self._broken(OSError(errno.EIO, os.strerror(errno.EIO)))
            full = [segment for segment in self._full if segment.number not in self._synced]
            current, size, records = self._current, self._current.size, self._current.records
        for segment in full:
            if not self._sync(segment, segment.size, segment.records, full=True):
                return
        self._sync(current, size, records, full=False)

    def _sync(self, segment: Segment, size: int, records: int, *, full: bool) -> bool:
        """False when the sync failed, and everything unacknowledged has moved to a new segment, durably."""
        try:
            segment.flush()
        except OSError as exc:
            with self._guard:
                self._rescue(exc)
            return False
        with self._guard:
            self._acknowledge(segment, records)
            if segment.number not in self._synced:  # else a rescue came in between, and has cut it off
                segment.durable = size
                self._note(segment)
                if full:
                    self._synced.add(segment.number)
        return True

    def _note(self, segment: Segment) -> None:
        with contextlib.suppress(OSError):  # the note is not needed; what ails the disk is met at the next record
            segment.note_synced()

    def _acknowledge(self, segment: Segment, records: int) -> None:
        while segment.acknowledged < records:
            segment.acknowledged += 1
            self._unacknowledged.popleft()
            self.acknowledged += 1

    def _rescue(self, exc: OSError) -> None:
        """A descriptor is dead: write all that is unacknowledged into a new segment, once, and go on there."""
        if self._sync_dead:
            raise self._broken(exc)
        self._sync_dead = True  # until everything stands elsewhere: whatever strikes on the way, no sync tells anything
        if exc.errno in _DISK_FULL:
            self._spend_ballast()
        fresh: Segment | None = None
        try:
            with self._making:
                fresh, self._spare = self._spare or self._new_segment(), None
            records = tuple(self._unacknowledged)
            self._write(fresh, (*records, *self.in_flight.values()), records)
            fresh.sync()
        except OSError as again:
            if fresh is not None:
                fresh.remove()
            raise self._broken(again) from exc
        for dead in (*self._full, self._current):
            if dead.number not in self._synced:
                dead.give_up()
                dead.acknowledged = dead.records
                self._synced.add(dead.number)
        self._full.append(self._current)
        self._current = fresh
        fresh.records = len(self._unacknowledged)
        self._acknowledge(fresh, fresh.records)
        self._note(fresh)
        self._sync_dead = False
        self._work.set()

    def unsaved(self) -> list[bytes]:
        """Records that no sync has confirmed (the last resort of a broken disk)."""
        return [*self._unacknowledged, *self._unwritten]

    # -- sealing ---------------------------------------------------------------------------------------------------

    def seal(self) -> None:
        """Turn every full and durable segment into a part. Raises StorageError."""
        while self._full and self._full[0].number in self._synced:
            segment = self._full[0]
            segment.close()
            try:
                self.roll(segment.number, segment.held())
            except OSError as exc:
                raise self._broken(exc) from exc
            with self._guard:
                self._full.popleft()
                self._synced.discard(segment.number)

    def roll(self, number: int, held: Scan) -> None:
        roll_segment(self.files, self.layout, self.job, self.manifest, number, held)

    # -- threads and the end ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Commit and seal in the background from now on."""
        self._prepare_spare()
        for name, loop in (("commit", self._commit_loop), ("seal", self._seal_loop)):
            thread = threading.Thread(target=loop, name=f"checkpoint-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _commit_loop(self) -> None:
        while not self._stop.is_set():
            self._dirty.wait()
            self._dirty.clear()
            if not self._in_background(self.commit):
                return
            if self._full:  # each thread that wakes takes the interpreter from the event loop for a moment
                self._work.set()
            self._stop.wait(GROUP_S)

    def _seal_loop(self) -> None:
        while not self._stop.is_set():
            self._work.wait()
            self._work.clear()
            if not self._in_background(self._seal_and_prepare):
                return

    def _seal_and_prepare(self) -> None:
        if not self._stop.is_set():
            self._prepare_spare()
        self.seal()

    def _in_background(self, step: Callable[[], None]) -> bool:
        try:
            step()
        except StorageError:
            self.on_failure()
            return False
        except Exception as exc:  # noqa: BLE001 - a thread has nobody to raise to; the run learns of it here
            self.failure = StorageError(f"the checkpoint at {self.layout.folder} failed: {type(exc).__name__}: {exc}")
            self.on_failure()
            return False
        return True

    def close(self) -> None:
        """Everything durable and sealed. Raises StorageError; what was acknowledged is safe either way."""
        self._join()
        try:
            self.commit()
            if self.failure is not None:
                raise self.failure
            self._full.append(self._current)
            self._synced.add(self._current.number)
            self.seal()
            self._drop_spare()
            sync_folder(self.files, self.layout.journal)
        except OSError as exc:
            raise self._broken(exc) from exc
        finally:
            self._close_descriptors()

    def abandon(self) -> None:
        """Make what was written durable, and leave the rest to the next run's recovery (a hurried exit)."""
        self._join()
        try:
            self.commit()
        finally:
            self._close_descriptors()

    def _join(self) -> None:
        self._stop.set()
        self._dirty.set()
        self._work.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.remove()
            self._spare = None

    def _close_descriptors(self) -> None:
        for segment in (*self._full, self._current, self._spare):
            if segment is not None:
                segment.close()
        self.manifest.close()
