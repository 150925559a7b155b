"""What is odd and spoils nothing: one line of the log, and every answer is kept."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.e2e.rig import Endpoint, JobFolder

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]


@pytest.mark.fault("B15", "B18")
def test_another_model_and_an_id_used_twice_are_logged_once_each(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(faults={"other_model": 0.5, "same_id": 0.5})
    job = new_job(endpoint)
    job.number_of_rows(60)
    done = job.run()
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (job.out / "run.log").read_text().splitlines()]
    assert [(line["asked"], line["answered"]) for line in lines if line["event"] == "other_model"] == [
        ("test-model", "test-model@main")
    ]
    assert len([line for line in lines if line["event"] == "reply_id_again"]) == 1
    results = job.results()
    assert set(results["model"]) == {"test-model", "test-model@main"}
    assert results["id"].n_unique() == 60
    assert endpoint.stats()["requests"] == 60
