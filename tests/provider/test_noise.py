"""Refusals that come whatever we do must not slow a job down to nothing; those of a limit must."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RateLimited
from pipeline.provider.limiter import Limiter
from pipeline.provider.noise import LESSONS, SPAN, STEP, Noise, Pace
from pipeline.provider.retry import retry
from pipeline.records import ApiCall, ApiReply
from tests.provider.held_clock import START_S, Admits, Bucket, Server, clock, held, work


class Short:
    """Refuses one call in so many for no reason, and the first ``begins`` calls; the others by a limit, if there is
    one."""

    def __init__(self, share: float, limit: Admits | None = None, begins: int = 0) -> None:
        self.share = share
        self.limit = limit
        self.begins = begins
        self._random = random.Random(5)

    def __call__(self, now: float, cost: float) -> float:
        self.begins -= 1
        if self.begins >= 0 or self._random.random() < self.share:
            return 0.01
        return 0.0 if self.limit is None else self.limit(now, cost)


def run(limit: Admits, *, rows: int, workers: int = 64) -> Server:
    """So many rows by so many workers; the endpoint takes half a second for an answer."""
    server = Server(limit, latency_s=0.5)

    async def main() -> None:
        chance = random.Random(6).random
        limiter = Limiter(
            requests_per_minute=None, tokens_per_minute=None, concurrency=workers, clock=clock, random=chance
        )
        send = retry(limiter.limit(server.send), max_attempts=6, max_wait_s=60.0, clock=clock, random=chance)
        assert await work(send, rows, workers) == []

    held(main())
    return server


def seconds(server: Server) -> float:
    return server.accepted[-1][0] - START_S


@pytest.mark.parametrize("share", [0.01, 0.03, 0.05, 0.1])
def test_some_calls_refused_at_any_pace_do_not_stop_a_job(share: float) -> None:
    """Every refusal took its part of the pace: with one in twenty, 4,000 rows took a week."""
    server = run(Short(share), rows=6_000)
    assert seconds(server) < 10 * 6_000 * 0.5 / 64
    assert server.refused_share == pytest.approx(share, rel=0.3)


@pytest.mark.parametrize(("begins", "share"), [(1, 0.0), (2, 0.0), (1, 0.05), (2, 0.05)])
def test_a_first_call_that_is_refused_tells_no_rate(begins: int, share: float) -> None:
    """Nothing had passed, so the rate was taken for nothing: the rows after it waited for hours, or for ever."""
    server = run(Short(share, begins=begins), rows=3_000)
    assert seconds(server) < 10 * 3_000 * 0.5 / 64


def test_under_a_limit_too_they_do_not_stop_it() -> None:
    server = run(Short(0.05, Bucket(1_500.0)), rows=6_000)
    assert server.used(30.0, seconds(server)) > 600
    assert server.refused_share < 0.15


def test_a_limit_alone_is_kept_to_as_before() -> None:
    server = run(Bucket(1_500.0), rows=6_000)
    assert server.used(30.0, seconds(server) - 5.0) > 0.95 * 1_500
    assert server.refused_share < 0.01


def test_a_limit_is_found_with_one_place_too() -> None:
    """The places cannot get fewer than one; nothing else gave way, and four calls in ten were refused."""
    server = run(Bucket(60.0), rows=400, workers=1)
    assert server.refused_share < 0.1


# -- one by one --------------------------------------------------------------------------------------------------------


def pace(per_s: float, size: float = 64.0) -> Pace:
    return Pace(per_s, True, size, False)


def told(noise: Noise, paces: list[float], calls: list[int], *, begins_unlimited: bool = False) -> list[bool]:
    """A refusal at each pace, after so many calls that passed. ``begins_unlimited``: no rate was found before."""
    seen = []
    for at, (per_s, passed) in enumerate(zip(paces, calls, strict=True)):
        for _ in range(passed):
            noise.sent()
        number = noise.sent()
        limited = at > 0 or not begins_unlimited
        seen.append(not noise.refused(number) and noise.lesson(number, Pace(per_s, limited, 64.0, False)))
    return seen


SLOWER = [10.0, 9.0, 8.0, 7.0, 6.0]


def test_slowing_down_that_changes_nothing_is_seen_as_that() -> None:
    noise = Noise()
    assert told(noise, SLOWER, [19] * LESSONS) == [False] * (LESSONS - 1) + [True]
    assert noise.share == pytest.approx(0.05)


@given(st.lists(st.integers(1, 200), min_size=30, max_size=60), st.randoms(), st.booleans())
def test_lessons_round_a_steady_limit_are_never_taken_for_noise(
    calls: list[int], chance: random.Random, begins_unlimited: bool
) -> None:
    paces = [10.0 * (1 + chance.uniform(-0.09, 0.09)) for _ in calls]
    assert not any(told(Noise(), paces, calls, begins_unlimited=begins_unlimited))
    assert not any(told(Noise(), sorted(paces, reverse=True), calls, begins_unlimited=begins_unlimited))


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.booleans(), st.floats(1.0, 64.0)), min_size=2, max_size=2))
def test_a_step_back_never_goes_slower(two: list[tuple[float, bool, float]]) -> None:
    now, top = (Pace(per_s, limited, size, False) for per_s, limited, size in two)
    step = now.step_to(top)
    assert step.per_s >= now.per_s and step.size >= now.size
    assert now.limited or not step.limited
    assert step.size <= max(STEP * now.size, now.size) and step.per_s <= max(STEP * now.per_s, now.per_s, top.per_s)


@pytest.mark.parametrize(
    ("calls", "why"),
    [
        ([19, 4, 8, 40, 80], "fewer are refused: slowing down helps"),
        ([400, 400, 400, 8, 8], "many more are refused: a limit has fallen"),
        ([19, 1, 1, 1, 1], "most are refused"),
    ],
)
def test_these_are_lessons(calls: list[int], why: str) -> None:
    assert not any(told(Noise(), SLOWER, calls)), why


def test_noise_teaches_nothing_until_it_is_more_or_is_over() -> None:
    noise = Noise()
    told(noise, SLOWER, [19] * LESSONS)

    def after(passed: int) -> bool:
        for _ in range(passed):
            noise.sent()
        return noise.refused(noise.sent())

    assert all(after(19) for _ in range(50))
    assert not all(after(2) for _ in range(SPAN // 3))  # a third of all calls
    assert noise.share, "it is told apart from what a limit refuses, and stays"
    assert all([after(19) for _ in range(9)][4:])
    assert not after(200) and noise.share == 0.0


def test_after_a_lesson_without_a_refusal_there_was_no_noise() -> None:
    noise = Noise()
    told(noise, SLOWER, [19] * LESSONS)
    while noise.refused(noise.sent()):
        pass
    for _ in range(70):  # less than a gap that noise may have once in a while
        noise.sent()
    assert not noise.refused(noise.sent()) and noise.share == 0.0


def test_the_pace_is_given_back_in_steps() -> None:
    noise = Noise()
    top = Pace(10.0, False, 64.0, True)
    lessons = [top, *(pace(per_s, 30.0) for per_s in (4.0, 3.5, 3.0, 2.5))]
    for one in lessons:
        for _ in range(19):
            noise.sent()
        number = noise.sent()
        noise.refused(number)
        noise.lesson(number, one)
    now, steps = pace(2.5, 30.0), 0
    assert noise.back(number, now) is None, "that was only just now"
    while (step := noise.back(number := number + 20, now)) is not None:
        assert step.per_s <= STEP * now.per_s and step.size <= STEP * now.size
        now, steps = step, steps + 1
    assert (now, steps) == (top, 4)


async def test_a_wait_that_is_asked_for_is_kept_by_all_though_it_is_noise() -> None:
    limiter = Limiter(requests_per_minute=None, tokens_per_minute=None, concurrency=4, clock=lambda: 1.0)
    limiter._noise.share = 0.9
    told_s: list[float | None] = [None, 2.0]

    async def send(call: ApiCall) -> ApiReply:
        raise RateLimited("slow down", kind="rate_limited", retry_after_s=told_s.pop(0))

    limited = limiter.limit(send)
    for paused in (False, True):
        with pytest.raises(RateLimited):
            await asyncio.wait_for(limited(ApiCall("POST", "/")), 5)
        assert (limiter._breaker.gate == "paused") is paused
