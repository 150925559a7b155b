from __future__ import annotations

import pytest

from pipeline.provider.adaptive import Climb, Rate, Sent, Window


def test_sent_counts_by_time_and_forgets_after_two_minutes() -> None:
    sent = Sent()
    for tick in range(100):
        sent.add(10 + tick * 0.1)
    assert sent.between(10, 20) == pytest.approx(100)
    assert sent.between(15, 20) == pytest.approx(50, abs=1)
    sent.take_back(10.0)
    assert sent.between(10, 20) == pytest.approx(99)
    sent.add(400)
    assert sent.between(300, 401) == pytest.approx(1)


def test_a_climb_holds_still_first_and_doubles_within_25_s() -> None:
    climb = Climb()
    climb.restart(0.0)
    value, at_s, reached_s = 50.0, 0.0, 0.0
    while value < 100 and at_s < 60:
        at_s += 1 / value
        value *= climb.factor(at_s)
        if at_s < 4.9:
            assert value == 50.0
        reached_s = at_s
    assert 10 < reached_s < 25


def test_an_allowance_found_exhausted_twice_has_let_through_its_rate() -> None:
    rate = Rate()
    for tick in range(200):
        rate.sent.add(tick * 0.01)  # 100 per second
    rate.refused(2.0, 2.0)
    assert rate.per_s == pytest.approx(97, abs=3)
    for tick in range(500):
        rate.sent.add(2.0 + tick * 0.02)  # 50 per second
    rate.refused(12.0, 12.0)
    assert rate.per_s == pytest.approx(48.5, abs=1)


def test_an_echo_teaches_nothing() -> None:
    rate = Rate()
    for tick in range(200):
        rate.sent.add(tick * 0.01)
    rate.refused(2.0, 2.0)
    before = rate.per_s
    for _ in range(20):
        rate.refused(2.1, 1.9)
    assert rate.per_s == before


def test_shut_for_long_means_that_it_counts_by_the_minute() -> None:
    rate = Rate()
    for tick in range(3000):
        rate.sent.add(100 + tick / 300)  # 3,000 within ten seconds
    rate.refused(110.0, 110.0)
    rate.reopened(160.0, 159.0)
    assert rate.per_s == pytest.approx(48.5, abs=0.5)


@pytest.mark.parametrize(("pause_s", "grown"), [(2.0, True), (0.2, False)])
def test_a_rate_measured_over_a_long_pause_is_rather_too_low_and_soon_left(pause_s: float, grown: bool) -> None:
    """A bucket of 50 refused, said `Retry-After: 1`, and was full long before the next call: it looked like 39 a second
    where 50 were allowed, and half a minute went by until they were found."""
    rate = Rate()
    for tick in range(80):
        rate.sent.add(100 + tick * 0.01)
    rate.refused(100.8, 100.8)
    rate.opened(100.8 + pause_s)
    for tick in range(100):
        rate.sent.add(100.8 + pause_s + tick * 0.012)
    rate.refused(104.2, 104.2)
    rate.opened(104.2)
    assert rate.per_s is not None
    learned = rate.per_s
    for tick in range(1, 30):
        rate.climb(104.2 + tick * 0.1)
    assert (rate.per_s > 1.05 * learned) is grown


def test_one_refusal_under_configured_limits_is_a_slip_and_a_second_is_news() -> None:
    rate = Rate(known=True)
    for tick in range(200):
        rate.sent.add(tick * 0.02)
    rate.refused(4.0, 4.0)
    assert rate.per_s is None
    rate.refused(5.0, 5.0)
    assert rate.per_s is not None


def grow(window: Window, now: float, rounds: int, latency_s: float = 1.0) -> None:
    for _ in range(rounds):
        for _ in range(int(window.size)):
            window.succeeded(now, int(window.size), latency_s)


def test_the_window_doubles_per_round_trip_until_the_first_trouble() -> None:
    window = Window(64, 8)
    grow(window, 0.0, 1)
    assert window.size == pytest.approx(16, abs=1)
    grow(window, 0.0, 5)
    assert window.size == 64


def test_echoes_cut_the_window_once() -> None:
    window = Window(64, 8)
    grow(window, 0.0, 6)
    window.overloaded(10.0, 9.0)
    for _ in range(40):
        window.overloaded(10.1, 9.5)
    assert window.size == 48


def test_a_window_is_never_smaller_than_one_nor_larger_than_asked_for() -> None:
    window = Window(4, 4)
    for now in range(50):
        window.overloaded(float(now), float(now))
    assert window.size == 1
    for tick in range(5000):
        window.succeeded(100 + tick * 0.1, 4, 1.0)
    assert window.size == 4


def test_a_queue_in_the_server_cuts_the_window() -> None:
    window, now, widest = Window(256, 8), 0.0, 0.0
    for _ in range(100):
        latency_s = 0.2 * max(1.0, window.size / 16)  # sixteen at a time
        now += latency_s
        grow(window, now, 1, latency_s)
        widest = max(widest, window.size)
    assert 16 < widest < 200
    assert window.size < 100


def test_answers_that_are_longer_by_themselves_do_not() -> None:
    window = Window(64, 8)
    grow(window, 1.0, 5, 0.2)
    for now in range(10, 200, 3):
        grow(window, float(now), 1, 3.0)
    assert window.size == 64
