"""What others see of a run in several processes: the sum of what the hands have said last."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from heapq import nlargest

from pipeline.crew.mate import Mate
from pipeline.face import HEARTBEAT_S, SLOWEST, Face, added
from pipeline.job import Job
from pipeline.ledger import Totals
from pipeline.progress import Display, Rate
from pipeline.runlog import RunLog
from pipeline.share import Share, members
from pipeline.sharing import Sharing
from pipeline.stop import Stop
from pipeline.storage.checkpoint import Checkpoint
from pipeline.work import Counts, Work

_ADDED = ("concurrency", "in_flight", "waiting", "requests_per_minute_now", "pauses", "outages", "refused")


class Told(Face):
    """The hands, and the face that the run shows."""

    def __init__(
        self,
        job: Job,
        checkpoint: Checkpoint,
        work: Work,
        before: Totals,
        log: RunLog,
        stop: Stop,
        display: Display | None,
    ) -> None:
        self.job = job
        self.checkpoint = checkpoint
        self.work = work
        self.before = before
        self.log = log
        self.stop = stop
        self.display = display
        self.sharing: Sharing | None = None
        self.mates: list[Mate] = []
        self.run_shares: Mapping[str, Share] = {}
        self._rate = Rate()

    @property
    def counts(self) -> Counts:
        total = Counts()
        for mate in self.mates:
            counts = mate.pulse.counts
            total.answered += counts.answered
            total.failed += counts.failed
            total.not_renewed += counts.not_renewed
            total.statuses = added(total.statuses, counts.statuses)
            total.kinds = added(total.kinds, counts.kinds)
        return total

    def _in_flight(self) -> int:
        return sum(mate.pulse.in_flight for mate in self.mates if not mate.gone)

    def _acknowledged(self) -> int:
        return sum(mate.pulse.acknowledged for mate in self.mates)

    def _totals(self) -> Totals:
        return sum((mate.pulse.spent for mate in self.mates), start=self.before)

    def _counted(self) -> Counts:
        return self.counts

    def _settled(self) -> int:
        # Of each hand apart: what one has acknowledged says nothing of another's rows.
        return sum(min(mate.pulse.counts.ended, mate.pulse.acknowledged) for mate in self.mates)

    def _slowest(self) -> list[dict[str, object]]:
        slow = [row for mate in self.mates if not mate.gone for row in mate.pulse.slowest]
        return nlargest(SLOWEST, slow, key=lambda row: row["for_s"])  # type: ignore[arg-type, return-value]

    def heartbeat(self, phase: str = "sending") -> dict[str, object]:
        going = sum(mate.begun and not mate.gone for mate in self.mates)
        return {**super().heartbeat(phase), "processes": going}

    def found(self) -> dict[str, float | None]:
        """The limits as the hands have found them, added up."""
        said = [mate.pulse.limits for mate in self.mates if mate.pulse.limits]
        rates = [limits["requests_per_minute"] for limits in said]
        tokens = [each for limits in said if (each := limits["tokens_per_request"]) is not None]
        return {
            **{name: sum(limits[name] or 0.0 for limits in said) for name in _ADDED},
            "requests_per_minute": None if None in rates or not rates else sum(rate or 0.0 for rate in rates),
            "tokens_per_request": sum(tokens) / len(tokens) if tokens else None,
            **members(self.run_shares),
        }

    # -- every few seconds ------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            self.log.tick()
            self.checkpoint.heartbeat(self.heartbeat())
            await asyncio.sleep(HEARTBEAT_S)


def limits_given(job: Job) -> dict[str, float]:
    """Per minute, as the spec configures them."""
    limits = job.spec.limits
    given = {
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "input_tokens_per_minute": limits.input_tokens_per_minute,
        "output_tokens_per_minute": limits.output_tokens_per_minute,
    }
    return {name: float(most) for name, most in given.items() if most is not None}
