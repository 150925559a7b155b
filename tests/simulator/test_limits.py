from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from pipeline.simulator.limits import Lease, Limits, Refusal, go_duration
from pipeline.simulator.settings import Settings


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limits(clock: Clock, **settings: Any) -> Limits:
    return Limits(Settings(**settings), clock)


def admitted(limits: Limits, tries: int, tokens: int = 1) -> int:
    return sum(isinstance(limits.admit(tokens), Lease) for _ in range(tries))


def refused(limits: Limits, tokens: int = 1) -> Refusal:
    refusal = limits.admit(tokens)
    assert isinstance(refusal, Refusal)
    return refusal


@pytest.mark.parametrize("window", ["sliding", "fixed", "bucket"])
def test_who_waits_as_long_as_told_gets_in_and_not_sooner(clock: Clock, window: str) -> None:
    door = limits(clock, requests_per_minute=7, window=window)
    assert admitted(door, 20) == 7
    for _ in range(30):
        wait_s = refused(door).wait_s
        clock.now += wait_s * 0.99
        refused(door)
        clock.now += wait_s * 0.0100001
        assert isinstance(door.admit(1), Lease)
        while isinstance(door.admit(1), Lease):
            pass


def test_any_stretch_of_a_sliding_window_holds_no_more_than_the_limit(clock: Clock) -> None:
    door = limits(clock, requests_per_minute=50, window="sliding")
    times = []
    for step in range(4000):
        clock.now = 1000 + step * 0.11
        if isinstance(door.admit(1), Lease):
            times.append(clock.now)
    assert all(later - first >= 60 - 1e-6 for first, later in zip(times, times[50:], strict=False))
    assert len(times) > 7 * 50


def test_a_fixed_window_allows_twice_the_limit_around_its_stroke(clock: Clock) -> None:
    door = limits(clock, requests_per_minute=10, window="fixed")
    clock.now += 59.9
    assert admitted(door, 20) == 10
    clock.now += 0.1
    assert admitted(door, 20) == 10
    assert refused(door).wait_s == pytest.approx(60)


def test_a_bucket_takes_a_burst_and_then_an_even_flow(clock: Clock) -> None:
    door = limits(clock, requests_per_minute=3000, window="bucket", burst=50)
    assert admitted(door, 200) == 50
    times = []
    for _ in range(1000):
        clock.now += 0.005
        if isinstance(door.admit(1), Lease):
            times.append(clock.now)
    assert len(times) == 250
    assert all(later - first == pytest.approx(0.02, abs=0.0051) for first, later in pairwise(times))


def test_what_is_refused_counts_for_nothing(clock: Clock) -> None:
    door = limits(clock, requests_per_minute=5, tokens_per_minute=100)
    assert admitted(door, 1, tokens=90) == 1
    assert {refused(door, tokens=50).what for _ in range(100)} == {"tokens"}
    assert admitted(door, 10, tokens=1) == 4
    assert refused(door).what == "requests"


@pytest.mark.parametrize("window", ["sliding", "fixed", "bucket"])
def test_the_answers_tokens_count_once_they_are_known(clock: Clock, window: str) -> None:
    door = limits(clock, tokens_per_minute=100, window=window)
    lease = door.admit(10)
    assert isinstance(lease, Lease)
    lease.settle(100)
    refusal = refused(door, tokens=10)
    assert refusal.what == "tokens"
    clock.now += refusal.wait_s + 1e-6
    assert isinstance(door.admit(10), Lease)


@pytest.mark.parametrize("window", ["sliding", "fixed", "bucket"])
def test_reserved_tokens_that_were_not_used_are_given_back(clock: Clock, window: str) -> None:
    door = limits(clock, tokens_per_minute=100, window=window)
    lease = door.admit(90)
    assert isinstance(lease, Lease)
    refused(door, tokens=50)
    lease.settle(40)
    assert isinstance(door.admit(60), Lease)
    refused(door, tokens=1)


@pytest.mark.parametrize("window", ["sliding", "fixed"])
def test_tokens_given_back_after_their_window_do_not_widen_the_next_one(clock: Clock, window: str) -> None:
    door = limits(clock, tokens_per_minute=100, window=window)
    lease = door.admit(90)
    assert isinstance(lease, Lease)
    clock.now += 61
    assert isinstance(door.admit(10), Lease)
    lease.settle(0)
    assert isinstance(door.admit(90), Lease)
    refused(door, tokens=1)


def test_a_request_larger_than_the_limit_never_fits(clock: Clock) -> None:
    door = limits(clock, tokens_per_minute=100)
    assert refused(door, tokens=101).wait_s == math.inf


def test_only_so_many_are_inside_at_a_time(clock: Clock) -> None:
    door = limits(clock, concurrency=2)
    first, second = door.admit(1), door.admit(1)
    assert isinstance(first, Lease) and isinstance(second, Lease)
    assert refused(door).what == "concurrency"
    first.leave()
    assert admitted(door, 5) == 1


@pytest.mark.parametrize("window", ["sliding", "fixed", "bucket"])
def test_limits_change_half_way_without_a_word(clock: Clock, window: str) -> None:
    door = limits(
        clock, requests_per_minute=10, window=window, change_after_s=180, change_requests_per_minute=4, burst=None
    )
    clock.now += 120
    assert admitted(door, 20) == 10
    clock.now += 120
    assert admitted(door, 20) == 4


def test_headers_say_limit_remaining_and_reset(clock: Clock) -> None:
    door = limits(clock, requests_per_minute=600, tokens_per_minute=6000, window="bucket")
    lease = door.admit(60)
    assert isinstance(lease, Lease)
    assert door.headers() == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "599",
        "x-ratelimit-reset-requests": "100ms",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5940",
        "x-ratelimit-reset-tokens": "600ms",
    }
    assert limits(clock).headers() == {}


@pytest.mark.parametrize(
    ("seconds", "spelt"), [(0, "0ms"), (0.0171, "18ms"), (1, "1s"), (1.25, "1.25s"), (59.5, "59.5s"), (360, "6m0s")]
)
def test_durations_are_spelt_as_in_go(seconds: float, spelt: str) -> None:
    assert go_duration(seconds) == spelt
