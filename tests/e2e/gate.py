"""An endpoint that answers so many requests at once, and holds the others until it is opened."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.rig import DEADLINE_S
from tests.e2e.scripted import Said, Scripted, says, scripted


@dataclass
class Gate:
    """``answered`` requests pass before it is opened; ``said`` are the first replies, one each."""

    passing: int
    said: list[Said] = field(default_factory=list)
    opened: threading.Event = field(default_factory=threading.Event)
    waiting: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: dict[str, Any]) -> Said:
        with self._lock:
            passes, self.passing = self.passing > 0, self.passing - 1
            self.waiting += not passes
            said = self.said.pop(0) if self.said else says("positive")
        if not passes:
            self.opened.wait(DEADLINE_S)
        return said


@contextmanager
def gated(passing: int, said: list[Said] | None = None) -> Iterator[tuple[Gate, Scripted]]:
    gate = Gate(passing, said or [])
    with scripted(gate.answer) as server:
        try:
            yield gate, server
        finally:
            gate.opened.set()
