"""What others see of a run in several processes: the sum of what the hands have said last."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from heapq import nlargest

from pipeline.crew.mate import Mate
from pipeline.job import Job
from pipeline.ledger import Totals, totals_members
from pipeline.progress import Display, Rate, View, as_members
from pipeline.runlog import RunLog
from pipeline.seen import SLOWEST, added
from pipeline.sending import HEARTBEAT_S
from pipeline.share import Share
from pipeline.sharing import Sharing
from pipeline.stop import Stop
from pipeline.storage.checkpoint import Checkpoint
from pipeline.work import Counts, Work

_ADDED = ("concurrency", "in_flight", "waiting", "requests_per_minute_now", "pauses", "outages", "refused")


class Told:
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

    @property
    def in_flight(self) -> int:
        return sum(mate.pulse.in_flight for mate in self.mates if not mate.gone)

    @property
    def _acknowledged(self) -> int:
        return sum(mate.pulse.acknowledged for mate in self.mates)

    def _totals(self) -> Totals:
        return sum((mate.pulse.spent for mate in self.mates), start=self.before)

    def view(self) -> View:
        totals, counts = self._totals(), self.counts
        # Of each hand apart: what one has acknowledged says nothing of another's rows.
        done = sum(min(mate.pulse.counts.ended, mate.pulse.acknowledged) for mate in self.mates)
        return View(
            rows=self.work.rows,
            done_before=self.work.done_before + self.work.failed_before,
            done_now=done,
            failed=self.work.failed_before + counts.failed,
            tokens=(totals.usage.prompt_tokens or 0) + (totals.usage.completion_tokens or 0),
            cost_usd=totals.cost(self.job.prices),
            in_flight=self.in_flight,
            note="stopping" if self.stop.stopping else "",
        )

    def heartbeat(self, phase: str = "sending") -> dict[str, object]:
        """As a run of one process has it."""
        view, counts = self.view(), self.counts
        slow = [row for mate in self.mates if not mate.gone for row in mate.pulse.slowest]
        return {
            "at": time.time(),
            "pid": os.getpid(),
            "run": self.log.run,
            "phase": "stopping" if self.stop.stopping else phase,
            **as_members(view, self._rate.update(view.done_now)),
            "acknowledged": self._acknowledged,
            "recorded": {
                "recorded": added(self.work.statuses, counts.statuses),
                "failures": added(self.work.kinds, counts.kinds),
                **totals_members(self._totals(), self.job.prices),
            },
            "slowest_in_flight": nlargest(SLOWEST, slow, key=lambda row: row["for_s"]),  # type: ignore[arg-type, return-value]
            "limits": {**self.found(), "requests_per_minute_given": self.job.spec.limits.requests_per_minute},
            "processes": sum(mate.begun and not mate.gone for mate in self.mates),
        }

    def found(self) -> dict[str, float | None]:
        """The limits as the hands have found them, added up."""
        said = [mate.pulse.limits for mate in self.mates if mate.pulse.limits]
        rates = [limits["requests_per_minute"] for limits in said]
        tokens = [each for limits in said if (each := limits["tokens_per_request"]) is not None]
        shares = {f"{name}_share": share.mine for name, share in self.run_shares.items()}
        jobs = {"jobs_sharing": float(max(share.jobs for share in self.run_shares.values()))} if shares else {}
        return {
            **{name: sum(limits[name] or 0.0 for limits in said) for name in _ADDED},
            "requests_per_minute": None if None in rates or not rates else sum(rate or 0.0 for rate in rates),
            "tokens_per_request": sum(tokens) / len(tokens) if tokens else None,
            **jobs,
            **shares,
        }

    # -- every few seconds ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _clockwork(self) -> Iterator[None]:
        tasks = [asyncio.ensure_future(self._beat())]
        if self.display is not None:
            tasks.append(asyncio.ensure_future(self._show(self.display)))
        if self.sharing is not None:
            tasks.append(asyncio.ensure_future(self.sharing.go()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    async def _show(self, display: Display) -> None:
        while True:
            await asyncio.sleep(display.every_s)
            display.show(self.view())

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
