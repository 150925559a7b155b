"""What is odd about a run, spoils nothing, and is worth one line of its log.

A reply that names another model than was asked (a gateway that substitutes), an id that two replies share (a gateway
that serves from a cache), and time that nobody lived through (a laptop that slept). Each oddity is told once, not once
a row.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from pipeline.records import ApiReply

IDS_REMEMBERED = 10_000
NAMES_REMEMBERED = 100
GAP_S = 60.0
"""A clock that moved on by so much more than was slept through: the process or the machine was suspended."""


class Warn(Protocol):
    def __call__(self, event: str, **members: object) -> None: ...


class Noticed:
    """Looks at good replies. ``warn`` is told the first time."""

    def __init__(self, model: str, warn: Warn) -> None:
        self._model = model
        self._names = {model}
        self._warn = warn
        self._ids: set[str] = set()
        self._order: deque[str] = deque()  # of the ids, so that memory stays bounded
        self._told_of_ids = False

    def look(self, reply: ApiReply) -> None:
        json = reply.json
        name, id_ = json.get("model"), json.get("id")
        if type(name) is str and name not in self._names and len(self._names) < NAMES_REMEMBERED:
            self._names.add(name)
            self._warn("other_model", asked=self._model, answered=name[:200])
        if type(id_) is str and not self._told_of_ids:
            self._look_at_id(id_)

    def _look_at_id(self, id_: str) -> None:
        if id_ in self._ids:
            self._told_of_ids = True
            self._ids.clear()
            self._order.clear()
            self._warn("reply_id_again", id=id_[:200])
            return
        self._ids.add(id_)
        self._order.append(id_)
        if len(self._order) > IDS_REMEMBERED:
            self._ids.discard(self._order.popleft())


class Gap:
    """Notices a suspension: of the process (its clock went on), or of the machine (only the wall clock did)."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._last = clock()
        self._wall_last = wall_clock()

    def look(self) -> float | None:
        """Asked every few seconds: the length of a gap since the last time, in seconds, None when there was none."""
        now, wall = self._clock(), self._wall_clock()
        gap_s = max(now - self._last, wall - self._wall_last)
        self._last, self._wall_last = now, wall
        return gap_s if gap_s > GAP_S else None
