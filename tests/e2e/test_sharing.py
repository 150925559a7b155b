"""Two commands side by side against one endpoint that allows a certain number of requests."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.rig import CANARY_KEY, Endpoint, JobFolder, ended, wait_until

Simulate = Callable[..., Endpoint]
RPM = 600
SHARED: dict[str, Any] = {"concurrency": 8, "requests_per_minute": RPM}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder


def a_job(folder: Path, endpoint: Endpoint, rows: int, **limits: Any) -> JobFolder:
    folder.mkdir()
    job = JobFolder(folder, endpoint.base_url, more={"limits": {**SHARED, **limits}})
    job.number_of_rows(rows)
    return job


def now(job: JobFolder) -> dict[str, Any]:
    """What ``status`` tells of a run that is going on."""
    told = json.loads(job.run("status", "--json").stdout or "{}")
    limits: dict[str, Any] = (told.get("now") or {}).get("limits") or {}
    return limits


def events(job: JobFolder, name: str) -> list[dict[str, Any]]:
    lines = (job.out / "run.log").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == name]


def test_two_runs_share_one_allowance_and_tell_so(simulate: Simulate, tmp_path: Path, state: Path) -> None:
    # All that is in flight fits into the bucket at once, so that no slow machine has a call refused.
    endpoint = simulate(requests_per_minute=RPM, window="bucket", burst=20)
    jobs = [a_job(tmp_path / name, endpoint, 50) for name in ("one", "two")]
    running = [job.start() for job in jobs]
    wait_until(lambda: all(now(job).get("jobs_sharing") == 2 for job in jobs), "both to know of each other")
    assert [ended(process)[0] for process in running] == [0, 0]
    stats = endpoint.stats()
    assert stats["requests"] == 100, "not one was refused"
    for job in jobs:
        assert [line["jobs"] for line in events(job, "sharing")][:1] == [2]
        assert job.summary()["limits_found"]["jobs_sharing"] in (1, 2)
    assert not list(state.rglob("*.lease"))
    assert CANARY_KEY.encode() not in b"".join(path.read_bytes() for path in state.rglob("*") if path.is_file())


def test_a_run_that_is_killed_leaves_its_share_to_the_other(simulate: Simulate, tmp_path: Path, state: Path) -> None:
    endpoint = simulate(requests_per_minute=RPM, window="bucket", burst=20)
    killed, other = a_job(tmp_path / "killed", endpoint, 1000), a_job(tmp_path / "other", endpoint, 1000)
    first, second = killed.start(), other.start()
    wait_until(lambda: bool(events_if_any(other, 2)), "the other to share")
    first.kill()
    first.communicate()
    wait_until(lambda: bool(events_if_any(other, 1)), "the other to see it die")
    wait_until(lambda: now(other).get("requests_per_minute_share") == RPM, "the other to have it all")
    second.send_signal(signal.SIGTERM)
    assert ended(second)[0] == 75
    assert not list(state.rglob("*.lease"))


def events_if_any(job: JobFolder, jobs: int) -> list[dict[str, Any]]:
    if not (job.out / "run.log").exists():
        return []
    return [line for line in events(job, "sharing") if line["jobs"] == jobs]


def test_a_state_folder_that_cannot_be_written_costs_no_row(simulate: Simulate, tmp_path: Path, state: Path) -> None:
    state.write_text("a file where the folder should be")
    job = a_job(tmp_path / "job", simulate(), 20)
    done = job.run()
    assert done.returncode == 0, done.stderr
    assert job.results().height == 20
    (told,) = events(job, "not_sharing")
    assert "state" in told["message"]
    assert "jobs_sharing" not in job.summary()["limits_found"]


@pytest.mark.parametrize("limits", [{"share": False}, {"requests_per_minute": None}])
def test_who_does_not_want_to_share_or_has_nothing_to_share_leaves_no_trace(
    limits: dict[str, Any], simulate: Simulate, tmp_path: Path, state: Path
) -> None:
    job = a_job(tmp_path / "job", simulate(), 5, **limits)
    assert job.run().returncode == 0
    assert not os.path.lexists(state)


def test_a_rehearsal_shares_with_nobody(simulate: Simulate, tmp_path: Path, state: Path) -> None:
    job = a_job(tmp_path / "job", simulate(), 5)
    assert job.run("rehearse").returncode == 0
    assert not os.path.lexists(state)
