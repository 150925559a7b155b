"""On a held clock, against endpoints that enforce their allowance in the ways that were seen."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import (
    AnswerUnusable,
    EndpointDown,
    Overloaded,
    ProviderError,
    RateLimited,
    RowRejected,
    RunPaused,
    TransientError,
)
from pipeline.provider.limiter import Limiter
from pipeline.provider.retry import retry
from pipeline.records import ApiCall, ApiReply, Billed, Send, Usage
from tests.provider.held_clock import START_S, Admits, Bucket, Fixed, Server, Sliding, clock, held, work, work_for

CALL = ApiCall("POST", "/", b"x" * 400)
REPLY = ApiReply(200, {}, b"", {}, Usage(100, 50, 150), 0.1)


def a_limiter(concurrency: int = 64, **more: Any) -> Limiter:
    limits: dict[str, Any] = {"requests_per_minute": None, "tokens_per_minute": None, **more}
    return Limiter(concurrency=concurrency, clock=clock, random=random.Random(3).random, **limits)


def retried(limiter: Limiter, send: Send) -> Send:
    return retry(limiter.limit(send), max_attempts=6, max_wait_s=60.0, clock=clock, random=random.Random(5).random)


async def never(_call: ApiCall) -> ApiReply:
    await asyncio.Event().wait()
    return REPLY


async def answer(_call: ApiCall) -> ApiReply:
    await asyncio.sleep(0.1)
    return REPLY


# -- configured limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jitter_s", [0.05, 0.2])
@pytest.mark.parametrize("limit", [Sliding, Fixed, Bucket])
def test_3000_rpm_are_used_to_98_percent_without_refusals(limit: Callable[[float], Admits], jitter_s: float) -> None:
    server = Server(limit(3000), jitter_s=jitter_s)

    async def main() -> float:
        assert await work(retried(a_limiter(requests_per_minute=3000), server.send), 4500, 64) == []
        return clock() - START_S

    took_s = held(main())
    assert 4500 / (50 * took_s) >= 0.98
    assert server.refused_share <= 0.005


@pytest.mark.parametrize("limit", [Sliding, Fixed, lambda most: Bucket(most, most / 10)])
def test_tokens_are_used_to_95_percent_though_lengths_are_unknown(limit: Callable[[float], Admits]) -> None:
    def cost(rng: random.Random) -> float:
        return 100 + min(4096, max(1, int(rng.lognormvariate(0, 0.8) * 300)))

    server = Server(limit(600_000), cost=cost, latency_s=2.0)

    async def main() -> None:
        send = retried(a_limiter(tokens_per_minute=600_000, max_output_tokens=4096), server.send)
        assert await work_for(send, 240, 64) == []

    held(main())
    assert server.used(0, 240) >= 0.95 * 600_000
    assert server.refused_share <= 0.01


@pytest.mark.parametrize("limit", [Sliding, Fixed, Bucket])
def test_honest_headers_about_what_is_left_slow_nobody_down_who_keeps_the_limit(
    limit: Callable[[float], Sliding | Fixed | Bucket],
) -> None:
    allowed = limit(3000)

    def left() -> dict[str, str]:
        remaining, reset_s = allowed.left(clock())
        return {"x-ratelimit-remaining-requests": str(int(remaining)), "x-ratelimit-reset-requests": f"{reset_s:.3f}s"}

    server = Server(allowed, headers=left)

    async def main() -> float:
        began_s = clock()
        assert await work(retried(a_limiter(requests_per_minute=3000), server.send), 9000, 64) == []
        return clock() - began_s

    assert 9000 / (50 * held(main())) >= 0.98
    assert server.refused_share <= 0.005


def test_tokens_are_not_reserved_for_the_bytes_of_pictures() -> None:
    """As text, each of these would be 300,000 tokens, and hold the next one up until its reply says otherwise."""
    picture = ApiCall("POST", "/", b"x" * 1_000_400, attachments=1, attached_bytes=1_000_000)

    async def after_a_minute(_call: ApiCall) -> ApiReply:
        await asyncio.sleep(60)
        return REPLY

    async def main() -> float:
        send = a_limiter(tokens_per_minute=100_000, max_output_tokens=100).limit(after_a_minute)
        await asyncio.gather(*(send(picture) for _ in range(3)))
        return clock() - START_S

    assert held(main()) < 65


def test_input_and_output_tokens_have_allowances_of_their_own() -> None:
    server = Server(Bucket(1e9, 1e9), cost=lambda _rng: 300.0)

    async def main() -> None:
        await work_for(a_limiter(output_tokens_per_minute=60_000).limit(server.send), 120, 64)

    held(main())
    outputs_per_minute = server.used(60, 120) * 2 / 3  # each call: 100 in, 200 out
    assert outputs_per_minute == pytest.approx(60_000, rel=0.04)


def test_a_limit_configured_twice_too_high_is_corrected() -> None:
    server = Server(Bucket(1500))

    async def main() -> None:
        assert await work_for(retried(a_limiter(requests_per_minute=3000), server.send), 120, 64) == []

    held(main())
    assert server.used(30, 120) >= 0.9 * 1500
    assert server.refused_share <= 0.02


def test_tokens_of_an_unbilled_failure_come_back_and_those_in_doubt_do_not() -> None:
    async def seconds_of(billed: Billed) -> float:
        async def fails(_call: ApiCall) -> ApiReply:
            raise RowRejected("no", kind="bad_request", billed=billed)

        send = a_limiter(tokens_per_minute=61_224, max_output_tokens=880).limit(fails)  # a call is a second's worth
        for _ in range(5):
            with pytest.raises(RowRejected):
                await send(CALL)
        return clock()

    assert held(seconds_of(Billed.NO)) - START_S < 0.1
    assert held(seconds_of(Billed.MAYBE)) - START_S == pytest.approx(4, abs=0.3)


# -- limits that nobody told -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [False, True], ids=["bare", "retry_after"])
@pytest.mark.parametrize("later", [1500, 6000])
@pytest.mark.parametrize("limit", [Sliding, Fixed, Bucket])
def test_a_hidden_allowance_is_found_and_found_again_when_it_changes(
    limit: Callable[[float], Any], later: float, told: bool
) -> None:
    allowed = limit(3000)
    server = Server(allowed, retry_after=lambda wait_s: round(wait_s + 0.5) if told else None)

    async def change() -> None:
        await asyncio.sleep(120)
        allowed.most = later

    async def main() -> None:
        faults, _ = await asyncio.gather(work_for(retried(a_limiter(), server.send), 240, 64), change())
        assert faults == []

    held(main())
    # From the start, because a burst into an empty minute is the allowance used early, and not a loss.
    for until_s in (30, 60, 90, 120):
        assert server.used(0, until_s) >= 0.9 * 3000
    # Half a minute after the change; windows that start with the clock's minute are measured from start to end.
    start_s, end_s = (177, 237) if limit is Fixed else (150, 240)
    assert server.used(start_s, end_s) >= 0.9 * later
    assert server.refused_share <= 0.02


@pytest.mark.parametrize(("parallel", "latency_s"), [(4, 0.2), (16, 0.2), (40, 0.2), (16, 3.0)])
def test_a_hidden_limit_of_parallel_calls_is_found(parallel: int, latency_s: float) -> None:
    server = Server(Bucket(1e9, 1e9), parallel=parallel, latency_s=latency_s)

    async def main() -> None:
        assert await work_for(retried(a_limiter(), server.send), 180, 64) == []

    held(main())
    possible = parallel * 60 / (latency_s + 0.025)  # the server's time and the way there
    assert server.used(30, 180) >= 0.8 * possible
    assert server.refused_share <= 0.025


def test_the_concurrency_asked_for_is_reached_when_nothing_speaks_against_it() -> None:
    server = Server(Bucket(1e9, 1e9))

    async def main() -> dict[str, float | None]:
        limiter = a_limiter(64)
        await work_for(limiter.limit(server.send), 5, 64)
        return limiter.found()

    found = held(main())
    assert found["concurrency"] == 64
    assert found["refused"] == 0
    assert server.most_in_flight > 50


def test_an_overloaded_server_is_not_driven_deeper_into_its_queue() -> None:
    """Eight at a time at 0.2 s; whatever comes on top waits in the server."""
    places = asyncio.Semaphore(8)
    most = waiting = 0

    async def queueing(_call: ApiCall) -> ApiReply:
        nonlocal most, waiting
        waiting += 1
        most = max(most, waiting)
        async with places:
            await asyncio.sleep(0.2)
        waiting -= 1
        return REPLY

    held(_busy(queueing))
    assert most < 128


def test_answers_that_become_longer_by_themselves_do_not_narrow_the_window_for_good() -> None:
    async def longer(_call: ApiCall) -> ApiReply:
        await asyncio.sleep(0.2 if clock() < START_S + 10 else 3.0)
        return REPLY

    async def main() -> float | None:
        limiter = a_limiter(64)
        await work_for(limiter.limit(longer), 120, 64)
        return limiter.found()["concurrency"]

    assert held(main()) == 64


async def _busy(send: Send) -> None:
    await work_for(a_limiter(256).limit(send), 60, 256)


# -- what the endpoint says --------------------------------------------------------------------------------------------


def refusing_at(start_s: float, end_s: float, told_s: float | None, seen: list[float]) -> Send:
    async def send(_call: ApiCall) -> ApiReply:
        now = clock() - START_S
        seen.append(now)
        await asyncio.sleep(0.05)
        if start_s <= now < end_s:
            raise RateLimited("slow down", kind="rate_limited", retry_after_s=told_s)
        return REPLY

    return send


def test_a_429_holds_everyone_back_for_as_long_as_it_says() -> None:
    seen: list[float] = []

    async def main() -> None:
        assert await work_for(retried(a_limiter(16), refusing_at(5, 5.2, 7.0, seen)), 30, 16) == []

    held(main())
    refused_s = min(at for at in seen if at >= 5)
    assert not [at for at in seen if refused_s + 0.1 < at < refused_s + 7.0]
    assert len([at for at in seen if at > refused_s + 9]) > 100


def test_a_server_that_always_says_60_stalls_the_run_once_only() -> None:
    server = Server(Bucket(3000), retry_after=lambda _wait_s: 60.0)

    async def main() -> None:
        assert await work_for(retried(a_limiter(), server.send), 600, 64) == []

    held(main())
    assert server.used(120, 600) >= 0.9 * 3000
    assert server.refused_share <= 0.02


def test_a_server_that_says_thirty_one_years_is_probed_after_two_minutes() -> None:
    seen: list[float] = []

    async def main() -> None:
        assert await work_for(retried(a_limiter(8), refusing_at(5, 60, 1e9, seen)), 300, 8) == []

    held(main())
    assert not [at for at in seen if 6 < at < 120]
    assert len([at for at in seen if at > 130]) > 1000


def test_a_server_that_means_thirty_one_years_ends_the_run_with_75() -> None:
    seen: list[float] = []

    async def main() -> list[BaseException]:
        return await work(retried(a_limiter(8), refusing_at(0, 1e12, 1e9, seen)), 8, 8)

    faults = held(main())
    assert {type(fault) for fault in faults} == {EndpointDown}
    assert {fault.exit_code for fault in faults if isinstance(fault, RunPaused)} == {75}
    assert "asks to wait 32 years" in str(faults[0])
    assert len(seen) < 60


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-remaining-requests": "-10", "x-ratelimit-reset-requests": "6m0s"},
        {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1893456000"},
        {"x-ratelimit-remaining-requests": "0"},
        {"x-ratelimit-remaining-requests": "999999999", "x-ratelimit-reset-requests": "0s"},
    ],
)
def test_headers_of_good_replies_bring_nothing_to_a_stand(headers: dict[str, str]) -> None:
    server = Server(Bucket(1e9, 1e9), headers=lambda: headers)

    async def main() -> None:
        await work_for(a_limiter(requests_per_minute=3000).limit(server.send), 120, 64)

    held(main())
    assert 0.85 * 3000 <= server.used(0, 120) <= 3000


# -- outages -----------------------------------------------------------------------------------------------------------


def failing(
    start_s: float, end_s: float, error: Callable[[], TransientError], takes_s: float, seen: list[float]
) -> Send:
    async def send(_call: ApiCall) -> ApiReply:
        now = clock() - START_S
        if start_s <= now < end_s:
            seen.append(now)
            await asyncio.sleep(takes_s)
            raise error()
        await asyncio.sleep(0.2)
        return REPLY

    return send


def fast_503() -> TransientError:
    return Overloaded("503 from the endpoint", kind="overloaded", status=503)


def slow_504() -> TransientError:
    return TransientError("504 from the endpoint", kind="server_error", status=504, billed=Billed.MAYBE)


def black_hole() -> TransientError:
    return TransientError("no answer within 30 s", kind="timeout", billed=Billed.MAYBE)


@pytest.mark.parametrize("requests_per_minute", [None, 6000])
@pytest.mark.parametrize(("error", "takes_s"), [(fast_503, 0.02), (slow_504, 10.0), (black_hole, 30.0)])
def test_ten_minutes_of_outage_fail_no_row(
    error: Callable[[], TransientError], takes_s: float, requests_per_minute: float | None
) -> None:
    into_it: list[float] = []

    async def main() -> float:
        limiter = a_limiter(64, requests_per_minute=requests_per_minute, max_down_s=900)
        faults = await work(retried(limiter, failing(20, 620, error, takes_s, into_it)), 10_000, 64)
        assert faults == []
        return clock() - START_S

    took_s = held(main())
    probes = 8
    assert len(into_it) <= 2 * 64 + probes
    assert took_s < 20 + 600 + 120 + 200


def test_the_gate_opens_at_once_when_the_probe_comes_back() -> None:
    into_it: list[float] = []

    async def main() -> float:
        await work(retried(a_limiter(64), failing(5, 15, fast_503, 0.02, into_it)), 10_000, 64)
        return clock() - START_S

    assert held(main()) < 5 + 15 + 1 + 45


def test_an_endpoint_that_stays_down_ends_the_run_with_its_last_words() -> None:
    seen: list[float] = []

    async def main() -> list[BaseException]:
        return await work(retried(a_limiter(64), failing(0, 1e9, fast_503, 0.02, seen)), 200, 64)

    faults = held(main())
    assert len(faults) == 200
    assert {str(fault) for fault in faults} == {"the endpoint has been failing for 10 min: 503 from the endpoint"}
    assert {type(fault) for fault in faults} == {EndpointDown}
    assert len(seen) <= 2 * 64 + 8


def test_a_time_out_shorter_than_the_answers_ends_the_run() -> None:
    rng = random.Random(1)

    async def slow(_call: ApiCall) -> ApiReply:
        await asyncio.sleep(1.0)
        if rng.random() < 0.15:
            raise TransientError("timed out", kind="timeout", billed=Billed.MAYBE)
        return REPLY

    faults = held(_pool_of(slow))
    paused = [fault for fault in faults if isinstance(fault, RunPaused)]
    assert paused
    assert "endpoint.timeout_s.total" in str(paused[0])


async def _pool_of(send: Send) -> list[BaseException]:
    return await work(retried(a_limiter(16), send), 2000, 16)


# -- places ------------------------------------------------------------------------------------------------------------


def test_first_come_first_served() -> None:
    order: list[str] = []

    async def notes(call: ApiCall) -> ApiReply:
        order.append(call.row)
        return await answer(call)

    async def main() -> None:
        send = a_limiter(2, requests_per_minute=600).limit(notes)
        await asyncio.gather(*(send(ApiCall("POST", "/", b"", row=str(number))) for number in range(50)))

    held(main())
    assert order == [str(number) for number in range(50)]


def test_who_is_cancelled_while_waiting_gives_up_the_place_to_the_next() -> None:
    async def main() -> float:
        send = a_limiter(1, requests_per_minute=6_000_000).limit(answer)
        tasks = [asyncio.ensure_future(send(CALL)) for _ in range(10)]
        await asyncio.sleep(0.05)
        for task in tasks[1:9]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(one, ApiReply) for one in done] == [True] + [False] * 8 + [True]
        return clock() - START_S

    assert held(main()) == pytest.approx(0.2, abs=0.01)


def test_a_call_cancelled_in_the_moment_it_was_let_go_gives_everything_back() -> None:
    async def main() -> None:
        limiter = a_limiter(1, requests_per_minute=60_000)
        send = limiter.limit(answer)
        first, second = asyncio.ensure_future(send(CALL)), asyncio.ensure_future(send(CALL))
        await asyncio.sleep(0)
        # The first one's end lets the second go; it is cancelled before it runs.
        first.add_done_callback(lambda _task: second.cancel())
        await asyncio.gather(first, second, return_exceptions=True)
        assert limiter.found()["in_flight"] == 0
        await asyncio.wait_for(send(CALL), 1)

    held(main())


def test_a_probe_that_is_cancelled_lets_another_go() -> None:
    seen: list[float] = []

    async def main() -> None:
        limiter = a_limiter(4)
        send = limiter.limit(failing(0, 5, fast_503, 0.01, seen))
        for _ in range(4):
            with pytest.raises(Overloaded):
                await send(CALL)
        hanging = asyncio.ensure_future(limiter.limit(never)(CALL))
        await asyncio.sleep(20)
        waiting = asyncio.ensure_future(send(CALL))
        await asyncio.sleep(1)
        assert not waiting.done()
        hanging.cancel()
        assert isinstance(await asyncio.wait_for(waiting, 5), ApiReply)

    held(main())


EVENTS = ["ok", "429", "503", "unusable", "rejected", "bug", "cancel"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(EVENTS), st.floats(0, 3)), min_size=1, max_size=60),
    st.integers(1, 6),
    st.sampled_from([None, 600.0]),
    st.sampled_from([None, 60_000.0]),
)
def test_places_and_tokens_are_conserved_and_nobody_is_stranded(
    events: list[tuple[str, float]], concurrency: int, rpm: float | None, tpm: float | None
) -> None:
    errors: dict[str, Callable[[], Exception]] = {
        "429": lambda: RateLimited("429", kind="rate_limited"),
        "503": fast_503,
        "unusable": lambda: AnswerUnusable("no", kind="empty", billed=Billed.YES, usage=Usage(10, 5, 15)),
        "rejected": lambda: RowRejected("no", kind="bad_request"),
        "bug": lambda: ZeroDivisionError(),
    }
    in_flight = most = 0

    async def send(call: ApiCall) -> ApiReply:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        try:
            kind, takes_s = events[int(call.row)]
            await asyncio.sleep(takes_s)
            if kind in errors:
                raise errors[kind]()
            return REPLY
        finally:
            in_flight -= 1

    async def main() -> None:
        limiter = a_limiter(concurrency, requests_per_minute=rpm, tokens_per_minute=tpm)
        limited = limiter.limit(send)
        tasks = []
        for number, (kind, takes_s) in enumerate(events):
            task = asyncio.ensure_future(limited(ApiCall("POST", "/", b"x" * 40, row=str(number))))
            if kind == "cancel":
                asyncio.get_running_loop().call_later(takes_s / 2, task.cancel)
            tasks.append(task)
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled() and task.exception() is not None:
                assert isinstance(task.exception(), ProviderError | ZeroDivisionError | RunPaused)
        found = limiter.found()
        assert found["in_flight"] == found["waiting"] == 0
        assert most <= concurrency

    held(main())


def test_nothing_is_left_running_when_all_is_done() -> None:
    async def main() -> int:
        await work(a_limiter(4, requests_per_minute=600).limit(answer), 20, 8)
        return len(asyncio.all_tasks())

    assert held(main()) == 1


def test_with_room_to_spare_a_call_passes_without_waiting() -> None:
    """The path of nearly every call: no task, no future, no turn of the loop."""

    async def at_once(_call: ApiCall) -> ApiReply:
        return REPLY

    limited = Limiter(requests_per_minute=None, tokens_per_minute=None, concurrency=4, clock=time.monotonic).limit(
        at_once
    )
    coroutine = limited(CALL)
    with pytest.raises(StopIteration) as done:
        coroutine.send(None)  # type: ignore[attr-defined]
    assert done.value.value is REPLY
