"""What the report shows, as plain values. None: not known, which is not 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.drift import Alarm, Drift, Labels, Past
from pipeline.evaluate import Evaluation
from pipeline.ledger import Totals


@dataclass(frozen=True, slots=True)
class Pace:
    """Rows that ended, over the time that the job was at work: long pauses are cut out.

    ``ended`` and ``failed`` count rows in equal steps of ``step_s``.
    """

    step_s: float = 1.0
    ended: Sequence[int] = ()
    failed: Sequence[int] = ()
    pauses_s: Sequence[float] = ()  # where a pause was cut out
    first: float | None = None  # wall clock, seconds since 1970
    last: float | None = None

    @property
    def at_work_s(self) -> float:
        return self.step_s * len(self.ended)

    @property
    def rows_per_minute(self) -> float | None:
        return sum(self.ended) / self.at_work_s * 60 if self.ended else None


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of the answered rows' last requests."""

    rows: int
    p50: float
    p90: float
    p95: float
    p99: float
    most: float
    step_s: float  # of the histogram
    counts: Sequence[int]  # the last step holds all that is longer


@dataclass(frozen=True, slots=True)
class Example:
    id: str | None
    error: str
    reply: str | None
    http_status: int | None


@dataclass(frozen=True, slots=True)
class Failure:
    kind: str
    rows: int
    permanent: bool
    examples: Sequence[Example]


@dataclass(frozen=True, slots=True)
class Figures:
    job: str
    model: str
    host: str  # of the endpoint
    running: bool
    simulated: bool
    finished: bool  # every row of the input has ended, and the tables are written
    rows: int
    statuses: Mapping[str, int]  # most frequent first
    failed: int
    attempts: Mapping[int, int]  # rows by the attempts that they took
    pace: Pace
    latency: Latency | None
    totals: Totals  # of all runs
    cost_usd: float | None
    labels: Mapping[str, Labels]  # columns of labels only
    evaluation: Evaluation | None
    failures: Sequence[Failure]
    drift: Drift | None  # of the last finished run
    alarm: Alarm | None
    reasons: Sequence[str]  # why there is an alarm
    past: Sequence[Past]  # finished runs, oldest first

    @property
    def pending(self) -> int:
        return self.statuses.get("pending", 0)

    @property
    def ended(self) -> int:
        return self.rows - self.pending

    @property
    def answered(self) -> int:
        return self.ended - self.failed

    @property
    def before(self) -> Past | None:
        """The finished run that the labels are held against."""
        if not self.finished:
            return self.past[-1] if self.past else None
        against = None if self.drift is None else self.drift.against
        return next((past for past in self.past if past.number == against), None)
