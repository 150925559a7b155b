from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import CheckpointError, RunPaused
from pipeline.storage.lock import Lock, claimed, held

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from pipeline.errors import RunPaused
from pipeline.storage.lock import Lock
try:
    lock = Lock(sys.argv[1])
except RunPaused as reason:
    print(reason, flush=True)
else:
    print("held", flush=True)
sys.stdin.read()
"""


class Process:
    """Another process that tries for the lock, and keeps it until it ends."""

    def __init__(self, path: str) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-c", HOLDER, path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def said(self) -> str:
        assert self.child.stdout is not None
        return self.child.stdout.readline().strip()

    def end(self) -> None:
        self.child.kill()
        self.child.communicate()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "LOCK")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    taken: list[float] = []
    monkeypatch.setattr(time, "sleep", taken.append)
    return taken


@pytest.mark.fault("P10")
def test_a_second_run_is_told_who_has_the_lock_and_waits_less_than_a_second(path: str, pauses: list[float]) -> None:
    other = Process(path)
    assert other.said() == "held"
    with pytest.raises(RunPaused, match=rf"process {other.child.pid} on \S+, since \d{{4}}-\d\d-\d\d ") as caught:
        Lock(path)
    assert caught.value.exit_code == 75
    assert "nothing was sent" in str(caught.value)
    assert sum(pauses) < 0.5
    other.end()


@pytest.mark.fault("P10")
def test_the_lock_of_a_killed_holder_is_free_at_once(path: str, pauses: list[float]) -> None:
    other = Process(path)
    assert other.said() == "held"
    assert held(path)
    other.end()
    assert not held(path)
    Lock(path).release()
    assert pauses == []


@pytest.mark.fault("P10")
def test_of_two_that_start_together_one_gets_it(path: str) -> None:
    for _ in range(5):
        both = [Process(path), Process(path)]
        said = sorted(process.said() for process in both)
        assert said[1] == "held"
        assert re.search(r"in use by another run \(process \d+", said[0])
        for process in both:
            process.end()


@pytest.mark.fault("P11")
def test_a_program_that_the_run_starts_does_not_inherit_it(path: str) -> None:
    lock = Lock(path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lock.release()
    assert not held(path)
    child.communicate(b"\n")


@pytest.mark.fault("P12")
def test_a_lock_file_that_was_deleted_or_replaced_is_noticed(path: str) -> None:
    lock = Lock(path)
    lock.check()
    os.unlink(path)
    with pytest.raises(CheckpointError, match="deleted or replaced"):
        lock.check()
    second = Lock(path)
    with pytest.raises(CheckpointError, match="deleted or replaced"):
        lock.check()
    second.check()
    lock.release()
    second.release()


@pytest.mark.fault("C12")
def test_a_planted_link_is_not_taken_for_the_lock(path: str, tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    os.symlink(tmp_path / "victim", path)
    with pytest.raises(OSError):
        Lock(path)
    assert (tmp_path / "victim").read_bytes() == b"mine"


def test_asking_takes_nothing_and_no_file_is_no_lock(path: str) -> None:
    assert not held(path)
    lock = Lock(path)
    assert held(path)
    assert held(path)
    lock.release()
    lock.release()


def test_a_status_that_asks_at_that_instant_does_not_stop_a_run(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Lock(path)
    monkeypatch.setattr(time, "sleep", lambda seconds: first.release())
    Lock(path).release()


# A folder claimed before anything else


def test_a_claim_that_came_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "out" / "reviews" / "checkpoint"
    with pytest.raises(ZeroDivisionError), claimed(str(folder)):
        assert held(str(folder / "LOCK"))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_claim_takes_away_only_what_it_made(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with claimed(str(tmp_path / "out" / "reviews" / "checkpoint")):
        (tmp_path / "out" / "reviews" / "notes.txt").write_text("mine")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["reviews", "notes.txt"]


def test_a_claim_with_something_recorded_stays(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    with claimed(str(folder)):
        (folder / "job.json").write_text("{}")
    assert not held(str(folder / "LOCK"))
    assert sorted(path.name for path in folder.iterdir()) == ["LOCK", "job.json"]


@pytest.mark.fault("P08")
def test_a_folder_that_cannot_be_made_is_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with (
        pytest.raises(CheckpointError, match=f"{tmp_path}/out cannot be used as an output folder: a file"),
        claimed(str(tmp_path / "out" / "x" / "checkpoint")),
    ):
        pass


def test_who_waits_for_a_lock_file_that_is_taken_away_gets_the_new_one(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two finds its input wrong, and removes the folder that it made, while the second waits for it."""
    first = Lock(path)

    def gone(_seconds: float) -> None:
        if first.fd >= 0:
            os.unlink(path)
            first.release()

    monkeypatch.setattr(time, "sleep", gone)
    second = Lock(path)
    second.check()
    second.release()
