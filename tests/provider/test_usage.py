from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.provider import usage
from pipeline.records import NO_USAGE, Usage


def reply(**counters: Any) -> dict[str, Any]:
    return {"usage": counters}


@pytest.mark.parametrize(
    ("json", "expected"),
    [
        (reply(prompt_tokens=4, completion_tokens=946, total_tokens=950), Usage(4, 946, 950)),
        (reply(input_tokens=4, output_tokens=9), Usage(4, 9)),
        (
            {"usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 9, "totalTokenCount": 20}},
            Usage(4, 9, 20),
        ),
        (reply(prompt_tokens=1, thoughtsTokenCount=7, cachedContentTokenCount=3), Usage(1, None, None, 3, 7)),
        (
            reply(
                prompt_tokens_details={"cached_tokens": 3, "audio_tokens": 0},
                completion_tokens_details={"reasoning_tokens": 8},
            ),
            Usage(None, None, None, 3, 8),
        ),
        (
            reply(input_tokens_details={"cached_tokens": 0}, output_tokens_details={"reasoning_tokens": 2}),
            Usage(None, None, None, 0, 2),
        ),
        (reply(prompt_cache_hit_tokens=64, prompt_tokens_details={"cached_tokens": 0}), Usage(cached_tokens=64)),
        (reply(cache_read_input_tokens=5), Usage(cached_tokens=5)),
    ],
)
def test_every_dialect_is_read(json: Any, expected: Usage) -> None:
    assert usage.read(json) == expected


def test_of_a_counter_told_twice_the_one_that_is_not_zero_wins() -> None:
    told = reply(prompt_tokens=4, completion_tokens=0, input_tokens=0, output_tokens=9, input_tokens_details=None)
    assert usage.read(told) == Usage(4, 9)


def test_a_reported_zero_is_zero_and_an_unreported_counter_is_unknown() -> None:
    assert usage.read(reply(prompt_tokens=0)) == Usage(prompt_tokens=0)


def test_a_total_that_does_not_add_up_is_kept_as_reported() -> None:
    assert usage.read(reply(prompt_tokens=4, completion_tokens=9, total_tokens=99)).total_tokens == 99
    assert usage.read(reply(prompt_tokens=4, completion_tokens=9)).total_tokens is None


@pytest.mark.fault("B14")
@pytest.mark.parametrize("bad", [None, -1, "12", 12.0, 12.5, True, [], {}, 2**63, float("nan")])
def test_what_is_no_count_is_not_reported(bad: Any) -> None:
    json = reply(
        prompt_tokens=bad,
        completion_tokens=bad,
        total_tokens=bad,
        prompt_tokens_details=bad,
        completion_tokens_details={"reasoning_tokens": bad},
    )
    assert usage.read(json) == NO_USAGE


@pytest.mark.fault("B14")
@pytest.mark.parametrize("json", [None, [], "x", 3, {}, {"usage": None}, {"usage": []}, {"usage": "10"}])
def test_a_reply_without_usage_has_none(json: Any) -> None:
    assert usage.read(json) == NO_USAGE


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner)))
def test_nothing_makes_it_raise(value: Any) -> None:
    names = (*usage._PROMPT, *usage._PROMPT_DETAILS, *usage._COMPLETION_DETAILS, *usage._CACHED)
    assert isinstance(usage.read({"usage": dict.fromkeys(names, value)}), Usage)
    assert isinstance(usage.read(value), Usage)
