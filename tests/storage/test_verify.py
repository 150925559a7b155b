from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import CheckpointError, RunPaused
from pipeline.records import Outcome, Row, Status
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.files import Files
from pipeline.storage.job_file import read_job, write_job
from pipeline.storage.layout import Layout
from pipeline.storage.lock import Lock
from pipeline.storage.snapshot import Snapshot
from pipeline.storage.verify import Report, verify
from tests.rigs.disk import Disk, Fault, Killed, tree_of

ROWS = 9


def fill(folder: Path, *, sealed: bool) -> Path:
    """Three parts of three rows, or two parts and a segment as a kill leaves it, with one request in flight."""
    disk = Disk(str(folder))
    checkpoint = Checkpoint.open(str(folder / "checkpoint"), "job", files=disk, seal_rows=3)
    checkpoint.sent("f" * 32)
    for row in range(ROWS if sealed else ROWS - 1):
        put(checkpoint, row)
    checkpoint.writer.commit()
    checkpoint.writer.seal()
    if sealed:
        checkpoint.seal()
    checkpoint.lock.release()
    disk.die()
    return folder / "checkpoint"


def put(checkpoint: Checkpoint, row: int) -> None:
    checkpoint.record(Outcome(f"{row:032x}", Row(row, str(row), {}), Status.OK, f"answer {row}"))


def rows(folder: Path, job: str) -> list[int]:
    keys = Snapshot(str(folder), job).standing()["key"]
    return sorted(int(key.to_bytes(16, "little", signed=True).hex(), 16) for key in keys)


def job_of(folder: Path) -> str:
    checkpoint = Checkpoint.open(str(folder), "job", files=Disk(str(folder)))
    checkpoint.seal()
    checkpoint.release()
    return checkpoint.job.job


def replace(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def test_a_whole_checkpoint_has_nothing_to_tell(tmp_path: Path) -> None:
    folder = fill(tmp_path, sealed=True)
    before = tree_of(str(folder))
    assert verify(str(folder)) == Report(3, ROWS, 0, [], [], 0)
    assert tree_of(str(folder)) == before
    assert verify(str(folder), repair=True).repaired == []


def test_looking_changes_nothing_even_where_there_is_damage(tmp_path: Path) -> None:
    folder = fill(tmp_path, sealed=False)
    (folder / "parts/part-0001.parquet").write_bytes(b"")
    before = tree_of(str(folder))
    assert verify(str(folder)).damage
    assert tree_of(str(folder)) == before


def test_there_is_nothing_to_verify_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        verify(str(tmp_path))


@pytest.mark.fault("C04")
def test_repair_puts_exactly_the_rows_of_a_damaged_part_back_in_the_queue(tmp_path: Path) -> None:
    folder = fill(tmp_path, sealed=True)
    data = (folder / "parts/part-0002.parquet").read_bytes()
    (folder / "parts/part-0002.parquet").write_bytes(data[:-1])
    report = verify(str(folder), repair=True)
    assert report.records_lost == 3
    assert report.repaired == ["part-0002.parquet moved to quarantine; its rows are pending again"]
    assert rows(folder, job_of(folder)) == [0, 1, 2, 6, 7, 8]
    assert (folder / "quarantine/part-0002.parquet").read_bytes() == data[:-1]
    assert verify(str(folder)).damage == []


@pytest.mark.fault("C02")
def test_repair_puts_exactly_the_row_of_a_damaged_line_back_in_the_queue(tmp_path: Path) -> None:
    folder = fill(tmp_path, sealed=False)
    path = folder / "journal/0003.jsonl"
    damaged = path.read_bytes().replace(b"answer 6", b"answer 5")
    path.write_bytes(damaged)
    assert verify(str(folder)).damage == ["journal segment 0003 has 1 damaged line(s)"]
    report = verify(str(folder), repair=True)
    assert report.records_lost == 1
    assert (folder / "quarantine/segment-0003.damaged").read_bytes() == damaged
    assert rows(folder, job_of(folder)) == [0, 1, 2, 3, 4, 5, 7]


def test_repair_still_tells_what_is_in_doubt_in_a_damaged_segment(tmp_path: Path) -> None:
    folder = fill(tmp_path, sealed=False)
    replace(folder / "journal/0003.jsonl", b"answer 6", b"answer 5")
    verify(str(folder), repair=True)
    job = job_of(folder)
    snapshot = Snapshot(str(folder), job)
    kinds = [kind for number in range(len(snapshot)) for kind in snapshot.piece(number, ["kind"])["kind"]]
    assert kinds.count("in_doubt") == 1


@pytest.mark.fault("C10")
@pytest.mark.parametrize("damage", ["gone", "flipped", "torn"])
def test_repair_takes_parts_back_whose_line_was_lost(damage: str, tmp_path: Path) -> None:
    folder = fill(tmp_path, sealed=True)
    path = folder / "manifest.jsonl"
    if damage == "gone":
        path.unlink()
    elif damage == "flipped":
        replace(path, b'{"seg":1', b'{"seg":7')
    else:
        path.write_bytes(path.read_bytes()[:-10])
    assert verify(str(folder)).damage
    report = verify(str(folder), repair=True)
    assert any("taken back into the manifest" in line for line in report.repaired)
    assert report.records_lost == 0
    assert rows(folder, job_of(folder)) == list(range(ROWS))


def test_a_part_whose_line_was_lost_and_that_does_not_read_goes_to_quarantine(tmp_path: Path) -> None:
    folder = fill(tmp_path, sealed=True)
    (folder / "manifest.jsonl").unlink()
    (folder / "parts/part-0003.parquet").write_bytes(b"torn")
    report = verify(str(folder), repair=True)
    assert any("part-0003.parquet moved to quarantine" in line for line in report.repaired)
    assert (folder / "quarantine/part-0003.parquet").read_bytes() == b"torn"
    assert rows(folder, job_of(folder)) == list(range(6))


def test_repair_keeps_away_from_a_running_job(tmp_path: Path) -> None:
    folder = fill(tmp_path, sealed=True)
    running = Checkpoint.open(str(folder), "job", files=Disk(str(folder)))
    assert verify(str(folder)).damage == []
    with pytest.raises(RunPaused):
        verify(str(folder), repair=True)
    running.seal()
    running.release()


def test_a_repair_that_was_killed_is_finished_by_the_next(tmp_path: Path) -> None:
    calls = 0
    for kind in ("open", "write", "fsync", "datasync", "rename", "unlink"):
        for at in range(1, 30):
            folder = fill(tmp_path / f"{kind}{at}", sealed=False)
            (folder / "parts/part-0001.parquet").write_bytes(b"")
            replace(folder / "journal/0003.jsonl", b"answer 6", b"answer 5")
            disk = Disk(str(folder), Fault(kind, at, "kill"))
            try:
                verify(str(folder), repair=True, files=disk)
            except Killed:
                disk.die()
            if not disk.fired:
                break
            calls += 1
            verify(str(folder), repair=True, files=Disk(str(folder)))
            assert rows(folder, job_of(folder)) == [3, 4, 5, 7], (kind, at)
    assert calls > 30


def test_a_repair_that_was_killed_leaves_no_job_that_calls_itself_finished(tmp_path: Path) -> None:
    mended = 0
    for kind in ("open", "write", "fsync", "rename", "unlink"):
        for at in range(1, 30):
            folder = fill(tmp_path / f"{kind}{at}", sealed=True)
            done = read_job(Files(), Layout(str(folder)))
            assert done is not None
            write_job(Files(), Layout(str(folder)), dataclasses.replace(done, finished={"rows": ROWS}))
            (folder / "parts/part-0001.parquet").write_bytes(b"")
            disk = Disk(str(folder), Fault(kind, at, "kill"))
            try:
                verify(str(folder), repair=True, files=disk)
            except Killed:
                disk.die()
            if not disk.fired:
                break
            if not verify(str(folder)).damage:
                mended += 1
                left = read_job(Files(), Layout(str(folder)))
                assert left is not None
                assert left.finished is None, (kind, at)
    assert mended > 5


def test_nobody_comes_between_a_repair_and_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path, sealed=True)
    (folder / "parts/part-0001.parquet").write_bytes(b"")
    whole = Checkpoint.open

    def opened(*given: Any, **named: Any) -> Checkpoint:
        with pytest.raises(RunPaused):
            Lock(Layout(str(folder)).lock)
        return whole(*given, **named)

    monkeypatch.setattr(Checkpoint, "open", opened)
    assert verify(str(folder), repair=True).repaired
    Lock(Layout(str(folder)).lock).release()


class Meanwhile(Files):
    """Files of a look, during whose k-th read the run goes on and seals."""

    def __init__(self, at: int, go_on: Callable[[], None]) -> None:
        self.left = at
        self.go_on = go_on

    def _tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.go_on()

    def read(self, path: str) -> bytes:
        self._tick()
        return super().read(path)

    def names(self, folder: str) -> list[str]:
        names = super().names(folder)
        self._tick()
        return names


def test_a_look_at_a_running_job_never_takes_its_progress_for_damage(tmp_path: Path) -> None:
    for at in range(1, 30):
        root = tmp_path / f"{at}"
        os.makedirs(root)
        running = Checkpoint.open(str(root / "checkpoint"), "job", files=Disk(str(root)), seal_rows=3)

        def go_on(running: Checkpoint = running) -> None:
            for row in range(3, 8):
                put(running, row)
            running.writer.commit()
            running.writer.seal()

        for row in range(5):
            put(running, row)
        looker = Meanwhile(at, go_on)
        assert verify(str(root / "checkpoint"), files=looker).damage == [], at
        running.seal()
        running.release()
        if looker.left > 0:
            break
    assert at > 5
