from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import AnswerUnusable, RowRejected, SpecError
from pipeline.provider.endpoints import chat
from pipeline.provider.endpoints._json import canonical
from pipeline.records import STREAM_CUT, ApiCall, ApiReply, Billed, Completion, Model, Prompt, Status, Terms, Usage

PROMPT = Prompt([{"role": "user", "content": "Hi, ü"}])
USAGE = Usage(4, 1, 5)


def call(prompt: Prompt = PROMPT, **params: Any) -> ApiCall:
    return next(chat.dialogue(Model("m", params))(prompt))


def complete(body: Any, headers: dict[str, str] | None = None) -> Completion:
    exchange = chat.dialogue(Model("m"))(PROMPT)
    next(exchange)
    with pytest.raises(StopIteration) as stop:
        exchange.send(ApiReply(200, headers or {}, orjson.dumps(body), body, USAGE, 0.5, attempts=2))
    completion = stop.value.value
    assert isinstance(completion, Completion)
    return completion


def message(finish: Any = "stop", **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", **fields}}]}


def unusable(body: Any) -> AnswerUnusable:
    with pytest.raises(AnswerUnusable) as caught:
        complete(body)
    return caught.value


# What is asked


def test_the_call_asks_for_no_stream_and_its_question_does_not_mention_it() -> None:
    asked = call(temperature=0.0, max_tokens=5)
    assert (asked.method, asked.path) == ("POST", "/chat/completions")
    assert orjson.loads(asked.body) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi, ü"}],
        "temperature": 0,
        "max_tokens": 5,
        "stream": False,
    }
    assert asked.question == (
        '{"max_tokens":5,"messages":[{"content":"Hi, ü","role":"user"}],"model":"m","temperature":0}'.encode()
    )


def test_stream_in_the_parameters_changes_neither_body_nor_question() -> None:
    assert call(stream=True, stream_options={"include_usage": True}) == call()


def test_a_streamed_call_asks_the_same_question() -> None:
    asked = next(chat.dialogue(Model("m", {"max_tokens": 5}), None, Terms(stream=True))(PROMPT))
    body = orjson.loads(asked.body)
    assert (body.pop("stream"), body.pop("stream_options"), asked.stream) == (True, {"include_usage": True}, True)
    plain = call(max_tokens=5)
    assert asked.question == plain.question
    assert {**body, "stream": False} == orjson.loads(plain.body)


def test_a_stream_that_was_cut_is_a_truncated_answer_that_says_why() -> None:
    cut = complete({**message(None, content="posi"), STREAM_CUT: "it broke off"})
    assert (cut.status, cut.text, cut.finish_reason, cut.problems) == (Status.TRUNCATED, "posi", None, "it broke off")
    refused = complete({**message(None, content=None, refusal="I ca"), STREAM_CUT: "it broke off"})
    assert (refused.status, refused.refusal) == (Status.REFUSAL, "I ca")


def test_a_whole_float_asks_the_same_as_the_integer() -> None:
    assert call(temperature=1.0, top_p=-0.0) == call(temperature=1, top_p=0)
    assert call(temperature=0.7) != call(temperature=0)


def test_a_number_as_key_is_written_as_text() -> None:
    assert orjson.loads(call(logit_bias={50256: -100}).body)["logit_bias"] == {"50256": -100}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    # no surrogates: those are refused
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abz", max_size=3), inner, max_size=3),
    max_leaves=8,
)
PARAMS = st.dictionaries(st.text("amnostzéM_", min_size=1, max_size=9), VALUES, max_size=5)
CONTENTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.lists(
    st.dictionaries(st.sampled_from(["type", "text", "x"]), VALUES, max_size=2), max_size=2
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": CONTENTS}), min_size=1, max_size=3)


@given(PARAMS, MESSAGES)
def test_the_question_is_the_canonical_body_without_its_transport(params: Any, messages: Any) -> None:
    asked = call(Prompt(messages), **params)
    body = orjson.loads(asked.body)
    assert body.pop("stream") is False
    assert asked.question == canonical(body)
    assert asked.question == canonical({"model": "m", "messages": messages, **params})


@given(VALUES)
def test_canonical_json_says_the_same_with_keys_sorted_and_no_blanks(value: Any) -> None:
    written = canonical(value)
    assert canonical(orjson.loads(written)) == written
    assert orjson.loads(written) == value
    if not any(isinstance(part, float) for part in walk(value)):
        assert written == json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def walk(value: Any) -> list[Any]:
    inner = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return [value, *(part for each in inner for part in walk(each))]


@pytest.mark.parametrize("content", ["half a pair \ud800", [{"type": "text", "text": "\udfff"}]])
def test_a_prompt_that_is_not_unicode_is_refused_unsent(content: Any) -> None:
    with pytest.raises(RowRejected) as caught:
        call(Prompt([{"role": "user", "content": content}]))
    assert (caught.value.kind, caught.value.billed) == ("invalid_input", Billed.NO)


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": float("nan")},
        {"stop": ["\ud800"]},
        {"seed": 2**70},
        {"x": {"y": [object()]}},
        {"x": {1: 1, "1": 2}},
        {"x": {None: 1}},
        {"messages": []},
        {"model": "other"},
    ],
)
def test_parameters_that_cannot_be_sent_are_an_error_of_the_spec(params: Any) -> None:
    with pytest.raises(SpecError, match=r"^model"):
        chat.dialogue(Model("m", params))


# What comes back


def test_a_plain_answer() -> None:
    body = {"id": "chatcmpl-1", "model": "m-2025", **message(content="positive")}
    assert complete(body) == Completion("positive", Status.OK, "stop", "m-2025", "chatcmpl-1")


@pytest.mark.fault("B15")
def test_the_model_that_the_reply_names_is_recorded_not_the_one_asked() -> None:
    assert complete({"model": "m@main", **message(content="x")}).model == "m@main"
    assert complete({"model": 5, **message(content="x")}).model is None


def test_the_request_id_of_the_gateway_goes_before_the_one_of_the_body() -> None:
    body = {"id": "body", **message(content="x")}
    assert complete(body, {"x-request-id": "b", "x-oneapi-request-id": "a"}).request_id == "a"
    assert complete(body, {"x-request-id": "b"}).request_id == "b"


@pytest.mark.fault("B11")
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"content": " spaced \n"}, " spaced \n"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]}, "ab"),
        ({"content": ["a", {"type": "output_text", "text": "b"}]}, "ab"),
        ({"content": {"type": "text", "text": "a"}}, "a"),
        ({"content": "beside a tool", "tool_calls": [{}]}, "beside a tool"),
    ],
)
def test_any_form_of_text_is_read(fields: dict[str, Any], text: str) -> None:
    completion = complete(message(**fields))
    assert (completion.text, completion.status) == (text, Status.OK)


@pytest.mark.fault("B08")
def test_a_text_is_kept_to_the_last_byte() -> None:
    text = "\x00\x1b[0m 👩‍👩‍👧 \u202eabc \ufffd" + "x" * 1_000_000
    assert complete(message(content=text)).text == text


def test_the_older_dialect_has_its_text_in_the_choice() -> None:
    assert complete({"choices": [{"text": "old", "finish_reason": None}]}) == Completion("old", Status.OK)


@pytest.mark.fault("B11")
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({}, "empty_choices"),
        ({"choices": None}, "empty_choices"),
        ({"choices": []}, "empty_choices"),
        ({"choices": {}}, "empty_choices"),
        ({"choices": [None]}, "no_message"),
        ({"choices": [{"message": None}]}, "no_message"),
        ({"choices": [{"finish_reason": "stop"}]}, "no_message"),
        (message(content=None), "empty_content"),
        (message(content=""), "empty_content"),
        (message(content=" \n"), "empty_content"),
        (message(), "empty_content"),
        (message(content=[]), "empty_content"),
        (message(content=[{"type": "image_url", "image_url": {}}]), "empty_content"),
        (message(content="<think>hm</think>\n"), "empty_content"),
        (message(content="", reasoning_content="hm"), "empty_content"),
        (message(content=7), "bad_content"),
        (message("tool_calls", content=None, tool_calls=[{"id": "1"}]), "tool_calls"),
        (message("function_call", content=None, function_call={"name": "f"}), "tool_calls"),
        (message("error", content="half an ans"), "finish_error"),
        (message("insufficient_system_resource", content="half"), "finish_error"),
    ],
)
def test_a_reply_in_which_nothing_can_be_an_answer(body: Any, kind: str) -> None:
    error = unusable(body)
    assert (error.kind, error.billed) == (kind, Billed.YES)
    assert (error.usage, error.status, error.latency_s, error.attempts) == (USAGE, 200, 0.5, 2)
    assert error.raw == orjson.dumps(body).decode()


def test_the_excerpt_of_an_unusable_reply_is_capped() -> None:
    raw = unusable({"choices": [], "filler": "ü" * 9_000}).raw
    assert raw is not None
    assert len(raw) == 2_000


@pytest.mark.fault("B12")
@pytest.mark.parametrize("finish", ["length", "LENGTH", "max_tokens", "MAX_TOKENS"])
@pytest.mark.parametrize("content", ["half a sen", "", None])
def test_a_cut_answer_is_kept_and_flagged_even_when_empty(finish: str, content: str | None) -> None:
    completion = complete(message(finish, content=content))
    assert (completion.text, completion.status, completion.finish_reason) == (content, Status.TRUNCATED, finish)


@pytest.mark.fault("B13")
@pytest.mark.parametrize("finish", ["content_filter", "SAFETY", "RECITATION", "Content_Filter", "PROHIBITED_CONTENT"])
@pytest.mark.parametrize("content", ["half", "", None])
def test_a_filtered_answer_is_kept_and_flagged(finish: str, content: str | None) -> None:
    completion = complete(message(finish, content=content))
    assert (completion.text, completion.status, completion.finish_reason) == (content, Status.FILTERED, finish)


@pytest.mark.parametrize("finish", [None, "stop", "STOP", "end_turn", "tool_calls", "never heard of", "", 7, []])
def test_any_other_finish_with_a_text_is_an_answer(finish: Any) -> None:
    completion = complete(message(finish, content="x"))
    assert completion.status is Status.OK
    assert completion.finish_reason == (finish if isinstance(finish, str) else None)


@pytest.mark.fault("B11")
def test_a_refusal_is_a_refusal_with_its_words() -> None:
    assert complete(message(content=None, refusal="No.")) == Completion(None, Status.REFUSAL, "stop", refusal="No.")
    parts = [{"type": "refusal", "refusal": "No."}]
    assert complete(message(content=parts)) == Completion(None, Status.REFUSAL, "stop", refusal="No.")
    assert complete(message("refusal", content="I will not.")).status is Status.REFUSAL


@pytest.mark.parametrize(
    ("fields", "text", "reasoning"),
    [
        ({"content": "4", "reasoning_content": "2+2"}, "4", "2+2"),
        ({"content": "4", "reasoning": "2+2"}, "4", "2+2"),
        ({"content": "<think>\n2+2\n</think>\n\n4"}, "4", "2+2"),
        ({"content": "\n<think></think>4"}, "4", None),
        ({"content": "say <think>x</think>"}, "say <think>x</think>", None),
        ({"content": "<think>a</think>\n<think>b</think> 4"}, "4", "a\n\nb"),
        ({"content": "2+2, so\n</think>\n4"}, "4", "2+2, so"),  # an endpoint that swallows the tag that opens it
        ({"content": '{"html": "</think>"}'}, '{"html": "</think>"}', None),
        ({"content": "<think>again</think>4", "reasoning": "r"}, "4", "r"),
        ({"content": [{"type": "thinking", "thinking": "2+2"}, {"type": "text", "text": "4"}]}, "4", "2+2"),
        ({"content": "4", "reasoning": {"not": "text"}}, "4", None),
    ],
)
def test_reasoning_is_kept_apart_from_the_text(fields: dict[str, Any], text: str, reasoning: str | None) -> None:
    completion = complete(message(**fields))
    assert (completion.text, completion.reasoning) == (text, reasoning)


NAMES = st.sampled_from(
    ["choices", "message", "content", "text", "type", "finish_reason", "refusal", "reasoning", "model", "id"]
)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
)


@given(st.dictionaries(NAMES, ANY, max_size=5) | ANY.map(lambda v: {"choices": [{"message": v}]}))
def test_any_object_is_a_completion_or_an_unusable_answer(body: dict[str, Any]) -> None:
    exchange = chat.dialogue(Model("m"))(PROMPT)
    next(exchange)
    with pytest.raises((StopIteration, AnswerUnusable)):
        exchange.send(ApiReply(200, {}, b"{}", body, USAGE, 0.5))


def test_an_answer_that_breaks_off_in_its_thoughts_is_no_answer() -> None:
    cut = complete(message("length", content="<think>2+2 is"))
    assert (cut.status, cut.text, cut.reasoning) == (Status.TRUNCATED, "", "2+2 is")
    assert unusable(message("stop", content="<think>2+2 is")).kind == "empty_content"
