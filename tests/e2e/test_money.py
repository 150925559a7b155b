"""What is written down as spent, held against the simulator's bill; and a budget that is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.rig import Endpoint, JobFolder

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]

NEVER_TOLD = {
    *("gateway_timeout_billed", "reset_after", "truncated", "cut_until_close", "empty_200", "not_json_200"),
    *("null_200", "no_usage", "null_usage", "gzip_cut", "invalid_utf8", "nan_json", "trailing_garbage", "deep_json"),
    "odd_usage",
}
"""Faults that are billed and whose reply tells no tokens, or none that can be believed."""

CAP = 40
FAST = {"requests_per_minute": 60_000}
HURRY = {"max_attempts": 3, "max_wait_s": 0.05}


def untold(stats: dict[str, Any]) -> dict[str, int]:
    spoiled = [bill for kind, bill in stats["billed_by_fault"].items() if kind in NEVER_TOLD]
    return {name: sum(bill[name] for bill in spoiled) for name in ("billed", "prompt_tokens", "completion_tokens")}


def test_the_ledger_is_the_bill_to_the_token_under_faults_of_all_kinds(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(faults={"any": 0.1}, seed=21, slow_s=0.05)
    job = new_job(
        endpoint,
        more={"retry": HURRY, "prices": {"input": 1.0, "output": 2.0}, "limits": {"concurrency": 32, **FAST}},
    )
    job.number_of_rows(800)
    done = job.run()
    assert done.returncode == 3, done.stderr
    stats, summary = endpoint.stats(), job.summary()
    lost = untold(stats)
    assert len(stats["by_fault"]) > 35
    assert summary["requests"] == stats["requests"]
    tokens = summary["tokens"]
    assert tokens["prompt"] + lost["prompt_tokens"] == stats["prompt_tokens"]
    assert tokens["completion"] + lost["completion_tokens"] == stats["completion_tokens"]
    # What was billed and not told is known to be so: as billed without counts, or as perhaps billed.
    unsure = tokens["billed_requests_without_counts"] + summary["requests_maybe_billed"]
    assert lost["billed"] <= unsure
    assert summary["requests_billed"] + summary["requests_maybe_billed"] >= stats["billed"]
    assert summary["cost_usd"] == pytest.approx((tokens["prompt"] + 2 * tokens["completion"]) / 1e6)


def on_a_budget(job: JobFolder, **budget: float) -> None:
    job.more = {
        "model": {"name": "test-model", "max_tokens": CAP},
        "budget": budget,
        "prices": {"input": 10.0, "output": 10.0},
        "retry": HURRY,
        "limits": {"concurrency": 256, **FAST},
    }


def test_a_budget_of_tokens_is_never_passed_and_holds_over_reruns(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(faults={"mixed": 0.1}, seed=5, answer_tokens=(5, 60), latency_s=0.02)
    job = new_job(endpoint)
    job.number_of_rows(500)
    on_a_budget(job, tokens=9_000)
    done = job.run()
    assert done.returncode == 5, done.stderr
    assert "budget.tokens" in done.stderr
    first = endpoint.stats()
    assert 0 < first["total_tokens"] <= 9_000
    assert job.run().returncode == 5
    second = endpoint.stats()
    # Between two runs what the first was never told is counted as a mean prompt and the longest answer.
    assert second["total_tokens"] <= 9_000
    on_a_budget(job, tokens=1_000_000)
    assert job.run().returncode in (0, 3)
    assert "pending" not in job.summary()["statuses"]
    assert endpoint.stats()["answers"] >= 400


def test_a_spent_budget_sends_nothing_more_and_a_raised_one_goes_on(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(answer_tokens=(30, 30))
    job = new_job(endpoint)
    job.number_of_rows(200)
    on_a_budget(job, usd=0.02)  # 2,000 tokens at 10 USD per million
    done = job.run()
    assert done.returncode == 5, done.stderr
    assert "budget.usd" in done.stderr
    spent = endpoint.stats()
    assert 1_500 < spent["total_tokens"] <= 2_000
    again = job.run()
    assert again.returncode == 5, again.stderr
    assert endpoint.stats()["requests"] == spent["requests"]
    on_a_budget(job, usd=1.0)
    assert job.run().returncode == 0
    stats = endpoint.stats()
    assert (stats["requests"], stats["repeated"]) == (200, 0)


@pytest.mark.parametrize(
    ("more", "cure"),
    [
        ({"budget": {"tokens": 1_000}}, "max_tokens"),
        ({"budget": {"usd": 1}, "prices": {"input": 1, "output": 1}}, "max_tokens"),
        ({"budget": {"usd": 1}, "model": {"name": "m", "max_tokens": 9}}, "prices"),
        ({"budget": {"usd": 1}, "model": {"name": "m", "max_tokens": 9}, "prices": {"input": 1}}, "prices"),
    ],
)
def test_a_budget_that_nobody_could_keep_is_refused_unsent(
    simulate: Simulate, new_job: NewJob, more: dict[str, Any], cure: str
) -> None:
    endpoint = simulate()
    job = new_job(endpoint, more=more)
    job.number_of_rows(3)
    done = job.run("check")
    assert done.returncode == 2, done.stderr
    assert cure in done.stderr
    assert job.run().returncode == 2
    assert endpoint.stats()["requests"] == 0


def test_the_plan_gives_a_range_that_the_bill_then_lies_in(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(answer_tokens=(5, 120))
    job = new_job(endpoint, more={"prices": {"input": 1, "output": 10}, "model": {"name": "m", "max_tokens": 500}})
    job.number_of_rows(200)
    before = json.loads(job.run("plan", "--json").stdout)["cost_usd"]
    assert before["expected"] is None
    assert before["low"] < before["high"]
    assert job.run("run", "--limit", "60").returncode == 0
    spent = job.summary()["cost_usd"]
    learned = json.loads(job.run("plan", "--json").stdout)["cost_usd"]
    assert job.run().returncode == 0
    rest = job.summary()["cost_usd"] - spent
    assert learned["low"] < learned["expected"] < learned["high"]
    assert learned["low"] < rest < learned["high"]
    assert before["low"] < spent + rest < before["high"]
    assert learned["high"] - learned["low"] < before["high"] - before["low"]
