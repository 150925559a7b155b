"""Three ways in which providers count what they allow per minute. Times are seconds of the caller's clock."""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

# Sums of floats miss their mark by less than this, and no client waits so exactly.
_HAIR_S = 1e-9


class Charge:
    """An amount taken from a meter, until it is corrected by what was really used."""

    __slots__ = ("amount", "at")

    def __init__(self, at: float, amount: int) -> None:
        self.at = at
        self.amount = amount


class Meter(Protocol):
    limit: int

    def wait_s(self, now: float, amount: int) -> float:
        """Until ``amount`` fits, if nothing else is taken meanwhile. 0: it fits now; infinite: it never will."""

    def take(self, now: float, amount: int) -> Charge: ...

    def correct(self, now: float, charge: Charge, amount: int) -> None:
        """``amount`` was really used: less is given back to when it was taken, more is taken now."""

    def remaining(self, now: float) -> int: ...

    def reset_s(self, now: float) -> float:
        """Until the whole allowance is there again."""

    def change(self, now: float, limit: int) -> None: ...


class SlidingWindow:
    """At most ``limit`` in any stretch of ``window_s``."""

    def __init__(self, limit: int, window_s: float) -> None:
        self.limit = limit
        self._window_s = window_s
        self._charges: deque[Charge] = deque()
        self._used = 0

    def wait_s(self, now: float, amount: int) -> float:
        self._forget(now)
        over = self._used + amount - self.limit
        if over <= 0:
            return 0.0
        if amount > self.limit:
            return math.inf
        for charge in self._charges:
            over -= charge.amount
            if over <= 0:
                return charge.at + self._window_s - now
        return self._window_s

    def take(self, now: float, amount: int) -> Charge:
        charge = Charge(now, amount)
        self._charges.append(charge)
        self._used += amount
        return charge

    def correct(self, now: float, charge: Charge, amount: int) -> None:
        if amount > charge.amount:
            self.take(now, amount - charge.amount)
        elif charge.at + self._window_s > now + _HAIR_S:
            self._used -= charge.amount - amount
            charge.amount = amount

    def remaining(self, now: float) -> int:
        self._forget(now)
        return max(0, self.limit - self._used)

    def reset_s(self, now: float) -> float:
        self._forget(now)
        return self._charges[-1].at + self._window_s - now if self._charges else 0.0

    def change(self, now: float, limit: int) -> None:
        self.limit = limit

    def _forget(self, now: float) -> None:
        charges, horizon = self._charges, now - self._window_s + _HAIR_S
        while charges and charges[0].at <= horizon:
            self._used -= charges.popleft().amount


class FixedWindow:
    """At most ``limit`` between two strokes of the clock; twice as much around a stroke."""

    def __init__(self, limit: int, window_s: float, now: float) -> None:
        self.limit = limit
        self._window_s = window_s
        self._start = now
        self._used = 0

    def wait_s(self, now: float, amount: int) -> float:
        self._turn(now)
        if self._used + amount <= self.limit:
            return 0.0
        return math.inf if amount > self.limit else self.reset_s(now)

    def take(self, now: float, amount: int) -> Charge:
        self._turn(now)
        self._used += amount
        return Charge(now, amount)

    def correct(self, now: float, charge: Charge, amount: int) -> None:
        self._turn(now)
        if amount > charge.amount or charge.at >= self._start:
            self._used += amount - charge.amount

    def remaining(self, now: float) -> int:
        self._turn(now)
        return max(0, self.limit - self._used)

    def reset_s(self, now: float) -> float:
        self._turn(now)
        return self._start + self._window_s - now

    def change(self, now: float, limit: int) -> None:
        self.limit = limit

    def _turn(self, now: float) -> None:
        windows = math.floor((now - self._start + _HAIR_S) / self._window_s)
        if windows > 0:
            self._start += windows * self._window_s
            self._used = 0


class Bucket:
    """Filled at ``limit`` per ``window_s`` up to ``share`` of the limit, which is all that may come in a burst."""

    def __init__(self, limit: int, window_s: float, now: float, share: float) -> None:
        self.limit = limit
        self._window_s = window_s
        self._share = share
        self._at = now
        self._level = self._size

    @property
    def _size(self) -> float:
        return max(1.0, self.limit * self._share)

    def wait_s(self, now: float, amount: int) -> float:
        self._fill(now)
        if amount > self._size + _HAIR_S:
            return math.inf
        lacking = amount - self._level
        return 0.0 if lacking <= _HAIR_S else lacking * self._window_s / self.limit

    def take(self, now: float, amount: int) -> Charge:
        self._fill(now)
        self._level -= amount
        return Charge(now, amount)

    def correct(self, now: float, charge: Charge, amount: int) -> None:
        self._fill(now)
        self._level = min(self._size, self._level + charge.amount - amount)

    def remaining(self, now: float) -> int:
        self._fill(now)
        return max(0, math.floor(self._level + _HAIR_S))

    def reset_s(self, now: float) -> float:
        self._fill(now)
        return (self._size - self._level) * self._window_s / self.limit

    def change(self, now: float, limit: int) -> None:
        self._fill(now)
        self.limit = limit
        self._level = min(self._level, self._size)

    def _fill(self, now: float) -> None:
        self._level = min(self._size, self._level + (now - self._at) * self.limit / self._window_s)
        self._at = now
