"""The limits that are enforced at the door: requests and tokens per minute, and requests at a time.

No lock: nothing is awaited between finding room and taking it. What is refused counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.simulator.meters import Bucket, Charge, FixedWindow, Meter, SlidingWindow
from pipeline.simulator.settings import Settings

# How soon a place frees is unknown; one second is the least that Retry-After can say.
_BUSY_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Refusal:
    what: str  # requests, tokens or concurrency
    limit: int
    wait_s: float  # infinite: such a request never fits


class Limits:
    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._start = clock()
        self._changed = settings.change_after_s is None
        self._inside = 0
        self._requests = self._meter(settings.requests_per_minute, settings.requests_per_minute)
        self._tokens = self._meter(settings.tokens_per_minute, settings.requests_per_minute)

    def admit(self, tokens: int) -> Lease | Refusal:
        """``tokens`` is what is known or reserved at the door."""
        now = self._clock()
        self._change(now)
        if (refusal := self._refusal(now, tokens)) is not None:
            return refusal
        self._inside += 1
        if self._requests is not None:
            self._requests.take(now, 1)
        return Lease(self, self._tokens.take(now, tokens) if self._tokens is not None else None)

    def settle(self, charge: Charge | None, tokens: int) -> None:
        if self._tokens is not None and charge is not None:
            self._tokens.correct(self._clock(), charge, tokens)

    def leave(self) -> None:
        self._inside -= 1

    def headers(self) -> dict[str, str]:
        """``x-ratelimit-*`` in OpenAI's spelling; only for limits that there are."""
        now = self._clock()
        told: dict[str, str] = {}
        for what, meter in (("requests", self._requests), ("tokens", self._tokens)):
            if meter is not None:
                told[f"x-ratelimit-limit-{what}"] = str(meter.limit)
                told[f"x-ratelimit-remaining-{what}"] = str(meter.remaining(now))
                told[f"x-ratelimit-reset-{what}"] = go_duration(meter.reset_s(now))
        return told

    def _refusal(self, now: float, tokens: int) -> Refusal | None:
        most = self._settings.concurrency
        if most is not None and self._inside >= most:
            return Refusal("concurrency", most, _BUSY_WAIT_S)
        worst: Refusal | None = None
        for what, meter, amount in (("requests", self._requests, 1), ("tokens", self._tokens, tokens)):
            if meter is not None and (wait_s := meter.wait_s(now, amount)) > (worst.wait_s if worst else 0):
                worst = Refusal(what, meter.limit, wait_s)
        return worst

    def _change(self, now: float) -> None:
        settings = self._settings
        if self._changed or settings.change_after_s is None or now - self._start < settings.change_after_s:
            return
        self._changed = True
        self._requests = self._renewed(now, self._requests, settings.change_requests_per_minute)
        self._tokens = self._renewed(now, self._tokens, settings.change_tokens_per_minute)

    def _renewed(self, now: float, meter: Meter | None, limit: int | None) -> Meter | None:
        if limit is None:
            return meter
        if meter is None:
            return self._meter(limit, self._settings.change_requests_per_minute)
        meter.change(now, limit)
        return meter

    def _meter(self, limit: int | None, requests: int | None) -> Meter | None:
        settings, now = self._settings, self._clock()
        if limit is None:
            return None
        if settings.window == "sliding":
            return SlidingWindow(limit, settings.window_s)
        if settings.window == "fixed":
            return FixedWindow(limit, settings.window_s, now)
        share = min(1.0, settings.burst / requests) if settings.burst and requests else 1.0
        return Bucket(limit, settings.window_s, now, share)


class Lease:
    """A place inside, to be settled at most once and left once."""

    __slots__ = ("_charge", "_limits")

    def __init__(self, limits: Limits, charge: Charge | None) -> None:
        self._limits = limits
        self._charge = charge

    def settle(self, tokens: int) -> None:
        """``tokens`` is what was really used, prompt and completion."""
        self._limits.settle(self._charge, tokens)

    def leave(self) -> None:
        self._limits.leave()


def go_duration(seconds: float) -> str:
    """As OpenAI spells them: ``17ms``, ``1.2s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    spelt = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{minutes:.0f}m{spelt}" if minutes else spelt
