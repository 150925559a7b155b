from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from pipeline import halt as halting
from pipeline.errors import RunPaused
from pipeline.halt import WAIT_S, halt
from pipeline.storage.lock import Holder
from tests.storage.test_lock import Process


class Time:
    now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    (tmp_path / "checkpoint").mkdir()
    return tmp_path / "checkpoint" / "LOCK"


def test_a_run_that_does_not_end_in_time_is_left_to_itself(
    tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, time = Process(str(lock)), Time()
    told: list[int] = []
    assert other.said() == "held"

    def terminate(path: str, holder: Holder) -> bool:
        told.append(holder.pid)
        return True

    monkeypatch.setattr(halting, "terminate", terminate)
    with pytest.raises(RunPaused, match="still holds the lock after 9") as caught:
        halt(str(tmp_path), wait=True, say=lambda text: None, sleep=time.sleep, clock=time.clock)
    assert caught.value.exit_code == 75
    assert time.now >= WAIT_S
    assert told == [other.child.pid]
    assert other.child.poll() is None
    other.end()


def test_a_lock_that_names_nobody_is_refused_after_a_moment(tmp_path: Path, lock: Path) -> None:
    other, time = Process(str(lock)), Time()
    assert other.said() == "held"
    lock.write_bytes(b"")
    with pytest.raises(RunPaused, match="does not say by whom"):
        halt(str(tmp_path), wait=True, say=lambda text: None, sleep=time.sleep, clock=time.clock)
    other.end()


def test_the_next_run_is_not_taken_for_the_one_that_was_stopped(
    tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, time = Process(str(lock)), Time()
    assert first.said() == "held"
    monkeypatch.setattr(halting, "terminate", lambda path, holder: True)

    def sleep(seconds: float) -> None:
        """Meanwhile the lock has passed to another run."""
        lock.write_bytes(orjson.dumps({"pid": 1, "host": "h", "started": "s"}))

    halt(str(tmp_path), wait=True, say=lambda text: None, sleep=sleep, clock=time.clock)
    first.end()
