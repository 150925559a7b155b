from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.provider.headroom import LIES, SLOWEST, Headroom, Hint, headroom, seconds

WALL_S = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("20ms", 0.02),
        ("59", 59.0),
        ("-3", 0.0),
        ("1700000030", 30.0),
        ("1700000030000", 30.0),
        ("2023-11-14T22:13:50+00:00", 30.0),
        ("2023-11-14T22:13:50Z", 30.0),
        ("2023-11-14T22:13:50", None),
        ("1600000000", 0.0),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("6m0", None),
        ("1e999", None),
    ],
)
def test_a_reset_is_read_in_every_spelling_that_was_seen(text: str, expected: float | None) -> None:
    assert seconds(text, WALL_S) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"content-type": "application/json"}, None),
        (
            {"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1s"},
            Headroom(requests=59, requests_reset_s=1),
        ),
        (
            {"x-ratelimit-remaining-tokens": "-10", "x-ratelimit-reset-tokens": "6m0s"},
            Headroom(tokens=0, tokens_reset_s=360),
        ),
        ({"x-ratelimit-api_key-remaining-requests": "7"}, Headroom(requests=7)),
        ({"llm_provider-x-ratelimit-remaining-tokens": "8"}, Headroom(tokens=8)),
        ({"anthropic-ratelimit-input-tokens-remaining": "9"}, Headroom(tokens=9)),
        (
            {"x-ratelimit-remaining-requests": "5", "x-ratelimit-api_key-remaining-requests": "3"},
            Headroom(requests=3),
        ),
        ({"x-ratelimit-remaining-requests": "many", "x-ratelimit-limit-requests": "100"}, Headroom()),
    ],
)
def test_headers_of_many_names_become_one_headroom(headers: dict[str, str], expected: Headroom | None) -> None:
    assert headroom(headers, WALL_S) == expected


@given(
    st.dictionaries(
        st.sampled_from(["x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", "ratelimit-reset-tokens"]),
        st.text(max_size=200),
    )
)
def test_no_header_whatsoever_is_an_exception_or_negative(headers: dict[str, str]) -> None:
    room = headroom(headers, WALL_S)
    for value in (None,) if room is None else (room.requests, room.requests_reset_s, room.tokens, room.tokens_reset_s):
        assert value is None or 0 <= value < float("inf")


def test_a_hint_slows_down_for_a_moment_and_never_below_half() -> None:
    hint = Hint()
    hint.told(0.0, Headroom(requests=0, requests_reset_s=360), 50.0, None)
    assert hint.per_s == SLOWEST * 50
    assert hint.until_s <= 10
    hint.told(hint.until_s, Headroom(requests=0, requests_reset_s=360), 25.0, None)
    assert hint.per_s == SLOWEST * 50, "slowing down must not compound"


def test_a_hint_never_speeds_up() -> None:
    hint = Hint()
    hint.told(0.0, Headroom(requests=10_000, requests_reset_s=1), 50.0, None)
    assert hint.until_s <= 0


def test_headers_that_lie_are_not_read_any_more() -> None:
    hint = Hint()
    now = 0.0
    for _ in range(LIES):
        hint.told(now, Headroom(tokens=0, tokens_reset_s=360), 50.0, 100.0)
        assert hint.until_s > now
        for _ in range(5):
            hint.sent(now)
        now += 20
    hint.told(now, Headroom(tokens=0, tokens_reset_s=360), 50.0, 100.0)
    assert hint.until_s < now


def test_what_is_left_must_last_until_a_reset_that_comes_nearer() -> None:
    hint = Hint()
    for now in (0.0, 3.0):
        hint.told(now, Headroom(requests=100, requests_reset_s=40 - now), 50.0, None)
    assert hint.until_s > 3.0
    assert hint.per_s == SLOWEST * 50


@pytest.mark.parametrize("reset_s", [60.0, 1.0])
def test_a_reset_that_stays_away_slows_nobody_down(reset_s: float) -> None:
    """A sliding window said that 20 calls were left and all would be back in 60 s: half of it lay idle for that."""
    hint = Hint()
    for now in range(100):
        hint.told(float(now), Headroom(requests=20, requests_reset_s=reset_s), 50.0, None)
        assert hint.until_s <= now
