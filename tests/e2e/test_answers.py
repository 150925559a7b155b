"""Typed answers, as a user gets them: columns, what an invalid answer costs, and what a change of the block buys."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from tests.e2e.rig import Endpoint, JobFolder, ended, wait_until
from tests.e2e.scripted import COMPLETION_TOKENS, PROMPT_TOKENS, Said, refuses, says, scripted

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]

FIELDS = {
    "sentiment": ["positive", "negative", "neutral"],
    "confidence": "number",
    "stars": "integer",
    "recommend": "boolean",
    "reasons": {"list": "string"},
}
TYPES = {
    "sentiment": pl.String(),
    "confidence": pl.Float64(),
    "stars": pl.Int64(),
    "recommend": pl.Boolean(),
    "reasons": pl.List(pl.String()),
    "answer_step": pl.String(),
}
LABEL = {"fields": {"sentiment": FIELDS["sentiment"]}}
GOOD = '{"sentiment": "negative"}'
RE_ASKED = "Your answer cannot be used"


def typed(job: JobFolder, **answer: Any) -> JobFolder:
    job.more = {**job.more, "answer": answer or {"fields": FIELDS}}
    return job


def is_re_ask(body: dict[str, Any]) -> bool:
    return RE_ASKED in body["messages"][-1]["content"]


def text_of(body: dict[str, Any]) -> str:
    """The row that a request is about: the last word of its prompt."""
    asked: str = next(message["content"] for message in body["messages"] if message["role"] == "user")
    return asked.split()[-1]


def test_each_field_has_a_column_of_its_type(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = typed(new_job(endpoint))
    job.number_of_rows(30)
    done = job.run()
    assert done.returncode == 0, done.stderr
    results = job.results()
    assert {name: results.schema[name] for name in TYPES} == TYPES
    assert results.columns[2 : 3 + len(TYPES)] == ["response", *TYPES]
    for row in results.iter_rows(named=True):
        said = json.loads(row["response"])
        assert {name: row[name] for name in FIELDS} == said
        assert row["answer_step"] == "as_is"
    assert endpoint.stats()["requests"] == 30


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        (1, {}),
        (6, {"canned": True}),
        (6, {"faults": {"bad_request": 1.0}}),
        (6, {"faults": {"length": 1.0}}),
    ],
    ids=["one row", "all invalid", "all refused", "all cut off"],
)
def test_the_types_do_not_depend_on_the_answers(
    simulate: Simulate, new_job: NewJob, rows: int, settings: dict[str, Any]
) -> None:
    job = typed(new_job(simulate(**settings)))
    job.number_of_rows(rows)
    done = job.run()
    assert done.returncode in (0, 3), done.stderr
    results = job.results()
    assert {name: results.schema[name] for name in TYPES} == TYPES
    if settings:
        assert all(results[name].null_count() == rows for name in FIELDS)


def test_an_invalid_answer_is_a_failed_row_with_its_text(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(canned=True)
    job = typed(new_job(endpoint), **LABEL, repair=2)
    job.number_of_rows(6)
    done = job.run()
    assert done.returncode == 3, done.stderr
    results = job.results()
    assert set(results["status"]) == {"invalid_answer"}
    assert set(results["response"]) == {"ok"}
    assert set(results["answer_step"]) == {"invalid"}
    assert results["sentiment"].null_count() == 6
    failed = pl.read_parquet(job.out / "failed.parquet")
    assert failed.height == 6
    assert set(failed["kind"]) == {"invalid_answer"}
    assert all(failed["error"])
    stats, summary = endpoint.stats(), job.summary()
    assert summary["requests"] == stats["requests"] == 18
    assert summary["tokens"]["prompt"] == stats["prompt_tokens"] == results["prompt_tokens"].sum()
    assert summary["tokens"]["completion"] == stats["completion_tokens"] == results["completion_tokens"].sum()
    assert job.run().returncode == 3
    assert endpoint.stats()["requests"] == 18  # a rerun does not buy what is for good


def test_mode_and_repair_buy_nothing_and_a_field_must_be_accepted(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = typed(new_job(endpoint), **LABEL)
    job.number_of_rows(10)
    assert job.run().returncode == 0
    for change in ({"mode": "json"}, {"mode": "text"}, {"repair": 3}):
        typed(job, **LABEL, **change)
        done = job.run()
        assert done.returncode == 0, done.stderr
        assert endpoint.stats()["requests"] == 10
    typed(job, fields={**LABEL["fields"], "stars": "integer"})
    refused = job.run()
    assert refused.returncode == 2
    assert "--accept-changes" in refused.stderr
    assert endpoint.stats()["requests"] == 10
    assert job.run("run", "--accept-changes").returncode == 0
    assert endpoint.stats()["requests"] == 20
    assert job.results()["stars"].null_count() == 0


@pytest.mark.parametrize(
    ("answer", "cure"),
    [
        ({"fields": {"text": "string"}}, "text"),
        ({"fields": {"status": ["a", "b"]}}, "status"),
        ({"fields": {"answer_step": "string"}}, "answer_step"),
        ({"fields": {"stars": {"type": "intger"}}}, "answer.fields.stars"),
        ({"fields": {}}, "answer.fields"),
        ({"schema": {"type": "object", "properties": {"a": {"enum": 7}}}}, "answer.schema.properties.a"),
        ({"schema": {"type": "array"}}, "answer.schema"),
        ({"fields": {"a": "string"}, "schema": {}}, "either fields or schema"),
        ({"fields": {"a": "string"}, "mode": "strict"}, "answer.mode"),
    ],
)
def test_a_block_that_cannot_work_is_refused_unsent(
    simulate: Simulate, new_job: NewJob, answer: dict[str, Any], cure: str
) -> None:
    endpoint = simulate()
    job = typed(new_job(endpoint), **answer)
    job.number_of_rows(3)
    for verb in ("check", "run"):
        done = job.run(verb)
        assert done.returncode == 2, done.stderr
        assert cure in done.stderr
        assert "Traceback" not in done.stderr
    assert endpoint.stats()["requests"] == 0


@pytest.mark.parametrize(("refused", "extra"), [(("json_schema",), 1), (("json_schema", "json_object"), 2)])
def test_a_refused_form_costs_one_request_a_run_for_each_step_down(
    new_job: NewJob, refused: tuple[str, ...], extra: int
) -> None:
    def script(body: dict[str, Any]) -> Said:
        kind = body.get("response_format", {}).get("type")
        return refuses(f"response_format {kind} is not supported") if kind in refused else says(GOOD)

    with scripted(script) as told:
        job = typed(new_job(told.endpoint), **LABEL)
        job.number_of_rows(40)
        done = job.run()
        assert done.returncode == 0, done.stderr
        assert len(told.asked) == job.summary()["requests"] == 40 + extra
    assert "answer.mode" in done.stderr
    results = job.results()
    assert set(results["answer_step"]) == {"as_is"}
    assert set(results["sentiment"]) == {"negative"}
    assert job.summary()["requests_billed"] == 40


def test_a_mode_that_was_named_does_not_step_down(new_job: NewJob) -> None:
    with scripted(lambda body: refuses("no response_format here") if "response_format" in body else says(GOOD)) as told:
        job = typed(new_job(told.endpoint), **LABEL, mode="schema")
        job.number_of_rows(3)
        assert job.run().returncode == 3
        assert len(told.asked) == 3


def test_an_answer_that_was_sent_back_is_paid_twice_and_says_so(new_job: NewJob) -> None:
    with scripted(lambda body: says(GOOD) if is_re_ask(body) else says("I would call it rather bad.")) as told:
        job = typed(new_job(told.endpoint), **LABEL)
        job.more["prices"] = {"input": 1.0, "output": 2.0}
        job.number_of_rows(25)
        done = job.run()
        assert done.returncode == 0, done.stderr
        assert len(told.asked) == 50
    results, summary = job.results(), job.summary()
    assert set(results["answer_step"]) == {"re_asked"}
    assert set(results["prompt_tokens"]) == {2 * PROMPT_TOKENS}
    assert set(results["completion_tokens"]) == {2 * COMPLETION_TOKENS}
    assert summary["requests"] == summary["requests_billed"] == 50
    assert summary["tokens"]["prompt"] == 50 * PROMPT_TOKENS
    assert results["cost_usd"].sum() == pytest.approx(summary["cost_usd"])


def test_a_run_killed_before_the_re_ask_was_answered_does_not_pay_the_first_answer_again(new_job: NewJob) -> None:
    gone = threading.Event()

    def script(body: dict[str, Any]) -> Said:
        if text_of(body) == "0":
            return says(GOOD)  # the canary
        if not is_re_ask(body):
            return says("prose")
        gone.wait(60)
        return says(GOOD)

    def re_asks() -> int:
        return sum(map(is_re_ask, told.asked))

    with scripted(script) as told:
        job = typed(new_job(told.endpoint, concurrency=4), **LABEL, mode="schema")
        job.number_of_rows(12)
        process = job.start()
        wait_until(lambda: re_asks() == 4, "four answers to be sent back")
        process.kill()
        ended(process)
        before = len(told.asked)
        assert before == 1 + 4 + 4
        gone.set()
        done = job.run()
        assert done.returncode == 0, done.stderr
        first = [text_of(body) for body in told.asked if not is_re_ask(body)]
        assert sorted(first) == sorted(set(first))
        assert len(first) == 12
        assert re_asks() == 4 + 11
    results, summary = job.results(), job.summary()
    assert results["answer_step"].to_list() == ["as_is"] + ["re_asked"] * 11
    assert results["prompt_tokens"].to_list() == [PROMPT_TOKENS] + [2 * PROMPT_TOKENS] * 11
    assert (summary["requests_billed"], summary["requests_maybe_billed"]) == (12 + 11, 4)


def test_a_re_ask_that_fails_is_paid_once_and_goes_on_from_there(new_job: NewJob) -> None:
    broken = threading.Event()

    def script(body: dict[str, Any]) -> Said:
        if not is_re_ask(body):
            return says("prose")
        return says(GOOD) if broken.is_set() else (500, {"error": {"message": "upstream", "type": "server_error"}})

    with scripted(script) as told:
        job = typed(new_job(told.endpoint), **LABEL)
        job.more["retry"] = {"max_attempts": 1}
        job.number_of_rows(3)
        job.run()
        broken.set()
        done = job.run()
        assert done.returncode == 0, done.stderr
        assert sum(not is_re_ask(body) for body in told.asked) == 3
    assert set(job.results()["answer_step"]) == {"re_asked"}
    assert set(job.results()["prompt_tokens"]) == {2 * PROMPT_TOKENS}


# Gold labels


def golden(job: JobFolder, count: int) -> list[dict[str, str]]:
    rows = [
        {"id": f"r{n}", "text": f"text {n}", "gold": ("positive", "negative", "neutral")[n % 3]} for n in range(count)
    ]
    job.rows(rows)
    return rows


@pytest.mark.parametrize("field", ["sentiment", None])
def test_the_summary_holds_the_labels_against_gold(simulate: Simulate, new_job: NewJob, field: str | None) -> None:
    endpoint = simulate(seed=4)
    job = new_job(endpoint)
    rows = golden(job, 60)
    rows[0]["gold"] = ""
    rows[1]["text"] = ""  # cannot be sent
    job.rows(rows)
    if field is not None:
        typed(job, **LABEL)
    job.more["evaluate"] = {"gold": "gold", **({"field": field} if field else {})}
    done = job.run("run", "--max-failed", "1")
    assert done.returncode == 0, done.stderr
    told = job.summary()["evaluation"]
    pairs = list(job.results().select("gold", field or "response")[2:].iter_rows())
    right = sum(gold == said for gold, said in pairs)
    by_chance = sum(a == b for a, _ in pairs for _, b in pairs) / len(pairs) ** 2
    assert (told["compared"], told["without_answer"], told["without_gold"]) == (58, 1, 1)
    assert told["accuracy"] == pytest.approx(right / 58)
    assert told["cohens_kappa"] == pytest.approx((right / 58 - by_chance) / (1 - by_chance))
    assert f"accuracy {right / 58:.3f}" in done.stderr
    assert "kappa" in done.stderr
    shown = job.run("evaluate", "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout) == told
    assert "confusion" not in job.run("evaluate").stdout
    assert endpoint.stats()["requests"] == 59


def test_a_number_is_held_against_gold_as_a_number(new_job: NewJob) -> None:
    with scripted(lambda body: says('{"score": 4}')) as told:
        job = typed(new_job(told.endpoint), fields={"score": "number"})
        job.more["evaluate"] = {"gold": "gold", "field": "score"}
        job.rows([{"id": str(n), "text": f"text {n}", "gold": gold} for n, gold in enumerate(["4", "4.0", "5", "x"])])
        done = job.run()
    assert done.returncode == 0, done.stderr
    assert job.summary()["evaluation"]["confusion"] == {"4.0": {"4.0": 2}, "5.0": {"4.0": 1}, "x": {"4.0": 1}}


def test_evaluate_may_be_added_to_a_finished_job_for_free(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = typed(new_job(endpoint), **LABEL)
    golden(job, 9)
    job.run()
    refused = job.run("evaluate")
    assert refused.returncode == 2
    assert "evaluate block" in refused.stderr
    job.more["evaluate"] = {"gold": "gold", "field": "sentiment"}
    assert job.run().returncode == 0
    assert job.summary()["evaluation"]["compared"] == 9
    assert endpoint.stats()["requests"] == 9


@pytest.mark.parametrize(
    ("evaluate", "cure"),
    [
        ({"gold": "golt"}, "'golt'"),
        ({"gold": "gold", "field": "sentimnt"}, "'sentimnt'"),
        ({"gold": "gold", "field": "reasons"}, "list"),
        ({"field": "sentiment"}, "gold"),
    ],
)
def test_gold_that_cannot_be_compared_is_refused(
    simulate: Simulate, new_job: NewJob, evaluate: dict[str, str], cure: str
) -> None:
    job = typed(new_job(simulate()))
    job.more["evaluate"] = evaluate
    golden(job, 3)
    done = job.run("check")
    assert done.returncode == 2, done.stderr
    assert cure in done.stderr
