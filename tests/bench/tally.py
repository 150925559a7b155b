"""What the canned server sees: how many requests, how many at once, when, and of which rows.

Replies come in bursts of as many as are in flight, so counting them over a stretch of time is no finer than a burst.
The mean number in flight is: with a fixed latency it is the rate times that latency, whatever the bursts.
"""

from __future__ import annotations

import time
from array import array

_FULL = 0.95
"""Share of the most in flight that counts as all places taken."""


class Tally:
    """Since the last reset. Times are of the monotonic clock, which all processes of a machine share."""

    def __init__(self, *, numbered: bool) -> None:
        self.requests = 0
        self.bytes_in = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.first_s: float | None = None
        self.second_s: float | None = None  # the first request goes alone
        self.last_s: float | None = None  # the last reply left
        self.arrivals = Arrivals() if numbered else None
        self._area = 0.0  # requests in flight times seconds
        self._changed_s = 0.0
        self._climb: list[tuple[int, float, float]] = []  # each new most in flight: when, and the area by then
        self._drawn = (0.0, 0.0)  # the last request so far: when, and the area by then
        self._cpu_before_s = time.process_time()

    def came(self, request: bytes) -> None:
        now = time.monotonic()
        self.requests += 1
        self.bytes_in += len(request)
        if self.first_s is None:
            self.first_s = now
        elif self.second_s is None:
            self.second_s = now
        if self.arrivals is not None:
            self.arrivals.add(request, now)
        self._area += self.in_flight * (now - self._changed_s)
        self._changed_s = now
        self._drawn = (now, self._area)
        self.in_flight += 1
        if self.in_flight > self.most_in_flight:
            self.most_in_flight = self.in_flight
            self._climb.append((self.in_flight, now, self._area))

    def went(self) -> None:
        now = time.monotonic()
        self._area += self.in_flight * (now - self._changed_s)
        self._changed_s = now
        self.in_flight -= 1
        self.last_s = now

    def members(self) -> dict[str, float | None]:
        full_s, mean = self._while_full()
        return {
            "requests": self.requests,
            "bytes_in": self.bytes_in,
            "most_in_flight": self.most_in_flight,
            "mean_in_flight": mean,
            "first_s": self.first_s,
            "second_s": self.second_s,
            "full_s": full_s,
            "last_s": self.last_s,
            "cpu_s": time.process_time() - self._cpu_before_s,
            **({} if self.arrivals is None else self.arrivals.members()),
        }

    def _while_full(self) -> tuple[float | None, float | None]:
        """When all places were taken first, and how many were on average from then to the last request."""
        for in_flight, full_s, area in self._climb:
            if in_flight >= _FULL * self.most_in_flight:
                drawn_s, drawn_area = self._drawn
                return full_s, (drawn_area - area) / (drawn_s - full_s) if drawn_s > full_s else None
        return None, None


class Arrivals:
    """Which row came when. Rows are numbered in the order of the input, and the prompt begins with the number."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._times = array("d")

    def add(self, request: bytes, now: float) -> None:
        begin = request.index(b'"', request.index(b'"content"') + 9) + 1
        self._numbers.append(int(request[begin : request.index(b" ", begin)]))
        self._times.append(now)

    def members(self) -> dict[str, float]:
        """How far behind its turn any row came, at most: how many rows further in the input another one was that had
        come before it, and by how many seconds such a one was earlier."""
        places, seconds, highest = 0, 0.0, -1
        for number in self._numbers:
            highest = max(highest, number)
            places = max(places, highest - number)
        came = dict(zip(self._numbers, self._times, strict=True))
        earliest = float("inf")
        for number in sorted(came, reverse=True):
            seconds = max(seconds, came[number] - earliest)
            earliest = min(earliest, came[number])
        return {"most_overtaken": places, "longest_overtaken_s": seconds}
