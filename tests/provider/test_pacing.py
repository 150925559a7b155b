from __future__ import annotations

from itertools import pairwise

import pytest

from pipeline.provider.pacing import SLACK_S, Pace, request_pace, token_pace


def drain(pace: Pace, start_s: float, end_s: float, step_s: float = 0.001) -> list[float]:
    """Times at which calls go when somebody asks every millisecond."""
    went = []
    for tick in range(round((end_s - start_s) / step_s)):
        now = start_s + tick * step_s
        if pace.wait_s(now) <= 0:
            pace.take(now)
            went.append(now)
    return went


def test_there_is_no_burst_at_the_start() -> None:
    went = drain(Pace(50), 0, 1)
    assert len(went) <= 51
    assert all(b - a > 0.015 for a, b in pairwise(went))


def test_any_minute_holds_less_than_the_allowance_even_after_catching_up() -> None:
    pace = request_pace(3000)
    went = drain(pace, 0, 30) + drain(pace, 31, 95)  # the loop was blocked for a second
    for start in range(35):
        assert sum(start < at <= start + 60 for at in went) <= 3000


def test_time_lost_by_a_late_loop_is_caught_up_within_the_slack() -> None:
    pace = Pace(100)
    pace.take(0.0)
    late = drain(pace, SLACK_S, 1.0)
    assert len(late) == pytest.approx(100, abs=2)


def test_a_debt_is_paid_by_waiting_and_a_credit_shortens_it() -> None:
    pace = token_pace(60_000)
    pace.take(0.0, 980)
    assert pace.wait_s(0.0) == pytest.approx(1.0)
    pace.give_back(-980)  # twice as long as guessed
    assert pace.wait_s(0.0) == pytest.approx(2.0)
    pace.give_back(1960)  # refused, unbilled
    assert pace.wait_s(0.0) == pytest.approx(0.0)


def test_after_a_restart_nothing_is_caught_up() -> None:
    pace = Pace(10)
    pace.take(0.0)
    pace.restart(60.0)
    pace.take(60.0)
    assert pace.wait_s(60.0) == pytest.approx(0.1)


def test_a_pace_that_changes_keeps_what_is_owed() -> None:
    pace = Pace(100)
    pace.take(0.0, 200)  # two seconds' worth
    pace.change(1.0, 50, SLACK_S)  # 100 are still owed
    assert pace.wait_s(1.0) == pytest.approx(2.0)
    pace.change(2.0, 1000, SLACK_S)  # 50 are
    assert pace.wait_s(2.0) == pytest.approx(0.05)


def test_a_pace_that_grows_catches_up_no_more_than_it_could_before() -> None:
    pace = Pace(1)
    pace.take(0.0)
    pace.change(100.0, 1000, SLACK_S)  # a fifth of a call could be caught up
    went = drain(pace, 100.0, 100.1)
    assert len(went) <= 101


def test_a_pace_of_nothing_lets_nothing_go_until_it_is_changed() -> None:
    pace = Pace(100)
    pace.change(0.0, 0.0, SLACK_S)
    assert pace.wait_s(10.0) == float("inf")
    pace.give_back(1)  # an answer that was shorter than guessed
    pace.change(20.0, 100, SLACK_S)
    assert pace.wait_s(20.0) <= 0


def test_paces_that_share_an_allowance_catch_up_no_more_together_than_one_alone() -> None:
    paces = [request_pace(60_000) for _ in range(4)]
    for pace in paces:
        pace.change(0.0, pace.per_s / 4, pace.slack_s)
        pace.take(0.0)
    went = [at for pace in paces for at in drain(pace, 10.0, 10.001)]  # all loops were late
    assert len(went) <= 20 + 4
