"""Finding limits that nobody told: how many calls at once, and how many per second.

Both are found by going up until the endpoint objects, going down at once, and going up again, shared by all workers.

* ``Window`` is the number of calls in flight. It doubles per round trip until the first trouble; afterwards it is cut
  once per round trip (the echoes of calls that were under way are ignored) and climbs back. It is also cut when
  answers take several times as long as with fewer in flight.
* ``Rate`` is calls per second. The first refusal shows what passes. An allowance that is found exhausted twice has
  let through exactly its rate in between, so that quotient is what we keep to. When the endpoint stays shut for many
  seconds it counts by the minute, and what passed in the last minute is the allowance.
* ``Climb`` is the way up for both: hold still, then faster and faster, as CUBIC does round its last good value. So a
  steady limit is seldom touched, and a limit that doubled is found in about 20 s.
"""

from __future__ import annotations

from math import exp

HOLD_S = 5.0
"""How long to stay at a value that was just learned."""

DOUBTFUL_S = 14.0
"""How far up the climb to begin from a value that is rather too low, because it was measured over a long pause."""

FASTEST = 0.2
"""Relative growth per second at most."""

CALM_S = 3.0
"""Refusals closer together than this belong to one trouble: the guess was much too high."""

RECENT = 0.8
"""Share of the rate just before a refusal that is taken for granted; the rest may have come out of a bucket."""

SLIP_S = 10.0
"""Refusals under configured limits further apart than this change nothing."""

KEEP = 0.97
"""Share of a learned rate that is aimed at: the way there jitters, and so does the measurement."""

_ENOUGH = 10
"""Calls that make a measurement."""

_SLICES_PER_S = 4
_SLICES = 512
"""Two minutes in quarters of a second: a minute, and what a pause of a minute hides."""


class Climb:
    """Relative growth that starts at nothing and gets faster, by time, or by calls where these are few."""

    __slots__ = ("_age_s", "_last")

    def __init__(self) -> None:
        self._age_s = 0.0
        self._last = 0.0

    def restart(self, now: float, age_s: float = 0.0) -> None:
        """``age_s``: how far up the way to begin; zero is at the hold."""
        self._age_s = age_s
        self._last = now

    def factor(self, now: float) -> float:
        """What to multiply by for one more call that was held back by the value."""
        # A tenth of a second per call at most: probing costs a refusal, which must stay rare among few calls.
        step_s = min(max(now - self._last, 0.0), 0.1)
        self._last = now
        self._age_s += step_s
        if self._age_s <= HOLD_S:
            return 1.0
        return 1.0 + step_s * min(FASTEST, 0.005 * exp(0.2 * (self._age_s - HOLD_S)))


class Sent:
    """How many calls were sent and not refused, by the time they were sent."""

    __slots__ = ("_counts", "_stamps", "first_s")

    def __init__(self) -> None:
        self._counts = [0] * _SLICES
        self._stamps = [-1] * _SLICES
        self.first_s: float | None = None

    def add(self, now: float) -> None:
        if self.first_s is None:
            self.first_s = now
        slice_ = int(now * _SLICES_PER_S)
        at = slice_ % _SLICES
        if self._stamps[at] != slice_:
            self._stamps[at] = slice_
            self._counts[at] = 0
        self._counts[at] += 1

    def take_back(self, sent_s: float) -> None:
        slice_ = int(sent_s * _SLICES_PER_S)
        if self._stamps[slice_ % _SLICES] == slice_:
            self._counts[slice_ % _SLICES] -= 1

    def between(self, start_s: float, end_s: float) -> float:
        """Calls in the span; slices at its edges count in proportion."""
        total = 0.0
        first, last = int(start_s * _SLICES_PER_S), int(end_s * _SLICES_PER_S)
        for slice_ in range(max(first, last - _SLICES + 1), last + 1):
            if self._stamps[slice_ % _SLICES] != slice_:
                continue
            begin = slice_ / _SLICES_PER_S
            share = min(end_s, begin + 1 / _SLICES_PER_S) - max(start_s, begin)
            total += self._counts[slice_ % _SLICES] * min(1.0, max(0.0, share * _SLICES_PER_S))
        return total

    def per_s(self, now: float, at_least_s: float) -> float:
        """The rate at present: over the span given, or over a longer one that has enough calls to measure by."""
        age_s = 0.25 if self.first_s is None else max(now - self.first_s, 0.25)
        span_s = min(at_least_s, age_s)
        while (count := self.between(now - span_s, now)) < _ENOUGH and span_s < min(age_s, 60.0):
            span_s = min(2 * span_s, age_s, 60.0)
        return count / span_s


class Rate:
    """Calls per second that seem to pass; None until the first refusal. ``known``: limits are configured, so that a
    refusal is rather a slip than news."""

    __slots__ = (
        "_climb",
        "_cut_s",
        "_doubtful",
        "_full_s",
        "_last_minute",
        "_look_s",
        "_minute",
        "_opened_s",
        "known",
        "per_s",
        "sent",
    )

    def __init__(self, *, known: bool = False) -> None:
        self.known = known
        self.per_s: float | None = None
        self.sent = Sent()
        self._climb = Climb()
        self._cut_s = float("-inf")
        self._full_s: float | None = None  # when the allowance was last seen exhausted
        self._minute: float | None = None  # calls that a minute lets through, when it is known to count by the minute
        self._look_s = 0.0
        self._last_minute = 0.0
        self._opened_s = float("-inf")  # when the last pause ended
        self._doubtful = False

    def climb(self, now: float) -> None:
        """A call was held back by this rate alone: try a little more."""
        if self.per_s is None:
            return
        self.per_s *= self._climb.factor(now)
        if self._minute is not None:
            self._near_the_wall(now, self._minute)

    def refused(self, now: float, sent_s: float) -> None:
        """Learn from a refusal, unless it is the echo of a call sent before the last lesson."""
        if sent_s < self._cut_s:
            return
        last, self._cut_s = self._full_s, now
        if self.per_s is None and self.sent.per_s(now, 2.0) == 0.0:
            return  # nothing has passed yet, which tells no rate
        # Under configured limits one refusal now and then is a slip: the way jitters, and lengths are guesses.
        if not self.known or (last is not None and now - last < SLIP_S):
            self._settle(now, self._passes(now))
        self._full_s = now
        if self._minute is not None:
            self._minute = min(self._minute, self.sent.between(now - 60.0, now))

    def reopened(self, now: float, last_refusal_s: float) -> None:
        """The endpoint was shut for many seconds, so it counts by the minute: what passed in one is the allowance."""
        # It opened at some time since the last refusal; half of that (if short) is added to the minute.
        doubt_s = min(now - last_refusal_s, 4.0) / 2
        passed = self.sent.between(now - 60.0 - doubt_s, now)
        if passed >= 1.0:
            self._settle(now, passed / 60.0)
            self._minute = passed
        self._cut_s = self._full_s = now

    def restore(self, now: float, per_s: float | None) -> None:
        """What refusals since then have taught was no lesson."""
        self.per_s = None if per_s is None else max(per_s, 1 / 60)
        self._full_s = self._minute = None
        self._climb.restart(now)

    def opened(self, now: float) -> None:
        """A pause is over: start the hold from here, and take what was sent before for echoes."""
        self._climb.restart(now, DOUBTFUL_S if self._doubtful else 0.0)
        self._doubtful = False
        self._cut_s = max(self._cut_s, now)
        self._opened_s = now

    def _near_the_wall(self, now: float, minute: float) -> None:
        """A minute's allowance gives no sign until it is used up, and then refuses all under way: come slowly."""
        assert self.per_s is not None
        if now - self._look_s >= 0.5:
            self._look_s = now
            self._last_minute = self.sent.between(now - 60.0, now)
        if self._last_minute > 1.03 * minute:
            self._minute = None  # it has grown
        elif self._last_minute > 0.97 * minute:
            self.per_s = min(self.per_s, 1.2 * minute / 60)

    def _passes(self, now: float) -> float:
        """Calls per second that the endpoint lets through, as far as a refusal now can tell."""
        since = self._full_s
        if since is not None and CALM_S <= now - since <= 120.0:
            passed = self.sent.between(since, now)
            if passed >= _ENOUGH:
                # While calls waited a small bucket was full, and what it would have got was lost to the count.
                self._doubtful = self._opened_s - since > (now - since) / 4
                # Far more of late than on the whole: the allowance has grown in between.
                return max(passed / (now - since), RECENT * self.sent.per_s(now, 2.0))
        if self.per_s is not None:
            return self.per_s * (0.75 if since is not None and now - since < CALM_S else 0.95) / KEEP
        going = self.sent.per_s(now, 2.0)
        return going * 0.95 / KEEP if self.known else going

    def _settle(self, now: float, passes: float) -> None:
        new = max(passes * KEEP, 1 / 60)
        self.per_s = new if self.per_s is None else min(new, self.per_s * 0.98)
        self._climb.restart(now)


class Window:
    """Calls in flight at once, between 1 and ``most``."""

    __slots__ = (
        "_best_at",
        "_best_s",
        "_climb",
        "_cut_s",
        "_latencies",
        "_look_s",
        "_looks_left",
        "_suspect_per_s",
        "doubling",
        "most",
        "size",
    )

    def __init__(self, most: int, start: int) -> None:
        self.most = most
        self.size = float(min(start, most))
        self.doubling = start < most
        self._climb = Climb()
        self._cut_s = float("-inf")
        self._latencies: list[float] = []
        self._best_s = 0.0  # shortest median seen; 0 before the first
        self._best_at = 0.0  # the size it was seen at
        self._look_s = float("-inf")  # when latency was last looked at
        self._looks_left = 0  # until the effect of a cut is judged
        self._suspect_per_s = 0.0  # answers per second before that cut

    def succeeded(self, now: float, in_flight: int, latency_s: float) -> None:
        """One good reply; ``in_flight`` is the number before it came."""
        self._latencies.append(latency_s)
        if len(self._latencies) >= max(20, int(self.size) // 2) and now - self._look_s >= latency_s:
            self._look_at_latency(now)
        if self.size < self.most and in_flight >= int(self.size):
            grown = self.size + 1.0 if self.doubling else self.size * self._climb.factor(now)
            self.size = min(grown, float(self.most))

    def refused(self, now: float, sent_s: float, in_flight: int) -> None:
        """429: this many at once may be too many. Echoes change nothing."""
        if sent_s >= self._cut_s:
            soon = now - self._cut_s < CALM_S
            self._cut(now, min(self.size, in_flight) * (0.75 if self.doubling or soon else 0.95) - 0.5)

    def overloaded(self, now: float, sent_s: float) -> None:
        """503, 529: the endpoint cannot keep up. Echoes change nothing."""
        if sent_s >= self._cut_s:
            self._cut(now, self.size * 0.75)

    def restart(self, now: float) -> None:
        """After an outage: not everything at once."""
        self._cut(now, min(self.size, 8.0))
        self.doubling = self.size < self.most

    def opened(self, now: float) -> None:
        """A pause is over: what was sent before is an echo."""
        self._climb.restart(now)
        self._cut_s = max(self._cut_s, now)

    def restore(self, now: float, size: float, *, doubling: bool) -> None:
        """What refusals since then have taught was no lesson."""
        self.size, self.doubling = size, doubling
        self._climb.restart(now)

    def _cut(self, now: float, size: float) -> None:
        self.size = max(1.0, min(size, float(self.most)))
        self.doubling = False
        self._cut_s = now
        self._climb.restart(now)

    def _look_at_latency(self, now: float) -> None:
        """Once per round trip: do answers take longer because there are so many in flight?"""
        per_s = len(self._latencies) / (now - self._look_s) if now > self._look_s else 0.0
        median_s = sorted(self._latencies)[len(self._latencies) // 2]
        self._latencies.clear()
        self._look_s = now
        if self._looks_left:
            self._looks_left -= 1
            if self._looks_left == 0 and per_s < 0.9 * self._suspect_per_s:
                # Fewer in flight, and fewer answers: they are longer by themselves, it was not us.
                self._best_s, self._best_at, self.doubling = median_s, self.size, self.size < self.most
        elif self._best_s == 0.0 or median_s <= self._best_s:
            self._best_s, self._best_at = median_s, self.size
        # While doubling, what is measured is a round trip behind.
        elif median_s > (2.0 if self.doubling else 3.0) * self._best_s and self.size > 1.5 * self._best_at:
            self._cut(now, max(self._best_at, self.size * 0.75))
            self._suspect_per_s, self._looks_left = per_s, 2  # the first look still sees what was sent before
