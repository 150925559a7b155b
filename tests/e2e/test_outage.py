"""An endpoint that is down: at the start, for a while in the middle, and for good. No row fails for it."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e import impatient
from tests.e2e.rig import Endpoint, JobFolder, ended, wait_until

Simulate = Callable[..., Endpoint]
Start = Callable[[JobFolder, float], "subprocess.Popen[str]"]
NewJob = Callable[..., JobFolder]

WORKERS = 16
OUTAGE_S = 2.0
HURRY = {"max_attempts": 6, "max_wait_s": 0.1}


@pytest.fixture
def start_impatiently() -> Iterator[Callable[[JobFolder, float], subprocess.Popen[str]]]:
    """Starts runs that give up after so many seconds of trouble; whatever still runs ends with the test."""
    with ExitStack() as stack:

        def start(job: JobFolder, patience_s: float) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                impatient.command(job),
                cwd=job.folder,
                env=impatient.environment(job, patience_s),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def a_job(folder: Path, endpoint: Endpoint, rows: int) -> JobFolder:
    folder.mkdir()
    job = JobFolder(folder, endpoint.base_url)
    job.more = {
        "retry": HURRY,
        "limits": {"concurrency": WORKERS, "requests_per_minute": 6_000},
        "endpoint": {"base_url": endpoint.base_url, "timeout_s": {"connect": 5, "total": 1}},
    }
    job.number_of_rows(rows)
    return job


def break_down(endpoint: Endpoint) -> None:
    """The simulator's outage is set for the beginning of its time, which a reset begins anew."""
    request = urllib.request.Request(endpoint.base_url.removesuffix("/v1") + "/stats/reset", method="POST")
    urllib.request.urlopen(request, timeout=10).close()


def test_nobody_there_at_the_start_is_exit_4_and_costs_nothing(new_job: NewJob) -> None:
    job = new_job(Endpoint("http://127.0.0.1:9/v1"), more={"retry": HURRY})
    job.number_of_rows(20)
    done = job.run()
    assert done.returncode == 4, done.stderr
    summary = job.summary()
    assert summary["statuses"].get("pending", 0) >= 19
    assert summary["requests_billed"] == summary["requests_maybe_billed"] == 0


def test_busy_from_the_start_pauses_the_run_and_fails_only_rows_that_went_alone(
    simulate: Simulate, new_job: NewJob
) -> None:
    endpoint = simulate(faults={"unavailable": 1.0})
    job = new_job(endpoint, more={"retry": {"max_attempts": 2, "max_wait_s": 0.1}})
    job.number_of_rows(50)
    done = job.run()
    assert done.returncode == 75, done.stderr
    assert endpoint.stats()["requests"] <= 3 * 2
    assert job.summary()["statuses"]["pending"] >= 47


def test_rows_wait_while_the_endpoint_is_down_and_none_fails(
    simulate: Simulate, tmp_path: Path, start_impatiently: Start
) -> None:
    running = []
    for kind in ("unavailable", "gateway_timeout", "hang"):
        endpoint = simulate(latency_s=0.1, slow_s=0.4, outage=(0.0, OUTAGE_S, kind))
        running.append((kind, endpoint, a_job(tmp_path / kind, endpoint, 400)))
    wait_until(lambda: all(endpoint.stats()["uptime_s"] > OUTAGE_S for _, endpoint, _ in running), "good weather")
    processes = [start_impatiently(job, 60) for _, _, job in running]
    for _, endpoint, _ in running:
        wait_until(lambda endpoint=endpoint: endpoint.stats()["answers"] >= 40, "answers")  # type: ignore[misc]
        break_down(endpoint)
    for (kind, endpoint, job), process in zip(running, processes, strict=True):
        code, errors = ended(process)
        assert code == 0, (kind, errors)
        assert job.summary()["statuses"] == {"ok": 400}, kind
        assert job.summary()["limits_found"]["outages"] >= 1, kind
        into_it = endpoint.stats()["by_fault"].get(kind, 0)
        assert 0 < into_it <= 2 * WORKERS + 8, kind


def test_an_endpoint_that_stays_down_ends_the_run_with_75_and_the_rerun_goes_on(
    simulate: Simulate, tmp_path: Path, start_impatiently: Start
) -> None:
    endpoint = simulate(latency_s=0.1, outage=(0.0, 1.0, "unavailable"))
    job = a_job(tmp_path / "job", endpoint, 400)
    wait_until(lambda: endpoint.stats()["uptime_s"] > 1.0, "good weather")
    process = start_impatiently(job, 0.7)
    wait_until(lambda: endpoint.stats()["answers"] >= 40, "answers")
    break_down(endpoint)
    code, errors = ended(process)
    assert code == 75, errors
    assert "has been failing for" in errors
    statuses = job.summary()["statuses"]
    assert set(statuses) == {"ok", "pending"}
    assert job.run().returncode == 0
    assert job.summary()["statuses"] == {"ok": 400}
