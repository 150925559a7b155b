"""Refusals that come whatever we do: one call in twenty answered 429, because behind a gateway something is short.

Slowing down is right when a limit refuses, and ruin when nothing of the sort does: each refusal takes its share of the
pace, and at one in twenty a job of an hour would take a week. The two look alike one by one. But a limit that was
found refuses no more until somebody goes faster. Where several lessons in a row came each at a slower pace than the one
before, and as many calls are refused as ever, slowing down changed nothing: then so many refusals teach nothing any
more, and what the lessons took is given back, a step for each further refusal that is no more than noise.

That may be a mistake, too. It shows after a step, by more refusals than before, or by none after the next lesson. Then
what is left to give back is forgotten: a pace that is too slow is regained in time, while an endpoint that is pushed
against its limit again and again may shut us out. So where far more than one call in ten is refused a job stays slow.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

LESSONS = 5
"""Lessons in a row, none at a faster pace than the one before, that make refusals look like noise..."""

FAR_BELOW = 0.8
"""... and the last so much slower than it was before all: round a steady limit they come close together..."""

MOST = 0.25
"""... unless a larger share of the calls is refused: then something is exhausted..."""

AS_MANY = (0.6, 3.0)
"""... or slowing down helps, or a limit has just fallen: so many times as many calls are refused as before."""

SPAN = 60
"""Over so many calls refusals are counted, to see whether they are more than noise."""

TOLERANCE = 1.75
_SLACK = 3
"""So many times as many refusals as are expected, and some more, are still noise."""

STEP = 1.5
"""What is given back at once."""

_STEP_CALLS = 10
_GONE = 6.0
"""So many times the usual distance without a refusal: the noise is over."""

_NONE = 3.0
"""... and after a lesson that noise did not explain, so many: there was none."""


class Pace(NamedTuple):
    """How fast calls went: per second (``limited``: by a rate that was found) and in flight at once."""

    per_s: float
    limited: bool
    size: float
    doubling: bool

    def is_above(self, other: Pace) -> bool:
        """Faster in one way at least."""
        return self._limit > other._limit or self.size > other.size

    def is_far_below(self, other: Pace) -> bool:
        """Both as fast as they come are equally fast, whatever went."""
        return (self.limited and self.per_s <= FAR_BELOW * other.per_s) or self.size <= FAR_BELOW * other.size

    def or_above(self, other: Pace) -> Pace:
        """The faster of both, in either way."""
        return Pace(
            max(self.per_s, other.per_s),
            self.limited and other.limited,
            max(self.size, other.size),
            self.doubling or other.doubling,
        )

    def step_to(self, top: Pace) -> Pace:
        """Some way up to ``top``, and never down."""
        if self.per_s >= top.per_s / STEP and self.size >= top.size / STEP:
            return self.or_above(top)
        per_s = max(self.per_s, min(STEP * self.per_s, top.per_s))
        return Pace(per_s, self.limited, max(self.size, min(STEP * self.size, top.size)), False)

    @property
    def _limit(self) -> float:
        return self.per_s if self.limited else float("inf")


class _Lesson(NamedTuple):
    pace: Pace
    number: int  # of the refused call
    refused: int  # calls up to then


class Noise:
    """Knows no clock: it counts calls."""

    __slots__ = ("_lessons", "_numbers", "_patience", "_refused", "_sent", "_stepped", "_top", "share")

    def __init__(self) -> None:
        self.share = 0.0
        """Of all calls, that are refused for nothing that we do; 0: none are."""
        self._sent = 0
        self._refused = 0
        self._numbers: deque[int] = deque(maxlen=SPAN)  # of the calls that were refused last
        self._patience = _GONE
        self._top: Pace | None = None  # before the lessons: what is to be given back, should they be none
        self._stepped = 0  # number of the call at the last step
        self._lessons: deque[_Lesson] = deque(maxlen=LESSONS)  # the last of the row

    def sent(self) -> int:
        """One more call; gives its number."""
        self._sent += 1
        return self._sent

    def refused(self, number: int) -> bool:
        """The call of that number was. True: that is noise, and teaches nothing."""
        if self.share and self._numbers and number - self._numbers[-1] > self._patience / self.share:
            self.share = 0.0
            self._lessons.clear()
        self._refused += 1
        self._numbers.append(number)
        self._patience = _GONE
        if not self.share:
            return False
        lately = sum(number - SPAN < one <= number for one in self._numbers)
        if lately <= TOLERANCE * self.share * SPAN + _SLACK:
            return True
        self._patience, self._top = _NONE, None
        self._lessons.clear()
        return False

    def lesson(self, number: int, pace: Pace) -> bool:
        """Its refusal is about to make calls slower than ``pace``. True: that has proved to change nothing."""
        if self._lessons and pace.is_above(self._lessons[-1].pace):
            self._lessons.clear()
        self._top = pace if self._top is None else pace.or_above(self._top)
        self._lessons.append(_Lesson(pace, number, self._refused))
        if len(self._lessons) < LESSONS or not pace.is_far_below(self._top):
            return False
        first, middle, last = self._lessons[0], self._lessons[LESSONS // 2], self._lessons[-1]
        before, after = _share(first, middle), _share(middle, last)
        if max(before, after) > MOST or not AS_MANY[0] * before <= after <= AS_MANY[1] * before:
            return False
        self.share = _share(first, last)
        self._stepped = number
        self._lessons.clear()
        return True

    def back(self, number: int, pace: Pace) -> Pace | None:
        """After a refusal that was noise: the next step back, None when there is none to take."""
        if self._top is None or number - self._stepped < _STEP_CALLS:
            return None
        self._stepped = number
        step = pace.step_to(self._top)
        if step.per_s >= self._top.per_s and step.size >= self._top.size:
            self._top = None
        return step


def _share(begin: _Lesson, end: _Lesson) -> float:
    return (end.refused - begin.refused) / max(1, end.number - begin.number)
