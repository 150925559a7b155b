from __future__ import annotations

import io
from dataclasses import replace

import pytest

from pipeline.progress import (
    Bar,
    Lines,
    Rate,
    View,
    as_members,
    describe,
    money,
    plain,
    seconds_left,
    short_number,
    short_time,
)

VIEW = View(rows=1000, done_before=100, done_now=300, failed=7, tokens=123_456, cost_usd=1.234, in_flight=12)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_line_tells_rows_rate_tokens_money_failures_and_time() -> None:
    assert describe(VIEW, 10.0) == "400/1000 rows, 10.0 rows/s, 123.5k tokens, $1.23, 7 failed, 1m00s left"


def test_a_run_that_stops_does_not_say_when_the_rest_would_be_done() -> None:
    assert describe(replace(VIEW, note="stopping"), 10.0).endswith("7 failed, stopping")


def test_what_is_not_known_is_not_made_up() -> None:
    line = describe(View(None, 0, 3, 0, 0, None, 0), 0.0)
    assert line == "3 rows, 0.0 rows/s, 0 tokens, price unknown, 0 failed"
    assert seconds_left(View(None, 0, 3, 0, 0, None, 0), 5.0) is None
    assert seconds_left(VIEW, 0.0) is None


def test_the_rate_is_that_of_the_last_minute() -> None:
    clock = Clock()
    rate = Rate(clock)
    assert rate.update(0) == 0.0
    for second in range(1, 200):
        clock.now = float(second)
        last = rate.update(min(second, 100) * 10)  # ten a second, then a standstill
    assert last == 0.0
    assert len(rate._points) <= 62


def test_rows_of_earlier_runs_do_not_count_into_the_rate() -> None:
    clock = Clock()
    rate = Rate(clock)
    clock.now = 10.0
    assert rate.update(50) == pytest.approx(5.0)  # of a run so short that it is looked at once, too


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0"), (9_999, "9999"), (12_345, "12.3k"), (5_000_000, "5.0M"), (7.25e9, "7.2G")]
)
def test_short_numbers(number: float, said: str) -> None:
    assert short_number(number) == said


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "0s"), (59.6, "1m00s"), (61, "1m01s"), (7322, "2h02m")])
def test_short_times(seconds: float, said: str) -> None:
    assert short_time(seconds) == said


@pytest.mark.parametrize(
    ("usd", "said"), [(None, "price unknown"), (0.0, "$0.0000"), (0.0123, "$0.0123"), (12.3, "$12.30")]
)
def test_money_is_never_invented(usd: float | None, said: str) -> None:
    assert money(usd) == said


def test_text_of_a_model_cannot_command_the_terminal() -> None:
    hostile = "\x1b[2Jall \x07gone\r\n\x9b31m \u202eback\u2066wards\x00"
    shown = plain(hostile)
    assert shown.isprintable()
    assert "all" in shown
    assert plain("naïve 🎈 text") == "naïve 🎈 text"


def test_without_a_terminal_there_are_plain_lines() -> None:
    written: list[str] = []
    lines = Lines(written.append)
    lines.show(VIEW)
    lines.say("stopping")
    lines.close(VIEW)
    lines.close(None)
    assert len(written) == 3
    assert all(line.isprintable() for line in written)


class Terminal(io.StringIO):
    """One that may be closed while it is written to."""

    gone = False

    def write(self, text: str) -> int:
        if self.gone:
            raise OSError(5, "Input/output error")
        return super().write(text)


def test_a_terminal_that_is_closed_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # A window was closed: SIGHUP began the drain, and its first word to the terminal was the end of it.
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    bar = Bar(terminal)
    bar.show(VIEW)
    assert "400/1000" in terminal.getvalue()
    terminal.gone = True
    bar.show(VIEW)
    bar.say("stopping")
    bar.close(VIEW)


def test_members_for_programs() -> None:
    members = as_members(VIEW, 10.0)
    assert (members["done"], members["done_this_run"], members["seconds_left"]) == (400, 300, 60.0)
    assert as_members(View(None, 0, 0, 0, 0, None, 0), 0.0)["cost_usd"] is None
