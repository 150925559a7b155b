from __future__ import annotations

import pytest

from pipeline.provider.breaker import Breaker, TimeoutGuard, spoken
from pipeline.records import Billed


def a_breaker() -> Breaker:
    return Breaker(random=lambda: 0.5, failures=10)


def gate_of(breaker: Breaker) -> str:
    return breaker.gate


def fail(breaker: Breaker, now: float, *, row: str = "", billed: Billed = Billed.NO, probe: bool = False) -> bool:
    return breaker.failed(now, probe=probe, row=row, billed=billed)


def refuse(breaker: Breaker, now: float, told_s: float | None = None, *, probe: bool = False) -> bool:
    return breaker.refused(now, now, probe=probe, retry_after_s=told_s)


def test_ten_failures_in_a_row_shut_the_gate_and_a_reply_in_between_does_not() -> None:
    breaker = a_breaker()
    for _ in range(9):
        assert fail(breaker, 0.0)
    assert not breaker.replied(0.0)
    for _ in range(9):
        assert fail(breaker, 1.0)
    assert gate_of(breaker) == "open"
    assert not fail(breaker, 1.0), "the failure that shuts the gate is not the row's"
    assert gate_of(breaker) == "down"
    assert not fail(breaker, 1.0), "nor are the echoes"


def test_probes_wait_15_s_and_twice_as_long_each_time_up_to_120() -> None:
    breaker = a_breaker()
    for _ in range(10):
        fail(breaker, 0.0)
    waits, now = [], 0.0
    for _ in range(5):
        waits.append(breaker.wait_s(now))
        now += waits[-1]
        breaker.send_probe(now)
        assert breaker.wait_s(now) == float("inf")
        fail(breaker, now, probe=True)
    assert waits == [15, 30, 60, 120, 120]


def test_a_row_that_always_fails_with_500_does_not_make_an_outage() -> None:
    breaker = a_breaker()
    for _ in range(50):
        fail(breaker, 0.0, row="bad", billed=Billed.MAYBE)
    assert gate_of(breaker) == "open"


def test_a_reply_to_what_was_sent_before_the_outage_does_not_open_the_gate() -> None:
    breaker = a_breaker()
    for _ in range(10):
        fail(breaker, 5.0)
    assert not breaker.replied(4.0)
    assert breaker.replied(20.0)


def test_a_retry_after_is_waited_out_with_a_little_on_top() -> None:
    breaker = a_breaker()
    assert refuse(breaker, 0.0, 7.0)
    assert 7.0 < breaker.wait_s(0.0) < 8.0


@pytest.mark.parametrize("told_s", [None, 0.0, -3.0])
def test_without_a_usable_retry_after_the_pause_is_our_own(told_s: float | None) -> None:
    breaker = a_breaker()
    refuse(breaker, 0.0, told_s)
    assert 0 < breaker.wait_s(0.0) < 1


def test_thirty_one_years_are_not_slept_through() -> None:
    breaker = a_breaker()
    refuse(breaker, 0.0, 1e9)
    assert breaker.wait_s(0.0) <= 121
    assert breaker.left_s(600.0) == 0
    assert breaker.complaint("429") == "the endpoint asks to wait 32 years: 429"


def test_an_echo_changes_nothing_and_does_not_count() -> None:
    breaker = a_breaker()
    assert refuse(breaker, 10.0)
    before_s = breaker.wait_s(10.0)
    assert not breaker.refused(10.0, 9.9, probe=False, retry_after_s=None)
    assert breaker.wait_s(10.0) == before_s


def test_always_60_is_believed_once_then_tested_then_ignored() -> None:
    breaker = a_breaker()
    refuse(breaker, 0.0, 60.0)
    assert breaker.wait_s(0.0) >= 60
    breaker.open(61.0)
    refuse(breaker, 100.0, 60.0)
    assert breaker.wait_s(100.0) < 1
    breaker.open(101.0)
    assert not breaker.believes
    refuse(breaker, 200.0, 60.0)
    assert breaker.wait_s(200.0) < 1


def test_a_habit_that_turns_out_true_is_not_taken_for_a_lie() -> None:
    breaker = a_breaker()
    refuse(breaker, 0.0, 60.0)
    breaker.open(61.0)
    refuse(breaker, 100.0, 60.0)
    breaker.open(155.0)
    assert breaker.believes


def test_a_probe_that_is_not_refused_for_a_while_is_taken_for_accepted() -> None:
    breaker = a_breaker()
    breaker.refused(10.2, 10.0, probe=False, retry_after_s=None)
    breaker.send_probe(11.0)
    assert not breaker.probe_passes(11.1)
    assert breaker.probe_passes(12.0)


def test_a_time_out_now_and_then_is_no_matter_but_one_in_ten_is() -> None:
    guard = TimeoutGuard()
    for attempt in range(2000):
        guard.timed_out() if attempt % 50 == 0 else guard.ended(False)
    seen = [guard.tripped]
    for attempt in range(400):
        guard.timed_out() if attempt % 10 == 0 else guard.ended(False)
    seen.append(guard.tripped)
    assert seen == [False, True]
    assert "endpoint.timeout_s.total" in guard.complaint()


def test_time_outs_of_an_outage_are_not_held_against_the_time_out() -> None:
    guard = TimeoutGuard()
    for _ in range(64):
        guard.timed_out()
    guard.outage()
    guard.ended(False)
    assert not guard.tripped


@pytest.mark.parametrize(("seconds", "words"), [(45, "45 s"), (300, "5 min"), (1e9, "32 years"), (86400 * 3, "3 days")])
def test_spans_are_told_as_people_say_them(seconds: float, words: str) -> None:
    assert spoken(seconds) == words
