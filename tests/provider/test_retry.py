from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pipeline.errors import (
    AnswerUnusable,
    ProviderError,
    RateLimited,
    RowRejected,
    RunBlocked,
    RunPaused,
    TransientError,
)
from pipeline.provider.retry import COST, COST_IN_DOUBT, REFILL_PER_S, Quota, retry
from pipeline.records import ApiCall, ApiReply, Billed, Send, Usage

CALL = ApiCall("POST", "/", b"{}")
REPLY = ApiReply(200, {}, b"", {}, Usage(), 0.1)


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Scripted:
    """Raises these one after another, then answers."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.calls = 0

    async def send(self, _call: ApiCall) -> ApiReply:
        self.calls += 1
        if self.faults:
            raise self.faults.pop(0)
        return REPLY


def unbilled() -> TransientError:
    return TransientError("refused", kind="connect")


def in_doubt() -> TransientError:
    return TransientError("504", kind="server_error", billed=Billed.MAYBE)


def uncounted(make: Callable[[], TransientError]) -> TransientError:
    exc = make()
    exc.counted = False
    return exc


def tried(script: Scripted, time: Time, **more: object) -> Send:
    options: dict[str, object] = {"max_attempts": 6, "max_wait_s": 60.0, "random": lambda: 1.0, **more}
    return retry(script.send, clock=time.clock, sleep=time.sleep, **options)  # type: ignore[arg-type]


async def test_a_good_first_reply_goes_through_as_it_is() -> None:
    time, script = Time(), Scripted()
    assert await tried(script, time)(CALL) is REPLY
    assert time.slept == []


async def test_waits_are_full_jitter_over_a_doubling_span_with_a_cap() -> None:
    time, script = Time(), Scripted(*(unbilled() for _ in range(8)))
    reply = await tried(script, time, max_attempts=9, max_wait_s=10.0)(CALL)
    assert time.slept == [0.5, 1, 2, 4, 8, 10, 10, 10]
    assert (script.calls, reply.attempts) == (9, 9)

    time, script = Time(), Scripted(unbilled(), unbilled())
    await tried(script, time, random=lambda: 0.25)(CALL)
    assert time.slept == [0.125, 0.25]


async def test_what_is_surely_unbilled_is_tried_max_attempts_times_in_all() -> None:
    time, script = Time(), Scripted(*(unbilled() for _ in range(20)))
    with pytest.raises(TransientError) as caught:
        await tried(script, time, max_attempts=4)(CALL)
    assert (script.calls, caught.value.attempts) == (4, 4)
    assert len(time.slept) == 3


@pytest.mark.parametrize(("max_in_doubt", "calls"), [(0, 1), (1, 2), (3, 4)])
async def test_what_may_be_billed_goes_so_many_times_more(max_in_doubt: int, calls: int) -> None:
    time, script = Time(), Scripted(*(in_doubt() for _ in range(20)))
    with pytest.raises(TransientError) as caught:
        await tried(script, time, max_in_doubt=max_in_doubt)(CALL)
    assert (script.calls, caught.value.attempts) == (calls, calls)


async def test_unbilled_failures_before_do_not_use_up_the_attempt_in_doubt() -> None:
    time, script = Time(), Scripted(unbilled(), unbilled(), in_doubt())
    reply = await tried(script, time)(CALL)
    assert reply.attempts == 4


@pytest.mark.parametrize(
    "fault",
    [
        AnswerUnusable("empty", kind="empty", billed=Billed.YES),
        RowRejected("bad", kind="bad_request"),
        RunBlocked("key", kind="auth"),
        RunPaused("down"),
        ZeroDivisionError(),
    ],
)
@pytest.mark.parametrize("before", [0, 1])
async def test_nothing_else_is_tried_again(fault: Exception, before: int) -> None:
    time, script = Time(), Scripted(*(unbilled() for _ in range(before)), fault)
    with pytest.raises(type(fault)) as caught:
        await tried(script, time)(CALL)
    assert caught.value is fault
    assert script.calls == before + 1
    if isinstance(fault, ProviderError):
        assert fault.attempts == before + 1


@pytest.mark.parametrize("make", [unbilled, in_doubt])
async def test_failures_of_the_endpoint_cost_the_row_no_attempt(make: Callable[[], TransientError]) -> None:
    time, script = Time(), Scripted(*(uncounted(make) for _ in range(30)), make())
    reply = await tried(script, time)(CALL)
    assert reply.attempts == 32


async def test_a_retry_after_is_not_slept_privately() -> None:
    time = Time()
    script = Scripted(RateLimited("429", kind="rate_limited", retry_after_s=40.0))
    await tried(script, time)(CALL)
    assert time.slept == [0.5]


async def test_each_retry_is_announced_with_its_fault_and_its_wait() -> None:
    seen: list[tuple[str, float]] = []
    time, script = Time(), Scripted(unbilled(), unbilled())

    def note(_call: ApiCall, exc: ProviderError, wait_s: float) -> None:
        seen.append((exc.kind, wait_s))

    await tried(script, time, on_retry=note)(CALL)
    assert seen == [("connect", 0.5), ("connect", 1.0)]


async def test_a_cancelled_wait_is_cancelled() -> None:
    script = Scripted(*(unbilled() for _ in range(5)))

    async def forever(_seconds: float) -> None:
        await asyncio.Event().wait()

    task = asyncio.ensure_future(retry(script.send, max_attempts=3, max_wait_s=1.0, sleep=forever)(CALL))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert script.calls == 1


def test_the_quota_lets_a_hundred_retries_go_at_once_and_then_ten_per_second() -> None:
    time = Time()
    quota = Quota(500, time.clock)
    waits = [quota.take(COST) for _ in range(120)]
    assert waits[:100] == [0.0] * 100
    assert waits[-1] == pytest.approx(20 * COST / REFILL_PER_S)
    time.now = 100.0
    assert quota.take(COST_IN_DOUBT) == 0.0


async def test_an_empty_quota_delays_a_retry_and_fails_no_row() -> None:
    time, script = Time(), Scripted(unbilled())
    reply = await tried(script, time, quota=0.0, random=lambda: 0.0)(CALL)
    assert reply.attempts == 2
    assert time.slept == [COST / REFILL_PER_S]


async def test_the_last_failure_takes_nothing_out_of_the_quota() -> None:
    time = Time()
    script = Scripted(*(unbilled() for _ in range(4)), unbilled())
    send = tried(script, time, quota=COST, max_attempts=1, random=lambda: 0.0)
    for _ in range(4):
        with pytest.raises(TransientError):
            await send(CALL)
    other = tried(script, time, quota=COST, random=lambda: 0.0)
    await other(CALL)
    assert time.slept == [0.0]
