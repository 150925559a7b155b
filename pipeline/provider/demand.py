"""How much of a configured limit this job could use, and how much of it is its own, when other jobs share it.

A job that its pace held back for half of the time could have used twice as much; one that was held back nearly all the
time wants all it can get. So a job that waits for answers, for rows or for the end of a pause wants no more than it
uses, and leaves the rest to the others.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.provider.pacing import Pace
from pipeline.share import Need, Share

SPARE = 1.25
"""How much more than it uses a job asks for, so that it can grow."""

HUNGRY = 0.9
"""Held back for such a share of the time, a job wants all it can get."""

_SMOOTHED_S = 3.0
"""A want falls over about so many seconds: usage goes up and down by itself."""


class Portion:
    """One configured limit and its pace. Amounts are of the limit, per minute."""

    __slots__ = (
        "_held",
        "_held_last",
        "_looked_s",
        "_per_s",
        "_slack_s",
        "_used",
        "_used_before",
        "held_s",
        "limit",
        "pace",
        "share",
    )

    def __init__(self, limit: float, pace: Pace, slack_s: Callable[[float], float]) -> None:
        self.limit = limit
        self.pace = pace
        self.share: Share | None = None  # None: all of it
        self.held_s = 0.0  # for how long the pace has held calls back since it was last looked at
        self._per_s = pace.per_s / limit  # of the pace, for one per minute of the limit
        self._slack_s = slack_s
        self._looked_s: float | None = None
        self._used = self._used_before = 0.0
        self._held = self._held_last = 1.0  # who begins has all its rows waiting

    def need(self, now: float) -> Need:
        """What this job could use, as far as the time since the last look tells. To be asked every second or so."""
        if self._looked_s is None:
            self._looked_s = now
        elif now > self._looked_s:
            self._look(now, now - self._looked_s)
        if self._held >= HUNGRY:
            return Need(self.limit, None)
        return Need(self.limit, SPARE * self._used / (1.0 - self._held))

    def keep_to(self, now: float, share: Share | None) -> None:
        """None: this job is alone."""
        self.share = share
        limit, mine = (self.limit, self.limit) if share is None else (share.limit, share.mine)
        self.pace.change(now, mine * self._per_s, self._slack_s(limit))

    def _look(self, now: float, span_s: float) -> None:
        used = max(0.0, self.pace.used - self._used_before) / span_s / self._per_s
        held = min(1.0, self.held_s / span_s)
        self._looked_s, self._used_before, self.held_s = now, self.pace.used, 0.0
        weight = min(1.0, span_s / _SMOOTHED_S)
        self._used += weight * (used - self._used)
        self._held += weight * (held - self._held)
        if min(held, self._held_last) >= HUNGRY:
            self._held = held  # for two looks on end: it need not be told a third time
        self._held_last = held
