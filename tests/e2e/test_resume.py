"""Interrupted, killed, edited: the same command goes on, and nothing is bought twice."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable

import polars as pl
import pytest

from tests.e2e.rig import Endpoint, JobFolder, ended, wait_until

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]


def test_a_killed_run_goes_on_and_pays_again_for_no_more_than_was_in_flight(
    simulate: Simulate, new_job: NewJob
) -> None:
    endpoint = simulate(latency_s=0.02)
    job = new_job(endpoint, concurrency=8, more={"limits": {"concurrency": 8, "requests_per_minute": 60_000}})
    job.number_of_rows(400)
    chance = random.Random(7)
    kills = 0
    for _ in range(3):
        before = endpoint.stats()["requests"]
        process = job.start()
        after = before + chance.randrange(20, 100)
        wait_until(lambda after=after: endpoint.stats()["requests"] >= after, "requests")  # type: ignore[misc]
        process.kill()
        ended(process)
        kills += 1
    done = job.run()
    assert done.returncode == 0, done.stderr
    results = job.results()
    assert results.height == results["id"].n_unique() == 400
    assert set(results["status"]) == {"ok"}
    stats = endpoint.stats()
    assert stats["requests"] - 400 <= kills * 8
    # A mark may stand for a request that the kill kept from leaving; the count is never too low.
    again = stats["requests"] - 400
    assert again <= job.summary()["requests_maybe_billed"] <= again + kills * 8


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_drains_what_is_in_flight_and_the_rerun_pays_for_nothing_twice(
    simulate: Simulate, new_job: NewJob, name: str
) -> None:
    endpoint = simulate(latency_s=0.2)
    job = new_job(endpoint)
    job.number_of_rows(300)
    process = job.start()
    wait_until(lambda: endpoint.stats()["requests"] >= 40, "requests")
    process.send_signal(signal.Signals[name])
    code, errors = ended(process)
    assert code == 75, errors
    stopped = endpoint.stats()
    assert stopped["in_flight"] == 0
    assert not (job.out / "results.parquet").exists()
    assert job.summary()["statuses"].get("pending", 0) > 0
    assert job.run().returncode == 0
    stats = endpoint.stats()
    assert stats["requests"] == 300
    assert stats["repeated"] == 0


def test_a_second_signal_leaves_at_once_and_keeps_what_was_received(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(latency_s=0.05, faults={"hang": 0.1}, seed=4)
    job = new_job(endpoint)
    job.number_of_rows(200)
    process = job.start()
    wait_until(lambda: endpoint.stats()["answers"] >= 40, "answers")
    answered = endpoint.stats()["answers"]
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: '"stopping"' in (job.out / "run.log").read_text(), "the drain to begin")
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    code, errors = ended(process)
    assert code == 130, errors
    assert time.monotonic() - began < 10
    status = json.loads(job.run("status", "--json").stdout)
    assert status["recorded"]["ok"] >= answered - job.concurrency


def test_two_runs_at_once_do_not_happen(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(latency_s=300.0)  # the first run is surely still there when the second comes
    job = new_job(endpoint)
    job.number_of_rows(100)
    first = job.start()
    wait_until(lambda: endpoint.stats()["requests"] > 0, "the first request")
    second = job.run()
    assert second.returncode == 75
    assert f"process {first.pid}" in second.stderr
    assert endpoint.stats()["requests"] == 1
    first.kill()
    ended(first)
    assert job.run("plan").returncode == 0  # a dead holder's lock is free at once


def test_rows_inserted_moved_deleted_and_edited_cost_only_themselves(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    rows = [{"id": f"r{place}", "text": f"text {place}"} for place in range(40)]
    job.rows(rows)
    job.run()
    edited = [dict(row) for row in rows]
    edited[3]["text"] = "edited"
    edited[9]["text"] = "edited too"
    del edited[20]
    edited.insert(0, {"id": "new", "text": "brand new"})
    edited.append(edited.pop(5))
    job.rows(edited)
    plan = json.loads(job.run("plan", "--json").stdout)["plan"]
    assert (plan["new"], plan["changed"], plan["removed"], plan["done"]) == (1, 2, 1, 37)
    assert job.run().returncode == 0
    assert endpoint.stats()["requests"] == 43
    assert job.results()["id"].to_list() == [row["id"] for row in edited]
    job.rows(rows)  # the edit undone
    assert job.run().returncode == 0
    assert endpoint.stats()["requests"] == 43
    assert job.results()["id"].to_list() == [row["id"] for row in rows]


def test_a_line_inserted_at_the_top_without_ids_costs_one_request(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint, id_column=None)
    rows = [{"text": f"text {place}"} for place in range(30)]
    job.rows(rows)
    job.run()
    job.rows([{"text": "first"}, *rows])
    assert job.run().returncode == 0
    assert endpoint.stats()["requests"] == 31


def test_a_changed_prompt_is_bought_only_when_accepted_and_comes_back_for_free(
    simulate: Simulate, new_job: NewJob
) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(20)
    job.run()
    old = job.template
    job.template = "Another question: {{ text }}"
    refused = job.run()
    assert refused.returncode == 2
    assert "20 rows" in refused.stderr
    assert "--accept-changes" in refused.stderr
    assert endpoint.stats()["requests"] == 20
    assert job.run("run", "--accept-changes").returncode == 0
    assert endpoint.stats()["requests"] == 40
    job.template = old
    assert job.run().returncode == 0
    assert endpoint.stats()["requests"] == 40


def test_a_trial_of_a_changed_prompt_accepts_it_for_no_other_row(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(20)
    job.run()
    job.template = "Another question: {{ text }}"
    for _ in range(2):  # the second time there is nothing to do
        assert job.run("run", "--limit", "3", "--accept-changes").returncode == 0
        assert endpoint.stats()["requests"] == 23
    refused = job.run()
    assert refused.returncode == 2
    assert "17 rows" in refused.stderr
    assert endpoint.stats()["requests"] == 23
    assert job.run("run", "--accept-changes").returncode == 0
    assert endpoint.stats()["requests"] == 40


def test_address_limits_and_blanks_cost_nothing(simulate: Simulate, new_job: NewJob) -> None:
    first, second = simulate(), simulate()
    job = new_job(first)
    job.number_of_rows(20)
    job.run()
    job.base_url = second.base_url
    job.concurrency = 3
    assert job.run().returncode == 0
    assert second.stats()["requests"] == 0


def test_another_job_does_not_write_into_the_same_folder(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(5)
    job.run()
    job.more = {"name": "somebody-else"}
    refused = job.run()
    assert refused.returncode == 2
    assert "'job'" in refused.stderr
    assert endpoint.stats()["requests"] == 5


def test_different_kill_schedules_give_the_same_bytes(simulate: Simulate, new_job: NewJob) -> None:
    tables = []
    for schedule in range(2):
        endpoint = simulate(latency_s=0.01, latency_sigma=0.5)
        job = new_job(endpoint, more={"output": f"out{schedule}"})
        job.number_of_rows(150)
        for stop in range(schedule):
            process = job.start()
            seen = 40 * (stop + 1)
            wait_until(lambda endpoint=endpoint, seen=seen: endpoint.stats()["requests"] >= seen, "requests")  # type: ignore[misc]
            process.kill()
            ended(process)
        assert job.run().returncode == 0
        tables.append((job.folder / f"out{schedule}" / "results.parquet").read_bytes())
    assert tables[0] == tables[1]
    assert pl.read_parquet(tables[0]).height == 150
