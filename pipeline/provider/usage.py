"""Token counts out of any reply, whatever its dialect.

A counter is an integer of 0 or more that a 64-bit column can hold; anything else (text, floats, booleans, negatives)
counts as not reported. Gateways repeat one counter under two names and leave one at 0: the one that is not 0 wins.
"""

from __future__ import annotations

from typing import Any

from pipeline.records import NO_USAGE, Usage

_LARGEST = 2**63 - 1
_PROMPT = ("prompt_tokens", "input_tokens", "promptTokenCount")
_COMPLETION = ("completion_tokens", "output_tokens", "candidatesTokenCount")
_TOTAL = ("total_tokens", "totalTokenCount")
_PLAIN = frozenset(_PROMPT + _COMPLETION + _TOTAL)
_PROMPT_DETAILS = ("prompt_tokens_details", "input_tokens_details")
_COMPLETION_DETAILS = ("completion_tokens_details", "output_tokens_details")
_CACHED = (
    "prompt_cache_hit_tokens",  # DeepSeek
    "cache_read_input_tokens",  # Anthropic
    "cachedContentTokenCount",  # Gemini
    "cached_tokens",  # Moonshot
)
_REASONING = ("reasoning_tokens", "thoughtsTokenCount")


def read(json: Any) -> Usage:
    """The usage a reply (good or bad) reports. Never raises."""
    if type(json) is not dict:
        return NO_USAGE
    counters = json.get("usage")
    if type(counters) is not dict:
        counters = json.get("usageMetadata")
        if type(counters) is not dict:
            return NO_USAGE
    cached = reasoning = None
    if not _PLAIN.issuperset(counters):
        cached = _detail(counters, _PROMPT_DETAILS, ("cached_tokens",), _CACHED)
        reasoning = _detail(counters, _COMPLETION_DETAILS, ("reasoning_tokens",), _REASONING)
    return Usage(_count(counters, _PROMPT), _count(counters, _COMPLETION), _count(counters, _TOTAL), cached, reasoning)


def _count(counters: dict[str, Any], names: tuple[str, ...]) -> int | None:
    found: int | None = None
    for name in names:
        value = counters.get(name)
        # `type is int`: a bool is no count
        if type(value) is int and 0 <= value <= _LARGEST:
            if value:
                return value
            found = 0
    return found


def _detail(
    counters: dict[str, Any], groups: tuple[str, ...], names: tuple[str, ...], elsewhere: tuple[str, ...]
) -> int | None:
    found: int | None = None
    for group in groups:
        details = counters.get(group)
        if type(details) is dict:
            value = _count(details, names)
            if value:
                return value
            found = value if found is None else found
    value = None if counters.keys().isdisjoint(elsewhere) else _count(counters, elsewhere)
    return found if value is None else value
