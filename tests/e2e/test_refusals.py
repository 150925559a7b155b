"""What ends a run early, and how much it cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.rig import Endpoint, JobFolder

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]


def test_a_wrong_key_costs_one_request(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(api_key="another")
    job = new_job(endpoint)
    job.number_of_rows(50)
    done = job.run()
    assert done.returncode == 4, done.stderr
    assert endpoint.stats()["requests"] == 1
    assert job.summary()["statuses"] == {"pending": 50}


def test_a_misspelt_model_costs_one_request(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(models=("right-model",))
    job = new_job(endpoint, model="rihgt-model")
    job.number_of_rows(50)
    done = job.run()
    assert done.returncode == 4, done.stderr
    assert "rihgt-model" in done.stderr
    assert endpoint.stats()["requests"] == 1


def test_a_wrong_path_costs_one_request(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.base_url = endpoint.base_url.removesuffix("/v1") + "/wrong/path"
    job.number_of_rows(50)
    done = job.run()
    assert done.returncode == 4, done.stderr
    assert endpoint.stats()["refused"] == {"path": 1}


def test_an_empty_account_in_the_middle_leaves_rows_pending(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(balance_requests=20)
    job = new_job(endpoint, concurrency=4)
    job.number_of_rows(100)
    done = job.run()
    assert done.returncode == 4, done.stderr
    statuses = job.summary()["statuses"]
    assert statuses["ok"] == 20
    assert statuses["pending"] == 80
    assert "failed" not in statuses


def test_rows_that_all_fail_alike_end_the_run_early(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(faults={"bad_request": 1.0})
    job = new_job(endpoint, concurrency=4)
    job.number_of_rows(500)
    done = job.run()
    assert done.returncode == 4, done.stderr
    assert endpoint.stats()["requests"] <= 20 + 4


def test_an_endpoint_that_is_not_there_is_exit_4(new_job: NewJob) -> None:
    job = new_job(Endpoint("http://127.0.0.1:9/v1"), more={"retry": {"max_attempts": 2, "max_wait_s": 0.05}})
    job.number_of_rows(5)
    done = job.run()
    assert done.returncode == 4, done.stderr
    assert "127.0.0.1:9" in done.stderr


@pytest.mark.parametrize(
    ("change", "cure"),
    [
        ({"prompt": "{{ nowhere }}"}, "has no column"),
        ({"input": {"path": "missing.csv"}}, "missing.csv"),
        ({"input": {"path": "in.csv", "id": "nope"}}, "nope"),
        ({"prompt": "{{ text"}, "template"),
        ({"modell": "x"}, "did you mean model"),
        (
            {"endpoint": {"base_url": "https://example.invalid/v1", "api_key_env": "NOT_SET_ANYWHERE"}},
            "NOT_SET_ANYWHERE",
        ),
        ({"output": "in.csv"}, "in.csv"),
    ],
)
def test_what_a_user_got_wrong_is_exit_2_and_sends_nothing(
    simulate: Simulate, new_job: NewJob, change: dict[str, object], cure: str
) -> None:
    endpoint = simulate()
    job = new_job(endpoint, more=change)
    job.number_of_rows(3)
    for verb in ("check", "run"):
        done = job.run(verb)
        assert done.returncode == 2, done.stderr
        assert cure in done.stderr
        assert "Traceback" not in done.stderr
    assert endpoint.stats()["requests"] == 0
