from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from pipeline.errors import StorageError
from pipeline.storage import journal as journalling
from pipeline.storage.files import Files, create, make_folder
from pipeline.storage.journal import Segment, body_of, line_of, scan
from pipeline.storage.layout import Layout
from pipeline.storage.manifest import Manifest
from pipeline.storage.manifest import read as read_manifest
from pipeline.storage.packing import MOST_BYTES
from pipeline.storage.writer import SEAL_BYTES, SEAL_ROWS, Writer
from tests.rigs.disk import Disk, Fault, Killed
from tests.rigs.power import Volume

JOB = "0011223344556677"
PATIENCE_S = 20.0


def record(number: int, text: str = "") -> bytes:
    return body_of({"e": "o", "k": f"{number:032x}", "s": "ok", "t": text or f"answer {number}"})


def mark(number: int) -> bytes:
    return body_of({"e": "s", "k": f"{number:032x}"})


def writer_on(folder: Path, files: Files, seal_rows: int = 3) -> Writer:
    layout = Layout(str(folder))
    for path in (layout.journal, layout.parts, layout.quarantine):
        make_folder(files, path)
    return Writer(files, layout, JOB, Manifest(files, layout.folder, JOB), 1, seal_rows=seal_rows)


def journal(folder: Path) -> dict[str, list[int]]:
    """Rows of the records in each segment on disk."""
    found = {}
    for name in sorted(os.listdir(folder / "journal")):
        lines = scan((folder / "journal" / name).read_bytes(), JOB).lines
        found[name] = [int(line[14:46], 16) for line in lines if line.startswith(b'{"e":"o"')]
    return found


def parts(folder: Path) -> dict[int, int]:
    listing = read_manifest((folder / "manifest.jsonl").read_bytes(), JOB)
    return {number: part.rows for number, part in listing.parts.items()}


# -- acknowledging -----------------------------------------------------------------------------------------------------


def test_a_record_is_on_the_disk_when_append_returns_and_counts_when_commit_does(tmp_path: Path) -> None:
    writer = writer_on(tmp_path, Disk(str(tmp_path)))
    writer.append(record(1))
    assert journal(tmp_path) == {"0001.jsonl": [1]}
    assert (writer.written, writer.acknowledged, len(writer.unsaved())) == (1, 0, 1)
    writer.commit()
    assert (writer.acknowledged, writer.unsaved()) == (1, [])


def test_what_is_acknowledged_survives_a_power_cut(tmp_path: Path) -> None:
    disk = Disk(str(tmp_path))
    writer = writer_on(tmp_path, disk)
    writer.append(record(1))
    writer.commit()
    writer.append(record(2))
    kept = Volume(disk, disk.ops).worst()["journal/0001.jsonl"]
    assert kept is not None
    assert [line[:-1] for line in scan(kept, JOB).lines] == [record(1)]


def test_a_record_that_arrives_during_a_sync_is_not_acknowledged_by_it(tmp_path: Path) -> None:
    class Busy(Disk):
        meanwhile: Callable[[], None] | None = None

        def datasync(self, fd: int) -> None:
            super().datasync(fd)
            if self.meanwhile is not None:
                meanwhile, self.meanwhile = self.meanwhile, None
                meanwhile()

    disk = Busy(str(tmp_path))
    writer = writer_on(tmp_path, disk)
    writer.append(record(1))
    disk.meanwhile = lambda: writer.append(record(2))
    writer.commit()
    assert (writer.written, writer.acknowledged) == (2, 1)
    writer.commit()
    assert writer.acknowledged == 2


def test_a_mark_is_written_and_never_counted(tmp_path: Path) -> None:
    writer = writer_on(tmp_path, Disk(str(tmp_path)))
    writer.mark(mark(1))
    writer.commit()
    assert (writer.written, writer.acknowledged) == (0, 0)
    assert b'{"e":"s"' in (tmp_path / "journal/0001.jsonl").read_bytes()


# -- segments and parts ------------------------------------------------------------------------------------------------


def test_a_full_segment_becomes_a_part_once_it_is_durable(tmp_path: Path) -> None:
    writer = writer_on(tmp_path, Disk(str(tmp_path)))
    for number in range(3):
        writer.append(record(number))
    assert writer.full
    writer.rotate()
    writer.append(record(3))
    writer.seal()
    assert journal(tmp_path) == {"0001.jsonl": [0, 1, 2], "0002.jsonl": [3]}
    writer.commit()
    writer.seal()
    assert journal(tmp_path) == {"0002.jsonl": [3]}
    assert parts(tmp_path) == {1: 3}


def test_closing_leaves_parts_and_an_empty_journal(tmp_path: Path) -> None:
    writer = writer_on(tmp_path, Disk(str(tmp_path)))
    for number in range(4):
        writer.append(record(number))
        if writer.full:
            writer.rotate()
    writer.close()
    assert (journal(tmp_path), parts(tmp_path), writer.acknowledged) == ({}, {1: 3, 2: 1}, 4)


def test_a_segment_is_full_by_bytes_too(tmp_path: Path) -> None:
    writer = writer_on(tmp_path, Disk(str(tmp_path)), seal_rows=1000)
    writer.seal_bytes = MOST_BYTES
    writer.append(record(1, "x" * MOST_BYTES))
    assert writer.full


def test_a_segment_of_packed_records_is_no_longer_than_others_when_it_is_unpacked() -> None:
    assert MOST_BYTES * SEAL_ROWS < SEAL_BYTES


def test_marks_of_what_is_in_flight_move_on_to_the_next_segment(tmp_path: Path) -> None:
    writer = writer_on(tmp_path, Disk(str(tmp_path)))
    writer.in_flight = {"a": mark(7), "b": mark(8)}
    writer.append(record(1))
    writer.rotate()
    lines = scan((tmp_path / "journal/0002.jsonl").read_bytes(), JOB).lines
    assert [line[:-1] for line in lines] == [mark(7), mark(8)]


def test_a_segment_that_does_not_read_back_is_not_sealed(tmp_path: Path) -> None:
    writer = writer_on(tmp_path, Disk(str(tmp_path)))
    writer.append(record(1))
    writer.append(record(2))
    writer.commit()
    writer.rotate()
    writer.commit()
    path = tmp_path / "journal/0001.jsonl"
    path.write_bytes(path.read_bytes().replace(b"answer 1", b"answer 9"))
    with pytest.raises(StorageError, match="read back"):
        writer.seal()
    assert path.exists()
    assert parts(tmp_path) == {}


# -- a full disk -------------------------------------------------------------------------------------------------------


@pytest.mark.fault("P06")
def test_on_a_full_disk_the_ballast_makes_room_and_the_run_is_told(tmp_path: Path) -> None:
    disk = Disk(str(tmp_path), room=100_000)
    writer = writer_on(tmp_path, disk)
    disk.allocate(create(disk, writer.layout.ballast), 5_000)
    told: list[bool] = []
    writer.on_failure = lambda: told.append(writer.disk_full)
    disk.room = 100
    for number in range(5):
        writer.append(record(number))
    assert (told, os.path.exists(writer.layout.ballast)) == ([True], False)
    writer.commit()
    assert (writer.acknowledged, writer.failure) == (5, None)


@pytest.mark.fault("P06")
def test_a_disk_that_is_full_without_the_ballast_is_an_error_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    disk = Disk(str(tmp_path))
    writer = writer_on(tmp_path, disk)
    writer.append(record(1))
    writer.commit()
    disk.room = 10
    with pytest.raises(StorageError, match=r"the disk is full at .*every acknowledged answer is kept.*Free some space"):
        writer.append(record(2))
    assert (writer.written, writer.acknowledged) == (1, 1)
    assert writer.unsaved() == [record(2)]
    assert journal(tmp_path) == {"0001.jsonl": [1]}
    disk.room = None
    writer.append(record(3))
    writer.commit()
    assert writer.acknowledged == 2
    assert journal(tmp_path) == {"0001.jsonl": [1, 3]}


# -- a failing disk ----------------------------------------------------------------------------------------------------


@pytest.mark.fault("P07")
def test_after_a_failed_sync_what_was_not_acknowledged_is_written_elsewhere(tmp_path: Path) -> None:
    disk = Disk(str(tmp_path), Fault("datasync", 3, "EIO"))
    writer = writer_on(tmp_path, disk, seal_rows=100)
    writer.append(record(1))
    writer.commit()
    writer.append(record(2))
    writer.in_flight = {"a": mark(7)}
    writer.commit()
    assert disk.fired
    assert (writer.acknowledged, writer.failure) == (2, None)
    assert journal(tmp_path) == {"0001.jsonl": [1], "0002.jsonl": [2]}
    assert mark(7) in (tmp_path / "journal/0002.jsonl").read_bytes()
    writer.append(record(3))
    writer.close()
    assert parts(tmp_path) == {1: 1, 2: 2}
    assert disk.synced_again == 0


@pytest.mark.fault("P07")
def test_a_write_that_fails_for_good_goes_to_a_new_segment(tmp_path: Path) -> None:
    disk = Disk(str(tmp_path))
    writer = writer_on(tmp_path, disk)
    writer.append(record(1))
    disk.faults = (Fault("write", disk.calls["write"] + 1, "EIO"),)
    writer.append(record(2))
    assert journal(tmp_path) == {"0001.jsonl": [], "0002.jsonl": [1, 2]}
    writer.commit()
    assert writer.acknowledged == 2


@pytest.mark.fault("P07")
def test_a_disk_that_fails_twice_ends_the_run_and_no_descriptor_is_synced_again(tmp_path: Path) -> None:
    disk = Disk(str(tmp_path), Fault("datasync", 2, "dead"))
    writer = writer_on(tmp_path, disk)
    writer.append(record(1))
    with pytest.raises(StorageError, match="the disk reports an error"):
        writer.commit()
    assert writer.unsaved() == [record(1)]
    syncs = disk.calls["datasync"]
    disk.broken = False
    for again in (writer.commit, writer.abandon, writer.close):
        with pytest.raises(StorageError):
            again()
    assert (disk.calls["datasync"], disk.synced_again, writer.acknowledged) == (syncs, 0, 0)


def test_a_full_segment_whose_sync_failed_takes_nothing_acknowledged_with_it(tmp_path: Path) -> None:
    disk = Disk(str(tmp_path))
    writer = writer_on(tmp_path, disk)
    for number in range(3):
        writer.append(record(number))
    writer.rotate()
    writer.append(record(3))
    disk.faults = (Fault("datasync", disk.calls["datasync"] + 1, "EIO"),)
    writer.commit()
    assert writer.acknowledged == 4
    assert journal(tmp_path) == {"0001.jsonl": [], "0002.jsonl": [], "0003.jsonl": [0, 1, 2, 3]}
    worst = Volume(disk, disk.ops).worst()["journal/0003.jsonl"]
    assert worst is not None
    assert len(scan(worst, JOB).lines) == 4


def test_records_of_a_segment_that_was_synced_are_not_written_twice_when_the_next_sync_fails(tmp_path: Path) -> None:
    disk = Disk(str(tmp_path))
    writer = writer_on(tmp_path, disk)
    for number in range(3):
        writer.append(record(number))
    writer.rotate()
    writer.append(record(3))
    disk.faults = (Fault("datasync", disk.calls["datasync"] + 2, "EIO"),)
    writer.commit()
    assert journal(tmp_path) == {"0001.jsonl": [0, 1, 2], "0002.jsonl": [], "0003.jsonl": [3]}
    writer.close()
    assert parts(tmp_path) == {1: 3, 3: 1}


@pytest.mark.fault("P07")
def test_rows_may_end_while_their_marks_are_written_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(str(tmp_path), Fault("datasync", 2, "EIO"))
    writer = writer_on(tmp_path, disk)
    writer.in_flight.update({f"{number:032x}": mark(number) for number in range(3)})
    writer.append(record(5))

    def line_of_mark(body: bytes, seed: int) -> bytes:
        if body == mark(0):
            writer.in_flight.pop(f"{1:032x}")  # the event loop's thread does that, and takes no guard for it
        return line_of(body, seed)

    monkeypatch.setattr(journalling, "line_of", line_of_mark)
    writer.commit()
    assert (writer.acknowledged, writer.failure, disk.synced_again) == (1, None, 0)
    assert len(scan((tmp_path / "journal/0002.jsonl").read_bytes(), JOB).lines) == 4


@pytest.mark.fault("P07")
def test_after_a_rescue_that_was_broken_into_no_sync_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(str(tmp_path), Fault("datasync", 2, "EIO"))
    writer = writer_on(tmp_path, disk)
    writer.append(record(1))

    def out_of_memory(segment: Segment) -> None:
        raise MemoryError

    monkeypatch.setattr(Segment, "give_up", out_of_memory)
    with pytest.raises(MemoryError):
        writer.commit()
    monkeypatch.undo()
    writer.append(record(2))
    with pytest.raises(StorageError):
        writer.commit()
    with pytest.raises(StorageError):
        writer.abandon()
    assert (writer.acknowledged, disk.synced_again) == (0, 0)
    assert writer.unsaved() == [record(1), record(2)]


@pytest.mark.fault("P07")
def test_a_write_that_fails_just_after_a_sync_doubles_nothing(tmp_path: Path) -> None:
    """What that sync covers is not acknowledged yet, and so is written elsewhere: it must leave the old segment."""

    class Guard:
        """``meanwhile`` happens before it is taken for the second time: after the sync, before the acknowledgement."""

        def __init__(self) -> None:
            self._lock = threading.Lock()
            self._taken = 0

        def __enter__(self) -> None:
            self._taken += 1
            if self._taken == 2:
                meanwhile()
            self._lock.acquire()

        def __exit__(self, *_: object) -> None:
            self._lock.release()

    def meanwhile() -> None:
        disk.faults = (Fault("write", disk.calls["write"] + 1, "EIO"),)
        writer.append(record(2))

    disk = Disk(str(tmp_path))
    writer = writer_on(tmp_path, disk)
    writer.append(record(1))
    writer._guard = cast(threading.Lock, Guard())
    writer.commit()
    writer.commit()
    assert (writer.written, writer.acknowledged) == (2, 2)
    assert journal(tmp_path) == {"0001.jsonl": [], "0002.jsonl": [1, 2]}


# -- threads -----------------------------------------------------------------------------------------------------------


class Watched(Files):
    """Real files that tell when something is durable, and who did it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.renamed_by: list[str] = []
        self.failing = False

    @contextmanager
    def _tell(self) -> Iterator[None]:
        yield
        with self.changed:
            self.changed.notify_all()

    def datasync(self, fd: int) -> None:
        if self.failing:
            raise OSError(errno.EIO, "Input/output error")
        with self._tell():
            super().datasync(fd)

    def rename(self, source: str, target: str) -> None:
        with self._tell():
            super().rename(source, target)
            self.renamed_by.append(threading.current_thread().name)

    def unlink(self, path: str) -> None:
        with self._tell():
            super().unlink(path)

    def wait_for(self, claim: Callable[[], bool]) -> None:
        with self.changed:
            while not claim():
                assert self.changed.wait(PATIENCE_S) or claim(), "it never came true"


def test_in_the_background_answers_are_acknowledged_and_sealed_by_other_threads(tmp_path: Path) -> None:
    files = Watched()
    writer = writer_on(tmp_path, files)
    writer.start()
    for number in range(40):
        writer.append(record(number))
        if writer.full:
            writer.rotate()
    files.wait_for(lambda: bool(files.renamed_by))
    last = writer.written
    writer.append(record(40))
    files.wait_for(lambda: writer.acknowledged > 0)
    assert set(files.renamed_by) == {"checkpoint-seal"}
    writer.close()
    assert writer.acknowledged == last + 1 == 41
    assert journal(tmp_path) == {}
    assert sum(parts(tmp_path).values()) == 41


def test_many_rotations_under_load_lose_and_double_nothing(tmp_path: Path) -> None:
    files = Watched()
    writer = writer_on(tmp_path, files, seal_rows=5)
    writer.start()
    for number in range(600):
        writer.append(record(number))
        if writer.full:
            writer.rotate()
        if number % 100 == 99:
            files.wait_for(lambda: writer.acknowledged > number - 50)  # noqa: B023 - called before number changes
    writer.close()
    assert writer.failure is None
    assert (writer.acknowledged, sum(parts(tmp_path).values())) == (600, 600)


def test_a_failure_in_the_background_is_told_and_closing_raises_it(tmp_path: Path) -> None:
    files = Watched()
    writer = writer_on(tmp_path, files)
    told = threading.Event()
    writer.on_failure = told.set
    writer.start()
    files.failing = True
    writer.append(record(1))
    assert told.wait(PATIENCE_S)
    assert writer.failure is not None
    with pytest.raises(StorageError, match="the disk reports an error"):
        writer.close()
    assert writer.unsaved() == [record(1)]


def test_a_fault_of_ours_in_the_background_ends_the_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = writer_on(tmp_path, Watched())
    told = threading.Event()
    writer.on_failure = told.set
    monkeypatch.setattr(writer, "seal", lambda: 1 / 0)
    writer.start()
    writer.append(record(1))
    writer.rotate()
    assert told.wait(PATIENCE_S)
    assert "ZeroDivisionError" in str(writer.failure)
    with pytest.raises(StorageError):
        writer.close()


def test_a_kill_is_not_swallowed(tmp_path: Path) -> None:
    disk = Disk(str(tmp_path))
    writer = writer_on(tmp_path, disk)
    disk.faults = (Fault("write", disk.calls["write"] + 1, "kill"),)
    with pytest.raises(Killed):
        writer.append(record(1))
    disk.die()
