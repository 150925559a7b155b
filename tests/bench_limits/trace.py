"""What the simulator's diary and the run's own books say of one scenario."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One request. Seconds since the first one came; status 0: no reply; tokens of a good one."""

    came_s: float
    left_s: float
    status: int
    tokens: int


@dataclass(frozen=True)
class Trace:
    entries: list[Entry]
    stats: dict[str, Any]
    summaries: list[dict[str, Any]]  # of the jobs that came to an end
    code: int  # the highest of theirs
    complaint: str
    killed_s: float | None = None  # when a job was killed

    @classmethod
    def of(
        cls,
        lines: list[list[float]],
        stats: dict[str, Any],
        summaries: list[dict[str, Any]],
        code: int,
        said: str,
        killed_at: float | None = None,
    ) -> Trace:
        start = min((line[0] for line in lines), default=0.0)
        entries = [Entry(line[0] - start, line[1] - start, int(line[2]), int(line[3])) for line in lines]
        return cls(entries, stats, summaries, code, said, None if killed_at is None else killed_at - start)

    @property
    def summary(self) -> dict[str, Any]:
        return self.summaries[0]

    @property
    def good(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.status == 200]

    @property
    def last_answer_s(self) -> float:
        return max((entry.left_s for entry in self.good), default=0.0)

    @property
    def refused_share(self) -> float:
        return sum(entry.status == 429 for entry in self.entries) / max(1, len(self.entries))

    @property
    def failed_rows(self) -> int:
        return sum(sum(summary.get("failures", {}).values()) for summary in self.summaries)

    def admitted(self, start_s: float, end_s: float) -> int:
        """Requests let in and answered well, by when they came."""
        return sum(start_s <= entry.came_s < end_s for entry in self.good)

    def longest_silence_s(self) -> float:
        """Between two good answers, while rows were left."""
        left = sorted(entry.left_s for entry in self.good)
        return max((later - sooner for sooner, later in pairwise(left)), default=0.0)
