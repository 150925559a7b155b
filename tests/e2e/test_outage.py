"""An endpoint that is down: at the start, for a while in the middle, and for good. No row fails for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.rig import DEADLINE_S, Endpoint, JobFolder

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 16
HURRY = {"max_attempts": 6, "max_wait_s": 0.1}


def run_impatiently(job: JobFolder, patience_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.e2e.impatient", "run", str(job.write())],
        cwd=job.folder,
        env={**job.environment(), "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
             "PATIENCE": str(patience_s)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def a_job(new_job: NewJob, endpoint: Endpoint, rows: int) -> JobFolder:
    job = new_job(endpoint, more={
        "retry": HURRY,
        "limits": {"concurrency": WORKERS, "requests_per_minute": 6_000},
        "endpoint": {"base_url": endpoint.base_url, "timeout_s": {"connect": 5, "total": 1}},
    })
    job.number_of_rows(rows)
    return job


def test_nobody_there_at_the_start_is_exit_4_and_costs_nothing(new_job: NewJob) -> None:
    job = new_job(Endpoint("http://127.0.0.1:9/v1"), more={"retry": HURRY})
    job.number_of_rows(20)
    done = job.run()
    assert done.returncode == 4, done.stderr
    assert job.summary()["statuses"] == {"pending": 20}
    assert job.summary()["requests_billed"] == job.summary()["requests_maybe_billed"] == 0


def test_busy_from_the_start_pauses_and_fails_only_the_rows_that_went_alone(
    simulate: Simulate, new_job: NewJob
) -> None:
    endpoint = simulate(faults={"unavailable": 1.0})
    job = new_job(endpoint, more={"retry": {"max_attempts": 2, "max_wait_s": 0.1}})
    job.number_of_rows(50)
    done = job.run()
    assert done.returncode == 75, done.stderr
    assert endpoint.stats()["requests"] <= 3 * 2
    assert job.summary()["statuses"]["pending"] >= 47


@pytest.mark.parametrize("kind", ["unavailable", "gateway_timeout", "hang", "reset_before"])
def test_rows_wait_while_the_endpoint_is_down_and_none_fails(simulate: Simulate, new_job: NewJob, kind: str) -> None:
    endpoint = simulate(latency_s=0.1, slow_s=0.5)
    job = a_job(new_job, endpoint, 40)
    assert run_impatiently(job, 60).returncode == 0  # the start is over before the trouble begins
    troubled = simulate(latency_s=0.1, slow_s=0.5, outage=(0.0, 3.0, kind))
    job = a_job(new_job, troubled, 340)
    done = run_impatiently(job, 60)
    assert done.returncode == 0, done.stderr
    statuses = job.summary()["statuses"]
    assert statuses == {"ok": 340}
