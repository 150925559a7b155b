"""What becomes of an answer that is not plainly ok, and of several answers to one prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.answers import AnswerForm, AnswerSpec
from pipeline.errors import AnswerUnusable, RowRejected, SpecError
from pipeline.provider.endpoints import chat
from pipeline.records import ApiCall, ApiReply, Billed, Completion, Form, Model, Prompt, Status, Terms, Usage

PROMPT = Prompt([{"role": "user", "content": "positive or negative?"}])
LABELS = ["positive", "negative"]
MORE = "retry_with_more_tokens"


def said(text: str | None, finish: str = "stop", **more: Any) -> ApiReply:
    body = {"choices": [{"message": {"content": text, **more}, "finish_reason": finish}]}
    return ApiReply(200, {}, orjson.dumps(body), body, Usage(10, 2, 12), 0.1)


def form(repair: int = 0) -> Form:
    spec = AnswerSpec.from_fields({"label": LABELS, "sure": "boolean"})
    return AnswerForm(spec, mode="text", repair=repair, told=lambda text: None)


def talk(
    replies: Sequence[ApiReply | Exception], terms: Terms, asked: Form | None = None, **params: int
) -> tuple[Completion, list[dict[str, Any]]]:
    """Carry an exchange through; gives its end, and the bodies that were sent."""
    exchange = chat.dialogue(Model("m", params), asked, terms)(PROMPT)
    bodies: list[dict[str, Any]] = []
    call: ApiCall = next(exchange)
    try:
        for reply in replies:
            bodies.append(json.loads(call.body))
            call = exchange.throw(reply) if isinstance(reply, Exception) else exchange.send(reply)
    except StopIteration as end:
        completion: Completion = end.value
        assert len(bodies) == len(replies), "a reply was left over"
        return completion, bodies
    raise AssertionError("the exchange asks on")


# Verdicts


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (said("posi", "length"), Status.TRUNCATED),
        (said("posi", "content_filter"), Status.FILTERED),
        (said(None, refusal="I cannot"), Status.REFUSAL),
    ],
)
def test_a_flagged_answer_is_kept_or_fails_as_the_job_says(reply: ApiReply, verdict: Status) -> None:
    kept, _ = talk([reply], Terms())
    assert (kept.status, kept.kind) == (verdict, None)
    failed, _ = talk([reply], Terms(truncated="fail", filtered="fail", refusal="fail"))
    assert (failed.status, failed.kind, failed.text) == (Status.FAILED, verdict, kept.text)
    assert f"on.{verdict}: fail" in (failed.problems or "")


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_an_empty_answer_fails_is_kept_as_it_is_or_asked_for_once_more(text: str | None) -> None:
    with pytest.raises(AnswerUnusable) as caught:
        talk([said(text)], Terms())
    assert (caught.value.kind, caught.value.billed) == ("empty_content", Billed.YES)
    kept, _ = talk([said(text)], Terms(empty="keep"))
    assert (kept.status, kept.kind, kept.text) == (Status.EMPTY, None, text)
    again, bodies = talk([said(text), said("positive")], Terms(empty="retry"))
    assert (again.text, len(bodies)) == ("positive", 2)
    with pytest.raises(AnswerUnusable):
        talk([said(text), said(text)], Terms(empty="retry"))


def test_an_invalid_answer_that_is_kept_has_no_values_and_is_no_failure() -> None:
    for policy, kind in (("fail", Status.INVALID_ANSWER), ("keep", None)):
        completion, _ = talk([said("perhaps")], Terms(invalid_answer=policy), form())
        assert (completion.status, completion.kind) == (Status.INVALID_ANSWER, kind)
        assert (completion.fields, completion.text) == (None, "perhaps")


@pytest.mark.parametrize("cap", ["max_tokens", "max_completion_tokens"])
def test_a_cut_answer_is_asked_for_with_twice_and_four_times_the_room(cap: str) -> None:
    cut = said("posi", "length")
    completion, bodies = talk([cut, cut, said("positive")], Terms(truncated=MORE), None, **{cap: 10})
    assert completion.text == "positive"
    assert [body[cap] for body in bodies] == [10, 20, 40]
    kept, bodies = talk([cut, cut, cut], Terms(truncated=MORE), None, **{cap: 10})
    assert (kept.status, kept.kind, len(bodies)) == (Status.TRUNCATED, None, 3)


def test_more_room_does_not_mend_a_stream_that_broke_off() -> None:
    body = {"choices": [{"message": {"content": "posi"}, "finish_reason": None}], "stream_cut": "it stalled"}
    broken = ApiReply(200, {}, orjson.dumps(body), body, Usage(), 0.1)
    completion, bodies = talk([broken], Terms(truncated=MORE, stream=True), max_tokens=10)
    assert (completion.status, len(bodies)) == (Status.TRUNCATED, 1)


def test_a_cut_answer_that_got_its_room_is_then_read_in_its_form() -> None:
    good = said('{"label": "positive", "sure": true}')
    completion, bodies = talk([said('{"label"', "length"), good], Terms(truncated=MORE), form(), max_tokens=10)
    assert completion.fields == {"label": "positive", "sure": True}
    assert [body["max_tokens"] for body in bodies] == [10, 20]


@pytest.mark.parametrize("terms", [Terms(truncated=MORE), Terms(empty="retry", filtered="fail")])
def test_a_verdict_is_no_part_of_the_question(terms: Terms) -> None:
    plain = next(chat.dialogue(Model("m", {"max_tokens": 5}))(PROMPT))
    asked = next(chat.dialogue(Model("m", {"max_tokens": 5}), None, terms)(PROMPT))
    assert (asked.body, asked.question) == (plain.body, plain.question)


# Samples


def test_most_samples_decide_whatever_their_case() -> None:
    three = [said("positive"), said("Negative "), said("negative")]
    completion, bodies = talk(three, Terms(samples=3))
    assert completion.text == "Negative "
    assert completion.votes is not None
    assert completion.votes.samples == ("positive", "Negative ", "negative")
    assert completion.votes.agreement == {"": pytest.approx(2 / 3)}
    assert bodies[0] == bodies[1] == bodies[2]


def test_among_equals_the_first_wins() -> None:
    completion, _ = talk([said("negative"), said("positive")], Terms(samples=2))
    assert completion.text == "negative"


def test_each_field_has_a_majority_of_its_own() -> None:
    answers = [("positive", True), ("negative", True), ("positive", False)]
    replies = [said(json.dumps({"label": label, "sure": sure})) for label, sure in answers]
    completion, _ = talk(replies, Terms(samples=3), form())
    assert completion.fields == {"label": "positive", "sure": True}
    assert completion.text == replies[0].json["choices"][0]["message"]["content"]  # the sample that says it all
    assert completion.votes is not None
    assert completion.votes.agreement == {"label": pytest.approx(2 / 3), "sure": pytest.approx(2 / 3)}


def test_a_sample_without_a_valid_answer_is_no_vote_and_counts_all_the_same() -> None:
    good = said('{"label": "positive", "sure": true}')
    lost = AnswerUnusable("broken", kind="bad_json", billed=Billed.YES)
    refused = RowRejected("no", kind="content_policy")
    completion, _ = talk([said("perhaps"), good, lost, refused], Terms(samples=4), form())
    assert completion.fields == {"label": "positive", "sure": True}
    assert completion.votes is not None
    assert completion.votes.agreement == {"label": 0.25, "sure": 0.25}
    assert completion.votes.samples == ("perhaps", good.json["choices"][0]["message"]["content"], None, None)


def test_without_one_valid_sample_the_commonest_verdict_is_the_rows() -> None:
    replies = [said("perhaps"), said("x", "content_filter"), said("maybe")]
    completion, _ = talk(replies, Terms(samples=3), form())
    assert (completion.status, completion.kind, completion.text) == (
        Status.INVALID_ANSWER,
        Status.INVALID_ANSWER,
        "perhaps",
    )
    lost = AnswerUnusable("broken", kind="bad_json", billed=Billed.YES)
    with pytest.raises(AnswerUnusable, match="broken"):
        talk([lost, AnswerUnusable("again", kind="bad_json", billed=Billed.YES)], Terms(samples=2))


def test_a_row_that_is_refused_at_once_is_not_asked_again() -> None:
    with pytest.raises(RowRejected):
        talk([RowRejected("no", kind="content_policy")], Terms(samples=3))


def test_a_repair_belongs_to_its_sample() -> None:
    good = said('{"label": "negative", "sure": false}')
    completion, bodies = talk([said("perhaps"), good, good], Terms(samples=2), form(repair=1))
    assert completion.votes is not None
    assert completion.votes.agreement == {"label": 1.0, "sure": 1.0}
    assert [len(body["messages"]) for body in bodies] == [2, 3, 2]


def test_a_seed_moves_on_with_each_sample_or_they_would_all_be_one() -> None:
    _, bodies = talk([said("a"), said("b"), said("c")], Terms(samples=3), seed=7)
    assert [body["seed"] for body in bodies] == [7, 8, 9]


def test_the_number_of_samples_is_part_of_the_question() -> None:
    questions = {
        next(chat.dialogue(Model("m"), None, Terms(samples=samples))(PROMPT)).question for samples in (1, 2, 3)
    }
    assert len(questions) == 3


@given(texts=st.lists(st.text() | st.sampled_from(['{"label": "positive", "sure": true}', "NEGATIVE"]), min_size=2))
def test_no_samples_whatever_give_a_label_outside_the_set(texts: list[str]) -> None:
    texts = texts[:5]
    try:
        completion, _ = talk([said(text) for text in texts], Terms(samples=len(texts)), form())
    except AnswerUnusable as error:
        assert error.kind == "empty_content"
    else:
        assert completion.fields is None or completion.fields["label"] in LABELS


def test_a_response_format_beside_an_answer_block_is_refused() -> None:
    with pytest.raises(SpecError, match="response_format"):
        chat.dialogue(Model("m", {"response_format": {"type": "text"}}), form(), Terms(samples=2))
