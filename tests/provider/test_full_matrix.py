"""The failure catalogue through the whole wire: how many requests a row may cost, by what each of them may have cost.

Not billed: again, up to ``max_attempts``. In doubt: once more. Paid or refused for the row's own sake: never again.
What blocks the run: never again, and the row stays pending. A refusal (429) fails no row, however long it lasts.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.errors import AnswerUnusable, EndpointDown, RateLimited, RowRejected, RunBlocked, TransientError
from pipeline.records import Billed, Outcome, Status
from tests.provider.fault_server import OK_BODY, Wire, fin, http, raw, reply, serving, then_hang
from tests.provider.senders import client
from tests.provider.test_fault_matrix import (
    CASES,
    DONE,
    WORDS,
    Case,
    closed_port,
    foreign_tls,
    resolving,
    streams,
)
from tests.provider.wiring import MAX_ATTEMPTS, Books, asked, wired

__all__ = ["foreign_tls"]


async def through(
    server_url: str,
    books: Books,
    *,
    rows: int = 1,
    over: dict[str, Any] | None = None,
    stream: bool = False,
    **wire: Any,
) -> list[Outcome | BaseException]:
    async with client(server_url, **(over or {})) as sender:
        send = wired(sender, books, **wire)
        return await asyncio.gather(
            *(asked(send, number, stream=stream) for number in range(rows)), return_exceptions=True
        )


def most_requests(case: Case) -> int:
    """What a fault that never goes away may cost one row."""
    assert case.route is not None
    if not issubclass(case.route, TransientError):
        return 1
    return MAX_ATTEMPTS if case.billed is Billed.NO else 2


def transient(case: Case) -> bool:
    return case.route is not None and issubclass(case.route, TransientError)


def matrix(wanted: Callable[[Case], bool]) -> list[Any]:
    return [pytest.param(case, marks=pytest.mark.fault(*case.ids.split())) for case in CASES if wanted(case)]


HARMLESS = matrix(lambda case: case.route is None)
LASTING = matrix(lambda case: case.route not in (None, RateLimited))
PASSING = matrix(transient)
REFUSED = matrix(lambda case: case.route is RateLimited)


@pytest.mark.parametrize("case", LASTING, ids=str)
async def test_a_fault_that_lasts_costs_a_row_what_its_class_allows_and_no_more(case: Case) -> None:
    books = Books()
    async with serving(case.script) as server:
        (got,) = await through(server.base_url, books, over=case.over, stream=case.call.stream)
        posts = server.posts
    assert posts == len(books.sent_for) == most_requests(case)
    if case.route is RunBlocked:
        assert isinstance(got, RunBlocked)
        return
    assert isinstance(got, Outcome), got
    assert (got.status, got.kind, got.billed) == (Status.FAILED, case.kind, case.billed)
    assert got.attempts == posts == len(books.errors) + 1
    assert got.permanent is (case.route in (RowRejected, AnswerUnusable))


@pytest.mark.parametrize("case", PASSING, ids=str)
async def test_a_fault_that_passes_is_survived(case: Case) -> None:
    books = Books()
    async with serving(case.script, reply()) as server:
        (got,) = await through(server.base_url, books, over=case.over, stream=case.call.stream)
        assert server.posts == 2
    assert isinstance(got, Outcome), got
    assert (got.status, got.text, got.attempts) == (Status.OK, "positive", 2)
    assert [error.billed for error in books.errors] == [case.billed]


@pytest.mark.parametrize("case", REFUSED, ids=str)
async def test_a_refusal_fails_no_row_and_each_costs_one_request(case: Case) -> None:
    """How it ends when refusals last for good is shown on a held clock, in test_limiter."""
    books = Books()
    async with serving(*[case.script] * (MAX_ATTEMPTS - 1), reply()) as server:
        (got,) = await through(server.base_url, books, over=case.over, stream=case.call.stream)
        assert server.posts == MAX_ATTEMPTS
    assert isinstance(got, Outcome), got
    assert (got.status, got.attempts) == (Status.OK, MAX_ATTEMPTS)
    assert {error.billed for error in books.errors} == {Billed.NO}


@pytest.mark.parametrize("case", HARMLESS, ids=str)
async def test_an_odd_reply_that_can_be_read_costs_one_request(case: Case) -> None:
    books = Books()
    async with serving(case.script) as server:
        await through(server.base_url, books, over=case.over, stream=case.call.stream)
        assert server.posts == len(books.sent_for) == 1


@pytest.mark.parametrize("case", matrix(lambda case: case.cut is not None), ids=str)
async def test_words_of_a_stream_that_was_cut_are_kept_as_a_truncated_answer_that_is_paid(case: Case) -> None:
    books = Books()
    async with serving(case.script) as server:
        (got,) = await through(server.base_url, books, over=case.over, stream=True)
        assert server.posts == 1
    assert isinstance(got, Outcome), got
    assert (got.status, got.text, got.finish_reason) == (Status.TRUNCATED, "positive", None)
    assert (got.billed, got.attempts, got.kind) == (Billed.YES, 1, None)
    assert (case.cut or "") in (got.error or "")


@pytest.mark.parametrize("case", matrix(lambda case: case.ids == "S01"), ids=str)
async def test_a_stream_that_is_whole_is_an_answer_like_any_other(case: Case) -> None:
    async with serving(case.script) as server:
        (got,) = await through(server.base_url, Books(), over=case.over, stream=True)
    assert isinstance(got, Outcome), got
    assert (got.status, got.text, got.error) == (Status.OK, "positive", None)


@pytest.mark.fault("N01")
async def test_a_name_that_cannot_be_resolved_is_tried_again_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, error=socket.EAI_AGAIN)
    books = Books()
    (got,) = await through("http://gateway.invalid/v1", books)
    assert isinstance(got, Outcome)
    assert (got.kind, got.billed, len(books.sent_for)) == ("dns", Billed.NO, MAX_ATTEMPTS)


@pytest.mark.fault("N02")
async def test_a_refused_connection_is_tried_again_by_time() -> None:
    books = Books()
    (got,) = await through(f"http://127.0.0.1:{closed_port()}/v1", books)
    assert isinstance(got, Outcome)
    assert (got.kind, got.billed, len(books.sent_for)) == ("connect", Billed.NO, MAX_ATTEMPTS)


@pytest.mark.fault("N02", "N03")
async def test_many_rows_before_a_closed_port_fail_none_and_the_run_pauses() -> None:
    books = Books()
    got = await through(f"http://127.0.0.1:{closed_port()}/v1", books, rows=100, over={"concurrency": 64})
    assert {type(each) for each in got} == {EndpointDown}
    assert len(books.sent_for) <= 2 * 64 + 10


@pytest.mark.fault("N04")
async def test_a_certificate_that_does_not_verify_is_tried_once(foreign_tls: Any) -> None:
    books = Books()
    async with serving(reply(), tls=foreign_tls) as server:
        (got,) = await through(server.base_url, books)
        assert server.posts == 0
    assert isinstance(got, RunBlocked)
    assert len(books.sent_for) == 1


@pytest.mark.fault("H13")
async def test_a_redirect_is_tried_once() -> None:
    books = Books()
    async with serving(reply(307, b"", {"Location": "/elsewhere"})) as server:
        (got,) = await through(server.base_url, books)
        assert server.posts == 1
    assert isinstance(got, RunBlocked)


@pytest.mark.fault("N06")
async def test_a_reused_connection_that_hangs_up_costs_one_more_request() -> None:
    books = Books()
    async with serving(reply(keep=True), fin, reply()) as server, client(server.base_url) as sender:
        send = wired(sender, books)
        first, second = await asked(send, 0), await asked(send, 1)
        assert server.posts == 3
    assert (first.attempts, second.attempts) == (1, 2)
    assert [error.billed for error in books.errors] == [Billed.MAYBE]


@pytest.mark.fault("B16")
async def test_an_answer_that_comes_after_its_time_out_is_counted_as_perhaps_paid_and_the_next_one_is_kept() -> None:
    answered = asyncio.Event()

    async def late(wire: Wire) -> None:
        await asyncio.sleep(0.5)
        await wire.send(http(OK_BODY.replace(b"positive", b"too late"), length=len(OK_BODY)))
        answered.set()

    books = Books()
    async with serving(late, reply()) as server:
        (got,) = await through(server.base_url, books, over={"total_s": 0.25})
        await asyncio.wait_for(answered.wait(), 5)
        assert server.posts == 2
    assert isinstance(got, Outcome)
    assert (got.text, got.attempts) == ("positive", 2)
    assert [(error.kind, error.billed) for error in books.errors] == [("timeout", Billed.MAYBE)]


@pytest.mark.fault("N12", "N13")
async def test_time_outs_among_good_answers_end_the_run_once_they_are_too_many() -> None:
    """Every third answer takes longer than the time-out: each of those was made, and is paid for in vain."""
    count = 0

    async def some_hang(wire: Wire) -> None:
        nonlocal count
        count += 1
        if count % 3 == 0:
            await wire.closing.wait()
        else:
            await reply(keep=True)(wire)

    books = Books()
    async with serving(some_hang) as server:
        got = await through(server.base_url, books, rows=200, over={"total_s": 0.3, "concurrency": 64}, max_in_doubt=5)
    paused = [each for each in got if isinstance(each, EndpointDown)]
    assert paused
    assert "endpoint.timeout_s.total" in str(paused[0])
    assert not [each for each in got if isinstance(each, Outcome) and each.status is Status.FAILED]


@pytest.mark.fault("S05")
async def test_streams_that_the_time_out_cuts_off_end_the_run_once_they_are_too_many() -> None:
    """Each keeps its words, so each would pass for an answer, and nobody would notice that none is whole."""
    count = 0

    async def some_hang(wire: Wire) -> None:
        nonlocal count
        count += 1
        if count % 3 == 0:
            await then_hang(streams(WORDS, ends=False))(wire)
        else:
            await raw(streams(WORDS + DONE))(wire)

    books = Books()
    over = {"total_s": 0.3, "concurrency": 64}
    async with serving(some_hang) as server:
        # More than can be on their way at once before the first is cut off.
        got = await through(server.base_url, books, rows=600, over=over, stream=True)
    paused = [each for each in got if isinstance(each, EndpointDown)]
    assert paused
    assert "endpoint.timeout_s.total" in str(paused[0])
    assert {each.status for each in got if isinstance(each, Outcome)} == {Status.OK, Status.TRUNCATED}


@pytest.mark.fault("N19")
async def test_after_a_gap_no_connection_from_before_it_is_used_and_calls_under_way_are_kept() -> None:
    go = asyncio.Event()

    async def waits(wire: Wire) -> None:
        await go.wait()
        await reply(keep=True)(wire)

    books = Books()
    async with serving(reply(keep=True), waits, reply(keep=True)) as server, client(server.base_url) as sender:
        send = wired(sender, books)
        await asked(send, 0)
        under_way = asyncio.ensure_future(asked(send, 1))
        while server.posts < 2:
            await asyncio.sleep(0.01)
        sender.renew()
        third = await asked(send, 2)
        go.set()
        assert (await under_way).status is third.status is Status.OK
        assert server.peak == 2
        assert server.posts == 3


def test_the_matrix_is_not_empty() -> None:
    assert len(LASTING) > 60
    assert len(PASSING) > 25
    assert len(REFUSED) > 10
