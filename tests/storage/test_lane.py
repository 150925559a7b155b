"""Several writers in one checkpoint, under one lock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.errors import CheckpointError
from pipeline.records import Billed, Outcome, Row, Status, Usage
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.files import Files
from pipeline.storage.lane import Lane
from pipeline.storage.manifest import Part, SharedManifest, part_line, read
from pipeline.storage.snapshot import Snapshot

JOB = "0011223344556677"


def outcome(number: int) -> Outcome:
    row = Row(number, f"r{number}", {})
    return Outcome(
        f"{number:032x}", row, Status.OK, f"text {number}", usage=Usage(1, 1, 2), billed=Billed.YES, attempts=1
    )


def lanes(checkpoint: Checkpoint, count: int) -> list[Lane]:
    first = checkpoint.lend()
    fd = checkpoint.lock.fd
    folder = checkpoint.layout.folder
    return [Lane.enter(folder, os.dup(fd), number=lane, lanes=count, first=first) for lane in range(count)]


def answers(checkpoint: Checkpoint) -> list[str]:
    snapshot = Snapshot(checkpoint.layout.folder, checkpoint.job.job)
    found: list[str] = []
    for piece in range(len(snapshot)):
        table = snapshot.piece(piece, ["event", "text"])
        found += table.filter(table["event"] == "outcome")["text"].to_list()
    return sorted(found)


def test_their_segments_do_not_meet_and_all_they_record_is_there(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(str(tmp_path / "c"), "job")
    both = lanes(checkpoint, 2)
    for number in range(40):
        lane = both[number % 2]
        lane.record(outcome(number))
        if number % 5 == 4:
            lane.writer.rotate()
            lane.writer.commit()
            lane.writer.seal()
    numbers = [int(name.split(".")[0]) for name in os.listdir(checkpoint.layout.journal)]
    assert len(numbers) == len(set(numbers)) >= 3
    for lane in both:
        lane.seal()
        lane.release()
    checkpoint.seal()
    checkpoint.release()
    assert answers(checkpoint) == sorted(f"text {number}" for number in range(40))
    assert not os.listdir(checkpoint.layout.journal)


def test_what_a_dead_one_left_is_taken_over_and_its_requests_are_in_doubt(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(str(tmp_path / "c"), "job")
    dead, living = lanes(checkpoint, 2)
    dead.record(outcome(1))
    dead.sent(f"{2:032x}")
    living.sent(f"{3:032x}")
    living.record(outcome(3))
    living.seal()
    living.release()
    dead.lock.release()  # as the kernel does it
    checkpoint.seal()
    assert checkpoint.in_doubt == 1
    assert answers(checkpoint) == ["text 1", "text 3"]
    assert Snapshot(checkpoint.layout.folder, checkpoint.job.job).totals().maybe_billed == 1
    checkpoint.release()
    again = Checkpoint.open(str(tmp_path / "c"), "job")
    assert again.in_doubt == 0, "it is noted once"
    again.release()


def test_nothing_is_read_again_when_all_have_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint.open(str(tmp_path / "c"), "job")
    for lane in lanes(checkpoint, 2):
        lane.seal()
        lane.release()
    monkeypatch.setattr("pipeline.storage.recovery.look", None)
    checkpoint.seal()
    checkpoint.release()


def test_the_first_reply_is_told_by_the_lane_that_has_it(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(str(tmp_path / "c"), "job", simulated=None)
    first, second = lanes(checkpoint, 2)
    first.settle_simulated(True, fresh=True)
    late = Lane.enter(checkpoint.layout.folder, os.dup(checkpoint.lock.fd), number=5, lanes=6, first=1_000)
    with pytest.raises(CheckpointError, match="simulated"):
        late.settle_simulated(False, fresh=False)
    for lane in (first, second, late):
        lane.seal()
        lane.release()
    checkpoint.seal()
    assert checkpoint.job.simulated
    checkpoint.update(question="q")
    checkpoint.release()
    again = Checkpoint.open(str(tmp_path / "c"), "job", simulated=True)
    assert again.job.simulated
    again.release()


def test_the_lock_is_held_as_long_as_one_of_them_is_there(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(str(tmp_path / "c"), "job")
    lane, other = lanes(checkpoint, 2)
    other.abandon()
    checkpoint.abandon()
    with pytest.raises(Exception, match="in use"):
        Checkpoint.open(str(tmp_path / "c"), "job")
    lane.lock.check()
    lane.abandon()


def part(number: int) -> Part:
    return Part(number, f"part-{number:04d}.parquet", 10, 100, "aa" * 200)


def test_a_line_that_somebody_died_over_is_cut_off_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    ours, theirs = (SharedManifest(Files(), str(tmp_path), JOB) for _ in range(2))
    ours.add(part_line(part(1), JOB))
    with path.open("ab") as file:
        file.write(part_line(part(2), JOB)[:-30])
    third = SharedManifest(Files(), str(tmp_path), JOB)
    assert path.read_bytes().endswith(b"a"), "opening cuts nothing off"
    for manifest, number in ((theirs, 3), (ours, 4), (third, 5)):
        manifest.add(part_line(part(number), JOB))
    found = read(path.read_bytes(), JOB)
    assert sorted(found.parts) == [1, 3, 4, 5]
    assert found.damaged == 0


def test_processes_that_append_at_once_lose_no_line(tmp_path: Path) -> None:
    SharedManifest(Files(), str(tmp_path), JOB).close()
    pids = []
    for lane in range(3):
        pid = os.fork()
        if not pid:
            manifest = SharedManifest(Files(), str(tmp_path), JOB)
            for number in range(lane, 120, 3):
                manifest.add(part_line(part(number), JOB))
            os._exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    found = read((tmp_path / "manifest.jsonl").read_bytes(), JOB)
    assert sorted(found.parts) == list(range(120))
    assert found.damaged == 0
