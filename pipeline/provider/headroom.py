"""What ``x-ratelimit-*`` headers of good replies say, in all the spellings that were seen.

They are hints and no more: names differ, negative counts and contradictions were observed, and a reset can be a
duration as Go writes it (``6m0s``), a number of seconds, an epoch or a date. What cannot be read says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import isfinite

_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?(?:ms|us|µs|ns|d|h|m|s))+", re.ASCII)
_STEP = re.compile(r"(\d+(?:\.\d*)?)(ms|us|µs|ns|d|h|m|s)")
_LONGEST = 64
"""Characters of a value that are looked at; honest values have less than half of it."""

_EPOCH_S = 1e9
"""A reset above this is a date in seconds, above a thousand times this in milliseconds."""


@dataclass(frozen=True, slots=True)
class Headroom:
    """What is left of an allowance, and in how many seconds it is whole again. None: not said, or not readable."""

    requests: float | None = None
    requests_reset_s: float | None = None
    tokens: float | None = None
    tokens_reset_s: float | None = None


def headroom(headers: Mapping[str, str], wall_s: float) -> Headroom | None:
    """The least that any of the headers leaves; None when there is none. ``wall_s`` is the time as an epoch."""
    names = [name for name in headers if "ratelimit" in name]
    if not names:
        return None
    found: dict[str, float] = {}
    for name in names:
        what = "tokens" if "token" in name else "requests"
        if "remaining" in name:
            value = _number(headers[name])
            if value is not None:
                found[what] = min(found.get(what, float("inf")), max(value, 0.0))
        elif "reset" in name:
            value = seconds(headers[name], wall_s)
            if value is not None:
                key = what + "_reset_s"
                found[key] = max(found.get(key, 0.0), value)
    return Headroom(
        found.get("requests"), found.get("requests_reset_s"), found.get("tokens"), found.get("tokens_reset_s")
    )


def seconds(text: str, wall_s: float) -> float | None:
    """A reset as seconds from now, never negative; None when it cannot be read."""
    text = text.strip()[:_LONGEST]
    number = _number(text)
    if number is not None:
        if number > _EPOCH_S * 1000:
            number = number / 1000
        return max(number - wall_s if number > _EPOCH_S else number, 0.0)
    if _DURATION.fullmatch(text):
        total = sum(float(count) * _UNITS_S[unit] for count, unit in _STEP.findall(text))
        return total if isfinite(total) else None
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    # A date without a zone could be any of 24; it says nothing.
    return None if date.tzinfo is None else max(date.timestamp() - wall_s, 0.0)


def _number(text: str) -> float | None:
    try:
        value = float(text.strip()[:_LONGEST])
    except ValueError:
        return None
    return value if isfinite(value) else None


SLOWEST = 0.5
"""Share of the going rate that hints leave at least: they slow down and never stall."""

LONGEST_HINT_S = 10.0
SPENT = 1.0
"""Calls left below which any reset is taken at its word."""

_WATCHED_S = 2.0
"""Resets are rounded to seconds; over less time than this nothing can be said about how they move."""

LIES = 3
"""So often may more have passed than was said to be left; then the headers are not read any more."""


class Hint:
    """A slower rate for a moment, because headers said that little is left.

    What is left must last until the reset only where the reset is a moment that comes nearer (a window that starts with
    the clock's minute). A sliding window and a bucket give back all the time: their reset stays a minute, or a second,
    away, and at the allowed rate hardly anything is ever left. Slowing down for that would halve the rate for nothing.
    """

    __slots__ = ("_base", "_end_s", "_left", "_lies", "_nears", "_seen_s", "_sent", "believed", "per_s", "until_s")

    def __init__(self) -> None:
        self.per_s = 0.0
        self.until_s = float("-inf")
        self.believed = True
        self._base = 0.0
        self._left = 0.0
        self._sent = 0
        self._lies = 0
        self._seen_s: float | None = None  # when the reset was last compared
        self._end_s = 0.0  # the moment of the reset, as told then
        self._nears = False

    def told(self, now: float, room: Headroom, going_per_s: float, tokens_per_call: float | None) -> None:
        """``going_per_s`` is the rate of calls at present."""
        if not self.believed or now < self.until_s or going_per_s <= 0:
            return
        left, reset_s = _least(room, tokens_per_call)
        nears = self._watch(now, now + reset_s)
        if left >= going_per_s * reset_s or (left >= SPENT and not nears):
            self._base = 0.0
            return
        # A slow-down that follows another must not start from the slowed rate.
        self._base = max(going_per_s, self._base)
        self.per_s = max(left / reset_s, SLOWEST * self._base)
        self.until_s = now + min(reset_s, LONGEST_HINT_S)
        self._left, self._sent = left, 0

    def _watch(self, now: float, end_s: float) -> bool:
        """Whether the reset has come nearer by at least half of the time that passed."""
        if self._seen_s is None:
            self._seen_s, self._end_s = now, end_s
        passed_s = now - self._seen_s
        if passed_s >= _WATCHED_S:
            self._nears = end_s - self._end_s <= passed_s / 2
            self._seen_s, self._end_s = now, end_s
        return self._nears

    def sent(self, now: float) -> None:
        if now >= self.until_s:
            return
        self._sent += 1
        if self._sent > 2 + 1.2 * self._left:
            self._lies += 1
            self._sent = 0
            self.believed = self._lies < LIES
            self.until_s = now

    def refused(self) -> None:
        """It may have been right."""
        self._lies = 0


def _least(room: Headroom, tokens_per_call: float | None) -> tuple[float, float]:
    """Calls left and the seconds they must last: the tighter of requests and tokens."""
    tightest = (float("inf"), 1.0)
    if room.requests is not None:
        tightest = (room.requests, max(room.requests_reset_s or 1.0, 1.0))
    if room.tokens is not None and tokens_per_call:
        calls, reset_s = room.tokens / tokens_per_call, max(room.tokens_reset_s or 1.0, 1.0)
        if calls / reset_s < tightest[0] / tightest[1]:
            tightest = (calls, reset_s)
    return tightest
