"""The dialogue of a typed answer on its own: what is asked, what is asked again, and what is not."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from pipeline.answers import AnswerForm, AnswerSpec
from pipeline.errors import RowRejected, SpecError
from pipeline.provider.endpoints import chat
from pipeline.records import ApiCall, ApiReply, Attachment, Completion, Exchange, Model, Prompt, Status, Usage

PROMPT = Prompt([{"role": "user", "content": "Good or bad? fine"}])
WITH_SYSTEM = Prompt([{"role": "system", "content": "You label."}, *PROMPT.messages])
FIELDS = {"label": ["good", "bad"]}
GOOD = '{"label": "good"}'
USAGE = Usage(4, 1, 5)


def form(mode: str = "auto", repair: int = 1, fields: dict[str, Any] | None = None) -> AnswerForm:
    return AnswerForm(AnswerSpec.from_fields(fields or FIELDS), mode=mode, repair=repair, told=lambda text: None)


def opened(asked: AnswerForm, prompt: Prompt = PROMPT) -> tuple[Exchange, ApiCall]:
    exchange = chat.dialogue(Model("m", {"temperature": 0}), asked)(prompt)
    return exchange, next(exchange)


def reply(text: str | None, finish: str = "stop", **message: Any) -> ApiReply:
    body = {"choices": [{"finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}]}
    return ApiReply(200, {}, orjson.dumps(body), body, USAGE, 0.5)


def body_of(call: ApiCall) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(call.body)
    return body


def end(exchange: Exchange, said: ApiReply) -> Completion:
    with pytest.raises(StopIteration) as stop:
        exchange.send(said)
    completion = stop.value.value
    assert isinstance(completion, Completion)
    return completion


def rejected(kind: str = "bad_request") -> RowRejected:
    return RowRejected("response_format is not supported", kind=kind)


# What is asked


def test_a_picture_goes_with_the_question_and_with_its_repair() -> None:
    attached = Attachment("image_url", "image/png", "a.png", None, b"\x89PNG", "5" * 64)
    exchange, first = opened(form(), Prompt(PROMPT.messages, [attached]))
    again = exchange.send(reply("no label"))
    assert isinstance(again, ApiCall)
    for call in (first, again):
        messages = [message for message in body_of(call)["messages"] if message["role"] == "user"]
        assert messages[0]["content"][1]["image_url"]["url"] == "data:image/png;base64,iVBORw=="
        assert all(isinstance(message["content"], str) for message in messages[1:])
        assert (call.attachments, call.attached_bytes) == (1, 8)
    assert first.question == opened(form("text"), Prompt(PROMPT.messages, [attached]))[1].question
    assert b"sha256:5555" in first.question
    assert b"iVBORw" not in first.question
    assert end(exchange, reply(GOOD)).fields == {"label": "good"}


def test_the_question_does_not_depend_on_the_mode_or_the_repairs() -> None:
    questions = {opened(form(mode, repair))[1].question for mode in ("schema", "json", "text") for repair in (0, 3)}
    assert len(questions) == 1


def test_the_question_holds_the_schema_and_changes_with_it() -> None:
    asked = form()
    _, call = opened(asked)
    assert orjson.dumps(asked.schema, option=orjson.OPT_SORT_KEYS) in call.question
    assert call.question != opened(form(fields={"label": ["good", "bad", "mixed"]}))[1].question
    assert call.question != next(chat.dialogue(Model("m", {"temperature": 0}))(PROMPT)).question


def test_each_mode_asks_in_its_own_way() -> None:
    bodies = {mode: body_of(opened(form(mode))[1]) for mode in ("schema", "json", "text")}
    assert bodies["schema"]["response_format"]["type"] == "json_schema"
    assert bodies["schema"]["messages"] == PROMPT.messages
    assert bodies["json"]["response_format"] == {"type": "json_object"}
    assert "response_format" not in bodies["text"]
    for mode in ("json", "text"):
        first, *rest = bodies[mode]["messages"]
        assert first["role"] == "system"
        assert '"enum":["good","bad"]' in first["content"]
        assert rest == PROMPT.messages


def test_the_words_stand_at_the_end_of_a_system_message_that_is_there() -> None:
    messages = body_of(opened(form("text"), WITH_SYSTEM)[1])["messages"]
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[0]["content"].startswith("You label.\n\n")


def test_a_response_format_of_the_users_own_is_refused() -> None:
    with pytest.raises(SpecError, match="response_format"):
        chat.dialogue(Model("m", {"response_format": {"type": "json_object"}}), form())


# What comes of the answer


def test_a_good_answer_ends_the_exchange_with_its_values() -> None:
    exchange, _ = opened(form())
    completion = end(exchange, reply(GOOD))
    assert (completion.status, completion.fields, completion.step) == (Status.OK, {"label": "good"}, "as_is")
    assert completion.text == GOOD


def test_an_invalid_answer_is_sent_back_with_what_is_wrong_with_it() -> None:
    exchange, first = opened(form())
    again = exchange.send(reply('{"label": "splendid"}'))
    *same, last = body_of(again)["messages"]
    assert same == body_of(first)["messages"]
    assert last["role"] == "user"
    assert "splendid" in last["content"]
    assert "label" in last["content"]
    completion = end(exchange, reply(GOOD))
    assert (completion.fields, completion.step) == ({"label": "good"}, "re_asked")


@pytest.mark.parametrize("repair", [0, 1, 3])
def test_an_answer_that_stays_invalid_ends_as_such_after_so_many_questions(repair: int) -> None:
    exchange, _ = opened(form(repair=repair))
    for _ in range(repair):
        exchange.send(reply("no idea"))
    completion = end(exchange, reply('{"label": "splendid"}'))
    assert completion.status is Status.INVALID_ANSWER
    assert completion.fields is None
    assert completion.text == '{"label": "splendid"}'
    assert completion.step == "invalid"
    assert completion.problems is not None
    assert "splendid" in completion.problems


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (reply('{"label": "go', "length"), Status.TRUNCATED),
        (reply(None, "content_filter"), Status.FILTERED),
        (reply(None, refusal="I will not."), Status.REFUSAL),
    ],
)
def test_what_is_no_answer_is_not_asked_for_again(said: ApiReply, status: Status) -> None:
    exchange, _ = opened(form(repair=5))
    completion = end(exchange, said)
    assert completion.status is status
    assert completion.fields is None


def test_a_re_ask_that_is_refused_by_the_model_ends_as_a_refusal() -> None:
    exchange, _ = opened(form(repair=5))
    exchange.send(reply("prose"))
    assert end(exchange, reply(None, refusal="I will not.")).status is Status.REFUSAL


# What comes of a refusal


def test_a_refused_form_is_asked_for_in_a_weaker_mode_under_the_same_question() -> None:
    asked = form()
    exchange, first = opened(asked)
    second = exchange.throw(rejected())
    third = exchange.throw(rejected())
    assert "json_schema" in first.body.decode()
    assert body_of(second)["response_format"] == {"type": "json_object"}
    assert "response_format" not in body_of(third)
    assert first.question == second.question == third.question
    with pytest.raises(RowRejected):
        exchange.throw(rejected())


@pytest.mark.parametrize("mode", ["schema", "json", "text"])
def test_a_mode_that_was_named_is_kept(mode: str) -> None:
    exchange, _ = opened(form(mode))
    with pytest.raises(RowRejected):
        exchange.throw(rejected())


def test_a_refusal_for_another_reason_is_the_rows_own() -> None:
    asked = form()
    exchange, _ = opened(asked)
    with pytest.raises(RowRejected):
        exchange.throw(rejected("content_policy"))
    assert asked.mode == "schema"


def test_a_refusal_after_the_mode_has_worked_is_the_rows_own() -> None:
    asked = form()
    exchange, _ = opened(asked)
    end(exchange, reply(GOOD))
    other, _ = opened(asked)
    with pytest.raises(RowRejected):
        other.throw(rejected())
    assert asked.mode == "schema"
