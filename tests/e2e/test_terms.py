"""Verdicts, samples and copies as a user gets them: what is asked, what it costs, what the tables say."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from tests.e2e.rig import Endpoint, JobFolder, ended, wait_until
from tests.e2e.scripted import says, scripted

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]

FIELDS = {"sentiment": ["positive", "negative", "neutral"], "stars": "integer"}


# -- verdicts ----------------------------------------------------------------------------------------------------------


def test_an_answer_cut_off_fails_the_row_when_the_job_says_so_and_goes_again_on_demand(
    simulate: Simulate, new_job: NewJob
) -> None:
    endpoint = simulate(faults={"length": 1.0})
    job = new_job(endpoint)
    job.number_of_rows(6)
    job.more = {"on": {"truncated": "fail"}}
    done = job.run()
    assert done.returncode == 3, done.stderr
    assert job.summary()["failures"] == {"truncated": 6}
    assert job.summary()["verdicts"]["truncated"] == 6
    results = job.results()
    assert set(results["status"]) == {"failed"}
    assert results["response"].null_count() == 0  # it is paid for
    assert job.run().returncode == 3
    assert endpoint.stats()["requests"] == 6
    assert job.run("run", "--retry-failed", "truncated").returncode == 3
    assert endpoint.stats()["requests"] == 12


def test_a_changed_verdict_buys_nothing_again(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(faults={"length": 1.0})
    job = new_job(endpoint)
    job.number_of_rows(6)
    assert job.run().returncode == 0
    job.more = {"on": {"truncated": "fail", "filtered": "fail"}}
    assert job.run().returncode == 0
    assert endpoint.stats()["requests"] == 6
    assert set(job.results()["status"]) == {"truncated"}


def test_more_tokens_are_paid_for_counted_and_kept_to_the_budget(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(faults={"length": 1.0})
    job = new_job(endpoint)
    job.number_of_rows(4)
    job.more = {
        "on": {"truncated": "retry_with_more_tokens"},
        "model": {"name": "m", "max_tokens": 10},
        "prices": {"input": 1.0, "output": 2.0, "per_request": 0.5},
    }
    done = job.run()
    assert done.returncode == 0, done.stderr
    stats, summary, results = endpoint.stats(), job.summary(), job.results()
    assert stats["requests"] == summary["requests_billed"] == 12
    assert results["prompt_tokens"].sum() == stats["prompt_tokens"]
    assert results["completion_tokens"].sum() == stats["completion_tokens"]
    assert results["cost_usd"].sum() == pytest.approx(summary["cost_usd"])
    assert set(results["status"]) == {"truncated"}


def test_more_tokens_without_a_cap_are_refused(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.number_of_rows(1)
    job.more = {"on": {"truncated": "retry_with_more_tokens"}}
    checked = job.run("check")
    assert checked.returncode == 2
    assert "max_tokens" in checked.stderr


@pytest.mark.parametrize(("policy", "code"), [("fail", 3), ("keep", 0)])
def test_an_invalid_answer_counts_as_the_job_says(simulate: Simulate, new_job: NewJob, policy: str, code: int) -> None:
    job = new_job(simulate(canned=True))
    job.number_of_rows(3)
    job.more = {"answer": {"fields": FIELDS, "repair": 0}, "on": {"invalid_answer": policy}}
    assert job.run().returncode == code
    results = job.results()
    assert set(results["status"]) == {"invalid_answer"}
    assert results["sentiment"].null_count() == 3
    assert pl.read_parquet(job.out / "failed.parquet").height == (3 if code else 0)
    assert job.run().returncode == code


# -- samples -----------------------------------------------------------------------------------------------------------


def test_samples_give_a_majority_its_share_and_all_that_was_said(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(8)
    job.more = {
        "answer": {"fields": FIELDS},
        "samples": 3,
        "model": {"name": "m", "seed": 5},
        "prices": {"input": 1.0, "output": 2.0, "per_request": 0.5},
    }
    done = job.run()
    assert done.returncode == 0, done.stderr
    results, stats = job.results(), endpoint.stats()
    assert stats["requests"] == 24
    for row in results.iter_rows(named=True):
        said = [json.loads(text) for text in row["samples"]]
        assert len(said) == 3
        for name in FIELDS:
            votes = [one[name] for one in said]
            assert votes.count(row[name]) == max(map(votes.count, votes))
            assert row[f"{name}_agreement"] == pytest.approx(votes.count(row[name]) / 3)
    assert results["prompt_tokens"].sum() == stats["prompt_tokens"]
    assert results["cost_usd"].sum() == pytest.approx(job.summary()["cost_usd"])


def test_another_number_of_samples_is_another_question(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.number_of_rows(4)
    job.more = {"samples": 2}
    assert job.run().returncode == 0
    job.more = {"samples": 3}
    refused = job.run()
    assert refused.returncode == 2
    assert "--accept-changes" in refused.stderr


@pytest.mark.parametrize("fields", [None, FIELDS], ids=["text", "typed"])
@pytest.mark.parametrize("settings", [{}, {"canned": True}, {"faults": {"bad_request": 1.0}}])
def test_the_types_of_samples_and_copies_do_not_depend_on_the_answers(
    simulate: Simulate, new_job: NewJob, fields: dict[str, Any] | None, settings: dict[str, Any]
) -> None:
    job = new_job(simulate(**settings))
    job.number_of_rows(3)
    job.more = {"samples": 2, "dedupe": True, **({"answer": {"fields": fields, "repair": 0}} if fields else {})}
    assert job.run().returncode in (0, 3)
    schema = job.results().schema
    assert schema["samples"] == pl.List(pl.String())
    assert schema["copy"] == pl.Boolean()
    shares = [f"{name}_agreement" for name in fields] if fields else ["agreement"]
    assert [schema[name] for name in shares] == [pl.Float64()] * len(shares)


def test_a_killed_run_does_not_pay_again_for_the_samples_that_it_had(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(latency_s=0.1)
    job = new_job(endpoint, concurrency=4)
    job.number_of_rows(12)
    job.more = {"samples": 3}
    process = job.start()
    wait_until(lambda: endpoint.stats()["billed"] >= 14, "some samples")
    process.kill()
    ended(process)
    assert job.run().returncode == 0
    stats = endpoint.stats()
    assert 36 <= stats["requests"] <= 36 + 4  # what was in flight, at most
    assert job.results()["samples"].list.len().to_list() == [3] * 12


# -- copies ------------------------------------------------------------------------------------------------------------


def copies(job: JobFolder, rows: int, distinct: int) -> None:
    job.rows([{"id": f"r{n}", "text": f"text {n % distinct}"} for n in range(rows)])


@pytest.mark.parametrize("id_column", ["id", None])
def test_equal_requests_are_asked_once_and_the_copies_are_free(
    simulate: Simulate, new_job: NewJob, id_column: str | None
) -> None:
    endpoint = simulate()
    job = new_job(endpoint, id_column=id_column)
    copies(job, 20, 5)
    job.more = {"dedupe": True, "prices": {"input": 1.0, "output": 2.0, "per_request": 0.5}}
    planned = json.loads(job.run("plan", "--json").stdout)["plan"]
    assert (planned["to_send"], planned["copies"], planned["rows"]) == (5, 15, 20)
    done = job.run()
    assert done.returncode == 0, done.stderr
    stats, results = endpoint.stats(), job.results()
    assert stats["requests"] == 5
    assert results.height == 20
    assert results["copy"].to_list() == [False] * 5 + [True] * 15
    assert results["response"].to_list() == results["response"].to_list()[:5] * 4
    assert results["prompt_tokens"].sum() == stats["prompt_tokens"]
    assert results["cost_usd"].sum() == pytest.approx(job.summary()["cost_usd"])
    assert set(results.filter("copy")["cost_usd"]) == {0.0}
    assert job.run().returncode == 0
    assert endpoint.stats()["requests"] == 5


def test_an_edit_costs_its_new_question_alone(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.more = {"dedupe": True}
    copies(job, 20, 5)
    assert job.run().returncode == 0
    job.rows([{"id": f"r{n}", "text": "text 4" if n == 0 else f"text {n % 5}"} for n in range(20)])
    assert job.run().returncode == 0  # r0 asks what others have asked
    assert endpoint.stats()["requests"] == 5
    job.rows([{"id": f"r{n}", "text": "new" if n in (0, 7) else f"text {n % 5}"} for n in range(20)])
    assert job.run().returncode == 0
    assert endpoint.stats()["requests"] == 6


def test_copies_of_a_row_that_fails_fail_with_it(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(faults={"bad_request": 1.0})
    job = new_job(endpoint)
    job.more = {"dedupe": True}
    copies(job, 6, 2)
    assert job.run().returncode == 3
    assert endpoint.stats()["requests"] == 2
    failed = pl.read_parquet(job.out / "failed.parquet")
    assert failed["attempts"].to_list() == [1, 1, 0, 0, 0, 0]


def test_asking_equal_rows_once_from_now_on_is_another_question(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    copies(job, 20, 5)
    assert job.run().returncode == 0
    assert endpoint.stats()["requests"] == 20
    job.more = {"dedupe": True}
    refused = job.run()
    assert refused.returncode == 2
    assert "5 rows that have their answer" in refused.stderr
    assert job.run("run", "--accept-changes").returncode == 0
    assert endpoint.stats()["requests"] == 25


def test_a_killed_run_with_copies_goes_on(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(latency_s=0.1)
    job = new_job(endpoint, concurrency=4)
    copies(job, 60, 20)
    job.more = {"dedupe": True}
    process = job.start()
    wait_until(lambda: endpoint.stats()["billed"] >= 6, "some answers")
    process.kill()
    ended(process)
    assert job.run().returncode == 0
    assert 20 <= endpoint.stats()["requests"] <= 24
    assert job.results()["response"].null_count() == 0


def test_a_verdict_on_an_empty_answer_keeps_null_and_the_empty_text_apart(new_job: NewJob) -> None:
    texts: list[str | None] = ["", None, "good"]

    def answer(body: dict[str, Any]) -> Any:
        return says(texts[int(body["messages"][-1]["content"].split()[-1])])

    with scripted(answer) as server:
        job = new_job(Endpoint(server.base_url))
        job.number_of_rows(3)
        job.more = {"on": {"empty": "keep"}}
        assert job.run().returncode == 0
    results = job.results()
    assert results["status"].to_list() == ["empty", "empty", "ok"]
    assert results["response"].to_list() == texts
