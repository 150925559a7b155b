"""Who of several processes may take how much of the run's limits. Arithmetic: no clock, no line.

The division is that of jobs which share an allowance (``share``), made by one who sees all: down at once, up only into
what no other holds. A process holds what it was told before until it has said that it keeps to something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.share import Need, Share, divided, room

_WORTH_TELLING = 0.005
"""A change of less than this part of the limit is not told."""


@dataclass(slots=True)
class _Seat:
    needs: Mapping[str, Need] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)
    held: dict[str, float] = field(default_factory=dict)


class Dealing:
    """``limits``: what the spec configures, per minute. ``whole`` is what of them is this run's."""

    def __init__(self, limits: Mapping[str, float]) -> None:
        self.limits = dict(limits)
        self._whole = dict(limits)
        self._most = dict(limits)  # the smallest that a job which shares them names
        self._seats: dict[int, _Seat] = {}

    def keep_to(self, shares: Mapping[str, Share]) -> None:
        """Other jobs share the limits with this run; of a limit without a share it has all."""
        self._whole = {name: shares[name].mine if name in shares else most for name, most in self.limits.items()}
        self._most = {name: shares[name].limit if name in shares else most for name, most in self.limits.items()}

    def sit(self, lane: int) -> dict[str, Share]:
        """A process comes; its first share is what no other holds."""
        self._seats[lane] = _Seat(told=dict.fromkeys(self.limits, 0.0), held=dict.fromkeys(self.limits, 0.0))
        return self._deal(lane)

    def leave(self, lane: int) -> None:
        self._seats.pop(lane, None)

    def wants(self, lane: int, needs: Mapping[str, Need]) -> None:
        if lane in self._seats:
            self._seats[lane].needs = needs

    def kept(self, lane: int) -> None:
        """It keeps to what it was told last."""
        if lane in self._seats:
            self._seats[lane].held = dict(self._seats[lane].told)

    def deal(self) -> dict[int, dict[str, Share]]:
        """What changes, by process."""
        changed = {}
        for lane, seat in self._seats.items():
            before, held = dict(seat.told), dict(seat.held)
            shares = self._deal(lane)
            if any(_differ(before[name], seat.told[name], most) for name, most in self.limits.items()):
                changed[lane] = shares
            else:
                seat.told, seat.held = before, held
        return changed

    def needs(self) -> dict[str, Need]:
        """Of the run as a whole, as other jobs are told of it."""
        return {name: Need(most, self._want(name)) for name, most in self.limits.items()}

    def _want(self, name: str) -> float | None:
        total = 0.0
        for seat in self._seats.values():
            want = seat.needs[name].want if name in seat.needs else None
            if want is None:
                return None
            total += want
        return total if self._seats else None

    def _deal(self, lane: int) -> dict[str, Share]:
        lanes = sorted(self._seats)
        shares = {}
        for name in self.limits:
            whole = room(self._whole[name], len(lanes))
            wants = [self._seats[one].needs[name].want if name in self._seats[one].needs else None for one in lanes]
            fair = divided(whole, wants)[lanes.index(lane)]
            free = whole - sum(self._seats[one].held[name] for one in lanes if one != lane)
            seat = self._seats[lane]
            mine = max(0.0, min(fair, free))
            seat.told[name] = mine
            seat.held[name] = max(seat.held[name], mine)
            shares[name] = Share(mine, self._most[name], len(lanes))
        return shares


def _differ(before: float, now: float, whole: float) -> bool:
    return abs(now - before) > _WORTH_TELLING * whole or (now == 0.0) != (before == 0.0)
