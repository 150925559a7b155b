from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from pipeline.errors import BudgetSpent, RunBlocked, RunPaused
from pipeline.stop import SIGNALS, Interrupted, Stop, signals_raise, signals_to, signals_wait


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Whatever a test does, the handlers of the test run come back; under ``nohup`` the tests mean the same."""
    hangup = signal.getsignal(signal.SIGHUP)
    if hangup is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    signal.signal(signal.SIGHUP, hangup)


def watched() -> tuple[Stop, list[str]]:
    stop, told = Stop(), list[str]()
    stop.on_stop = lambda: told.append("stop")
    stop.on_hurry = lambda: told.append("hurry")
    return stop, told


def test_the_first_reason_counts_and_is_told_once() -> None:
    stop, told = watched()
    stop.because(BudgetSpent("spent"))
    stop.because(RunPaused("later"))
    assert isinstance(stop.reason, BudgetSpent)
    assert told == ["stop"]


def test_a_second_signal_hurries_and_exits_130() -> None:
    stop, told = watched()
    stop.signalled("SIGINT")
    assert stop.reason is not None
    assert stop.reason.exit_code == 75
    stop.signalled("SIGTERM")
    stop.signalled("SIGTERM")
    assert isinstance(stop.reason, Interrupted)
    assert stop.reason.exit_code == 130
    assert told == ["stop", "hurry"]


def test_the_first_signal_does_not_cut_off_answers_that_another_reason_waits_for() -> None:
    # A deadline was draining, cron's SIGTERM came, and sixty paid answers were thrown away.
    stop, told = watched()
    stop.because(RunBlocked("the key is refused", kind="unauthorized"))
    stop.signalled("SIGTERM")
    assert not stop.hurried
    assert isinstance(stop.reason, RunBlocked)
    assert told == ["stop"]
    stop.signalled("SIGTERM")
    assert stop.hurried


@pytest.mark.parametrize("number", SIGNALS)
async def test_inside_the_loop_a_signal_stops_and_afterwards_the_handler_is_the_earlier_one(number: int) -> None:
    stop, told = watched()
    with signals_raise():
        with signals_to(stop):
            os.kill(os.getpid(), number)
            while not told:
                await asyncio.sleep(0)
        # The loop leaves sudden death behind: the end of a run was killed by a late SIGTERM.
        with pytest.raises(RunPaused):
            os.kill(os.getpid(), number)
            signal.getsignal(number)
    assert told == ["stop"]


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_the_loop_a_signal_raises(number: signal.Signals) -> None:
    with pytest.raises(RunPaused, match=number.name), signals_raise():
        os.kill(os.getpid(), number)
        raise AssertionError("not reached")


def test_a_step_that_must_not_be_torn_is_finished_first() -> None:
    done = []
    with pytest.raises(RunPaused, match="SIGTERM"), signals_wait():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("all of it")
    assert done == ["all of it"]


def test_under_nohup_a_hangup_stops_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_raise():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_that_a_library_swallowed_is_raised_again() -> None:
    # One that came while a line was printed was lost there: the watcher went on for ever.
    with pytest.raises(RunPaused, match="SIGTERM"), signals_raise() as raise_again:
        raise_again()  # nothing so far
        with contextlib.suppress(Exception):
            os.kill(os.getpid(), signal.SIGTERM)
        raise_again()
        raise AssertionError("not reached")
