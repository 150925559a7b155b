from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.errors import (
    AnswerUnusable,
    ProviderError,
    RowRejected,
    RunBlocked,
    RunPaused,
    StorageError,
    TransientError,
)
from pipeline.provider.ask import ReplyLost, ask, invalid, unexpected
from pipeline.provider.endpoints.chat import dialogue
from pipeline.provider.wire import another, marked
from pipeline.records import ApiCall, ApiReply, Billed, Exchange, Model, Outcome, Prompt, Row, Send, Status, Usage

KEY = "0123456789abcdef" * 2
ROW = Row(3, "r3", {"text": "hi"})
USAGE = Usage(10, 2, 12)


def reply(json: Any, **more: Any) -> ApiReply:
    return ApiReply(
        **{"status": 200, "headers": {}, "body": b"", "json": json, "usage": USAGE, "latency_s": 0.5, **more}
    )


def said(text: str | None, finish: str = "stop") -> ApiReply:
    return reply({"model": "m-1", "choices": [{"message": {"content": text}, "finish_reason": finish}]}, attempts=2)


class Notes:
    def __init__(self) -> None:
        self.told: list[str] = []

    def sent(self, key: str) -> None:
        self.told.append(f"sent {key[:4]}")

    def seen(self, reply: ApiReply) -> None:
        self.told.append("seen")

    def kept(self, key: str, reply: ApiReply) -> None:
        self.told.append("kept")

    def ended(self, outcome: Outcome) -> None:
        self.told.append(f"ended {outcome.status}")

    def superseded(self, key: str, error: ProviderError) -> None:
        self.told.append(f"superseded {error.kind}")

    @contextlib.contextmanager
    def awaiting(self) -> Iterator[None]:
        self.told.append("(")
        yield
        self.told.append(")")


def answering(end: ApiReply | BaseException) -> Send:
    async def send(call: ApiCall) -> ApiReply:
        assert call.row == KEY
        if isinstance(end, BaseException):
            raise end
        return end

    return send


async def asked(end: ApiReply | BaseException) -> Outcome:
    exchange = dialogue(Model("m", {}))(Prompt([{"role": "user", "content": "hi"}]))
    return await ask(answering(end), ROW, KEY, exchange, next(exchange), witness=Notes())


async def test_a_good_reply_is_an_answer_with_all_that_it_told() -> None:
    outcome = await asked(said("positive"))
    assert (outcome.status, outcome.text, outcome.model) == (Status.OK, "positive", "m-1")
    assert (outcome.usage, outcome.billed, outcome.attempts, outcome.latency_s) == (USAGE, Billed.YES, 2, 0.5)
    assert (outcome.key, outcome.row, outcome.kind) == (KEY, ROW, None)


async def test_a_cut_answer_is_flagged_and_kept() -> None:
    outcome = await asked(said("posi", "length"))
    assert (outcome.status, outcome.text) == (Status.TRUNCATED, "posi")


async def test_a_paid_reply_without_use_keeps_its_tokens_and_its_words() -> None:
    outcome = await asked(said(None))
    assert (outcome.status, outcome.kind, outcome.permanent) == (Status.FAILED, "empty_content", True)
    assert (outcome.billed, outcome.usage, outcome.attempts) == (Billed.YES, USAGE, 2)


async def test_an_unusable_body_is_permanent_because_it_is_paid_for() -> None:
    error = AnswerUnusable("not JSON", kind="not_json", billed=Billed.YES, status=200, usage=USAGE, raw="<html>")
    error.attempts = 3
    outcome = await asked(error)
    assert (outcome.permanent, outcome.raw, outcome.attempts, outcome.http_status) == (True, "<html>", 3, 200)


async def test_a_refused_row_is_permanent_and_a_passing_failure_is_not() -> None:
    refused = await asked(RowRejected("no", kind="content_policy", status=400))
    passing = await asked(TransientError("later", kind="server_error", billed=Billed.MAYBE, status=500))
    assert (refused.permanent, refused.billed) == (True, Billed.NO)
    assert (passing.permanent, passing.billed, passing.kind) == (False, Billed.MAYBE, "server_error")


@pytest.mark.parametrize("reason", [RunBlocked("no key", kind="unauthorized"), RunPaused("stop")])
async def test_what_ends_the_run_leaves_the_row_pending(reason: RunPaused | RunBlocked) -> None:
    with pytest.raises(type(reason)):
        await asked(reason)


async def test_the_exchange_is_closed_whatever_happens() -> None:
    closed = []

    def exchange() -> Exchange:
        try:
            yield ApiCall("POST", "/")
        finally:
            closed.append(True)
        raise AssertionError("not reached")

    for end in (TransientError("x", kind="x"), RunPaused("x")):
        running = exchange()
        with contextlib.suppress(RunPaused):
            await ask(answering(end), ROW, KEY, running, next(running), witness=Notes())
    assert closed == [True, True]


async def test_several_calls_make_one_outcome() -> None:
    def exchange() -> Exchange:
        first = yield ApiCall("POST", "/tasks")
        second = yield ApiCall("GET", f"/tasks/{first.json['id']}")
        raise RowRejected(f"the task ended as {second.json['status']}", kind="task_failed")

    paths = []

    async def send(call: ApiCall) -> ApiReply:
        paths.append(call.path)
        return reply({"id": 7, "status": "failed"})

    running, notes = exchange(), Notes()
    outcome = await ask(send, ROW, KEY, running, next(running), witness=notes)
    assert paths == ["/tasks", "/tasks/7"]
    assert notes.told == ["kept", "ended failed"]
    assert (outcome.kind, outcome.permanent) == ("task_failed", True)
    # A later run goes on from the reply that was kept.
    paths.clear()
    again, notes = exchange(), Notes()
    outcome = await ask(send, ROW, KEY, again, next(again), witness=notes, kept=[reply({"id": 7})])
    assert (paths, notes.told, outcome.kind) == (["/tasks/7"], ["ended failed"], "task_failed")


# -- faults of ours


async def test_a_bug_that_strikes_after_the_reply_does_not_forget_what_was_paid() -> None:
    def exchange() -> Exchange:
        yield ApiCall("POST", "/")
        raise KeyError("a bug")

    running = exchange()
    with pytest.raises(ReplyLost) as caught:
        await ask(answering(said("good")), ROW, KEY, running, next(running), witness=Notes())
    outcome = unexpected(KEY, ROW, caught.value, sent=True)
    assert (outcome.status, outcome.kind, outcome.permanent) == (Status.FAILED, "internal_error", False)
    assert (outcome.billed, outcome.usage, outcome.attempts) == (Billed.YES, USAGE, 2)
    assert "KeyError" in (outcome.error or "")


@pytest.mark.parametrize(("sent", "billed", "attempts"), [(True, Billed.MAYBE, 1), (False, Billed.NO, 0)])
def test_a_bug_costs_what_may_have_gone_out(sent: bool, billed: Billed, attempts: int) -> None:
    outcome = unexpected(KEY, ROW, ZeroDivisionError(), sent=sent)
    assert (outcome.billed, outcome.attempts) == (billed, attempts)


def test_an_invalid_row_costs_nothing() -> None:
    outcome = invalid(KEY, ROW, "column 'text' is null")
    assert (outcome.status, outcome.billed, outcome.attempts) == (Status.INVALID_INPUT, Billed.NO, 0)
    assert (outcome.kind, outcome.error) == ("invalid_input", "column 'text' is null")


# -- what is paid for is written down first


async def test_an_answer_is_written_down_before_anyone_else_hears_of_it() -> None:
    # Limiter, budget and retry took as long as writing it down, and a kill in between lost a paid answer.
    notes = Notes()
    attempt = marked(answering(said("good")), notes, notes.awaiting, never)

    async def settling(call: ApiCall) -> ApiReply:
        came = await attempt(call)
        notes.told.append("settled")
        return came

    exchange = dialogue(Model("m", {}))(Prompt([{"role": "user", "content": "hi"}]))
    outcome = await ask(settling, ROW, KEY, exchange, next(exchange), witness=notes)
    assert notes.told == ["sent 0123", "(", ")", "seen", "ended ok", "settled"]
    assert outcome.text == "good"


async def test_the_attempts_of_a_call_are_known_before_its_retries_have_ended() -> None:
    notes = Notes()
    good = reply({"choices": [{"message": {"content": "good"}, "finish_reason": "stop"}]})
    ends: list[ApiReply | BaseException] = [TransientError("later", kind="overloaded"), good]

    async def send(call: ApiCall) -> ApiReply:
        return await marked(answering(ends.pop(0)), notes, notes.awaiting, never)(call)

    async def again(call: ApiCall) -> ApiReply:
        try:
            return await send(call)
        except TransientError:
            return await send(call)

    exchange = dialogue(Model("m", {}))(Prompt([{"role": "user", "content": "hi"}]))
    outcome = await ask(again, ROW, KEY, exchange, next(exchange), witness=notes)
    assert (outcome.text, outcome.attempts) == ("good", 2)


async def test_a_disk_that_fails_is_told_to_who_asked_and_not_to_the_limiter() -> None:
    class Full(Notes):
        def ended(self, outcome: Outcome) -> None:
            raise StorageError("the disk is full")

    notes = Full()
    attempt = marked(answering(said("good")), notes, notes.awaiting, never)

    async def settling(call: ApiCall) -> ApiReply:
        came = await attempt(call)
        notes.told.append("settled")
        return came

    exchange = dialogue(Model("m", {}))(Prompt([{"role": "user", "content": "hi"}]))
    with pytest.raises(StorageError):
        await ask(settling, ROW, KEY, exchange, next(exchange), witness=notes)
    assert notes.told[-1] == "settled"


# -- the last step before the wire


def never() -> bool:
    return False


async def test_what_goes_out_leaves_its_mark_first() -> None:
    notes = Notes()
    send = marked(answering(said("x")), notes, notes.awaiting, never)
    await send(ApiCall("POST", "/").for_row(KEY))
    assert notes.told == ["sent 0123", "(", ")", "seen"]


async def test_nothing_goes_out_once_the_run_is_stopping() -> None:
    notes = Notes()
    with pytest.raises(RunPaused):
        await marked(answering(said("x")), notes, notes.awaiting, lambda: True)(ApiCall("POST", "/").for_row(KEY))
    assert notes.told == []


@pytest.mark.parametrize(("stopping", "raised"), [(True, pytest.raises(RunPaused)), (False, contextlib.nullcontext())])
def test_a_run_that_is_stopping_waits_for_no_other_attempt(stopping: bool, raised: Any) -> None:
    # After SIGTERM a row that got a 503 sat in its backoff, then at the shut gate, and the run could not end.
    notes = Notes()
    failed = TransientError("later", kind="overloaded")
    stop: Callable[[], bool] = lambda: stopping  # noqa: E731
    with raised:
        another(notes, stop, ApiCall("POST", "/").for_row(KEY), failed)
    assert notes.told == ["superseded overloaded"]
