"""Attempts to make the tool pay twice, or say nothing about it: changes of mind between a kill and the next run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gate import gated
from tests.e2e.later import later, start_later
from tests.e2e.rig import Endpoint, JobFolder, ended, wait_until
from tests.e2e.scripted import Said, says, scripted

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]


def planned(job: JobFolder, *arguments: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(job.run("plan", "--json", *arguments).stdout)["plan"]
    return told


# -- copies that failed, of one kind among several


def test_one_kind_of_failed_copies_goes_again_and_nothing_else(new_job: NewJob) -> None:
    """Of three questions one is refused for its content, one for its length; then the first is let through."""
    lenient = False

    def script(body: dict[str, Any]) -> Said:
        asked = body["messages"][-1]["content"]
        if "text 0" in asked and not lenient:
            return 400, {"error": {"message": "flagged by our content policy", "code": "content_policy_violation"}}
        if "text 1" in asked:
            return 400, {"error": {"message": "maximum context length is 10 tokens", "code": "context_length_exceeded"}}
        return says("positive")

    with scripted(script) as server:
        job = new_job(server.endpoint, more={"dedupe": True, "prices": {"input": 1, "output": 1}})
        job.rows([{"id": f"r{n}", "text": f"text {n % 3}"} for n in range(9)])
        assert job.run().returncode == 3
        assert len(server.asked) == 3
        kinds = {row["kind"]: row["rows"] for row in map(json.loads, job.run("failures", "--json").stdout.splitlines())}
        assert len(kinds) == 2
        (content,) = [kind for kind in kinds if "content" in kind and "length" not in kind]
        assert planned(job, "--retry-failed", content)["to_send"] == 1
        lenient = True
        assert job.run("run", "--retry-failed", content).returncode == 3
        assert len(server.asked) == 4
        assert job.results()["status"].to_list() == ["ok", "failed", "ok"] * 3
        assert job.run().returncode == 3
        # The row that asked for all the others leaves: the next one stands for it, with its answer.
        job.rows([{"id": f"r{n}", "text": f"text {n % 3}"} for n in range(1, 9)])
        assert job.run().returncode == 3
        assert len(server.asked) == 4
        results = job.results()
        assert results["status"].to_list() == ["failed", "ok", "ok", "failed", "ok", "ok", "failed", "ok"]
        assert results["copy"].to_list() == [False, False, False, True, True, True, True, True]
    assert job.summary()["cost_usd"] == pytest.approx(2 * 13 / 1e6)


# -- more tokens, with a kill between


def test_a_kill_between_two_sizes_of_an_answer_goes_on_with_the_larger(new_job: NewJob) -> None:
    with gated(1, [says("posi", "length")]) as (gate, server):
        job = new_job(server.endpoint)
        job.number_of_rows(1)
        job.more = {
            "on": {"truncated": "retry_with_more_tokens"},
            "model": {"name": "m", "max_tokens": 10},
            "prices": {"input": 1, "output": 1},
        }
        process = job.start()
        wait_until(lambda: gate.waiting == 1, "the request for more")
        process.kill()
        ended(process)
        gate.opened.set()
        done = job.run()
        assert done.returncode == 0, done.stderr
        assert [body["max_tokens"] for body in server.asked] == [10, 20, 20]
        row = job.results().row(0, named=True)
        assert (row["status"], row["response"], row["prompt_tokens"]) == ("ok", "positive", 20)
        summary = job.summary()
        assert (summary["requests_billed"], summary["requests_maybe_billed"]) == (2, 1)
        assert row["cost_usd"] == pytest.approx(summary["cost_usd"])


# -- samples


def test_more_samples_after_a_kill_are_refused_and_undoing_that_buys_only_what_was_missing(new_job: NewJob) -> None:
    with gated(9) as (gate, server):  # all three of the first row, two of each other
        job = new_job(server.endpoint, concurrency=4, more={"samples": 3})
        job.number_of_rows(4)
        process = job.start()
        wait_until(lambda: gate.waiting == 3, "the last sample of three rows")
        process.kill()
        ended(process)
        gate.opened.set()
        job.more = {"samples": 5}
        refused = job.run()
        assert refused.returncode == 2
        assert "--accept-changes" in refused.stderr
        assert planned(job)["again"] == 1
        assert len(server.asked) == 12
        job.more = {"samples": 3}
        done = job.run()
        assert done.returncode == 0, done.stderr
        assert len(server.asked) == 12 + 3
        job.more = {"samples": 5}
        refused = job.run()
        assert "4 rows that have their answer" in refused.stderr
        assert job.run("run", "--accept-changes").returncode == 0
        assert len(server.asked) == 15 + 20
        job.more = {"samples": 3}  # and back again, for free
        assert job.run().returncode == 0
        assert len(server.asked) == 35
        assert job.results()["samples"].list.len().to_list() == [3] * 4


# -- a changed block of fields


def test_other_fields_are_told_with_their_price_and_going_back_is_free(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    before = {"a": ["x", "y"], "b": "number"}
    job = new_job(endpoint, more={"answer": {"fields": before}, "prices": {"input": 1.0, "output": 2.0}})
    job.number_of_rows(5)
    assert job.run().returncode == 0
    # An order is a part of the question, too: it stands in the request.
    others: list[dict[str, Any]] = [
        {"a": ["x", "y"]},
        {**before, "c": "string"},
        {**before, "b": "integer"},
        {"b": "number", "a": ["x", "y"]},
        {**before, "a": ["y", "x"]},
    ]
    for fields in others:
        job.more["answer"] = {"fields": fields}
        refused = job.run()
        assert refused.returncode == 2
        assert "5 rows that have their answer would be asked again, for about $0.00" in refused.stderr
        assert planned(job)["again"] == 5
    job.more["answer"] = {"fields": before}
    assert job.run().returncode == 0
    assert endpoint.stats()["requests"] == 5


# -- answers that grow old, and rows that are edited meanwhile


def test_an_edit_of_an_expired_row_costs_one_request_and_its_undoing_none(tmp_path: Path) -> None:
    word = "old"
    with scripted(lambda body: says(word)) as server:
        job = JobFolder(tmp_path, server.base_url, more={"expire": "30d"})
        rows = [{"id": f"r{n}", "text": f"text {n}"} for n in range(4)]
        job.rows(rows)
        assert later(job, 0).returncode == 0
        word = "new"
        job.rows([{**rows[0], "text": "edited"}, *rows[1:]])
        done = later(job, 40)
        assert "3 answers are older" in done.stderr
        assert job.results()["response"].to_list() == ["new", "old", "old", "old"]
        assert len(server.asked) == 5
        job.rows(rows)
        done = later(job, 40)
        assert "4 answers are older" in done.stderr
        assert job.results()["response"].to_list() == ["old"] * 4
        assert len(server.asked) == 5
        assert later(job, 40, "run", "--refresh-expired").returncode == 0
        assert len(server.asked) == 9
        job.rows([{**rows[0], "text": "edited"}, *rows[1:]])
        assert later(job, 40, "run", "--refresh-expired").returncode == 0
        assert len(server.asked) == 9  # the edited row's own answer is young


# -- a budget over samples and copies


def test_a_budget_in_dollars_holds_over_samples_copies_and_runs(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(answer_tokens=(10, 40), latency_s=0.01)
    prices = {"input": 10.0, "output": 10.0}
    job = new_job(endpoint)
    job.rows([{"id": f"r{n}", "text": f"text {n % 40}"} for n in range(80)])

    def bill() -> float:
        stats = endpoint.stats()
        return float(stats["total_tokens"]) * 10 / 1e6

    for usd in (0.01, 0.01, 0.02, 0.02):
        job.more = {
            "samples": 3,
            "dedupe": True,
            "budget": {"usd": usd},
            "prices": prices,
            "model": {"name": "m", "max_tokens": 40},
        }
        done = job.run()
        assert done.returncode == 5, done.stderr
        assert bill() <= usd
        assert bill() >= 0.8 * usd
        assert job.summary()["cost_usd"] == pytest.approx(bill())
    job.more["budget"] = {"usd": 1}
    assert job.run().returncode == 0
    assert endpoint.stats()["requests"] == 120
    assert job.results()["cost_usd"].sum() == pytest.approx(bill())


# -- columns that are named as ours


def test_columns_that_are_named_as_ours_come_out_as_they_went_in(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint, template="{{ response }} {{ sentiment }}")
    rows = [
        {
            "id": f"r{n}",
            "response": f"theirs {n}",
            "sentiment": ("Positive", "negative ")[n % 2],
            "key": "k",
            "copy": "c",
        }
        for n in range(6)
    ]
    rows[4]["sentiment"] = " "
    job.rows(rows)
    job.more = {"answer": {"fields": {"sentiment": ["positive", "negative"]}}, "dedupe": True}
    refused = job.run()
    assert refused.returncode == 2
    assert "prefix" in refused.stderr
    assert endpoint.stats()["requests"] == 0
    job.more |= {
        "output": {"path": "out", "prefix": "llm_"},
        "evaluate": {"gold": "sentiment", "field": "sentiment"},
    }
    done = job.run()
    assert done.returncode == 0, done.stderr
    results = job.results()
    for name in rows[0]:
        assert results[name].to_list() == [row[name] for row in rows]
    assert set(results["llm_sentiment"]) <= {"positive", "negative"}
    told = job.summary()["evaluation"]
    right = [gold.strip().lower() == said for gold, said in results.select("sentiment", "llm_sentiment").rows()]
    assert (told["compared"], told["without_gold"]) == (5, 1)
    assert told["accuracy"] == pytest.approx(sum(right) / 5)


def test_a_refresh_of_copies_asks_once_for_all_of_them(tmp_path: Path) -> None:
    word = "old"
    with scripted(lambda body: says(word)) as server:
        job = JobFolder(tmp_path, server.base_url, more={"expire": "30d", "dedupe": True})
        job.rows([{"id": f"r{n}", "text": f"text {n % 2}"} for n in range(6)])
        assert later(job, 0).returncode == 0
        assert len(server.asked) == 2
        word = "new"
        plan = json.loads(later(job, 40, "plan", "--refresh-expired", "--json").stdout)["plan"]
        assert (plan["expired_again"], plan["to_send"], plan["copies"]) == (2, 2, 4)
        assert later(job, 40).returncode == 0
        assert len(server.asked) == 2
        assert later(job, 40, "run", "--refresh-expired").returncode == 0
        assert len(server.asked) == 4
        assert job.results()["response"].to_list() == ["new"] * 6


def test_a_killed_refresh_of_samples_keeps_the_samples_that_it_has_renewed(tmp_path: Path) -> None:
    with gated(6) as (gate, server):
        job = JobFolder(tmp_path, server.base_url, concurrency=2, more={"expire": "30d", "samples": 3})
        job.number_of_rows(2)
        assert later(job, 0).returncode == 0
        gate.passing = 2  # of the three new samples of the first row
        process = start_later(job, 40, "run", "--refresh-expired")
        wait_until(lambda: gate.waiting == 1, "the third new sample of the first row")
        process.kill()
        ended(process)
        gate.opened.set()
        assert len(server.asked) == 6 + 3
        assert later(job, 40).returncode == 0  # a plain run buys nothing
        assert len(server.asked) == 9
        assert later(job, 41, "run", "--refresh-expired").returncode == 0
        assert len(server.asked) == 9 + 1 + 3
        assert json.loads(later(job, 41, "plan", "--json").stdout)["plan"]["expired"] == 0
