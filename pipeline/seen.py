"""What others see of a run that is going on: the progress bar, ``status`` and the log."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from heapq import nsmallest

from pipeline.asking import Asking
from pipeline.ledger import totals_members
from pipeline.progress import View, as_members

SLOWEST = 5


class Seen(Asking):
    """Rows on their way, as they are told of."""

    def view(self) -> View:
        totals = self.ledger.totals()
        waiting = self.counts.ended - min(self.counts.ended, self.checkpoint.acknowledged)
        return View(
            rows=self.work.rows,
            done_before=self.work.done_before + self.work.failed_before,
            done_now=self.counts.ended - waiting,
            failed=self.work.failed_before + self.counts.failed,
            tokens=(totals.usage.prompt_tokens or 0) + (totals.usage.completion_tokens or 0),
            cost_usd=totals.cost(self.job.prices),
            in_flight=self.pool.awaited,
            note="stopping" if self.stop.stopping else "",
        )

    def heartbeat(self, phase: str = "sending") -> dict[str, object]:
        """What ``status`` tells about a run that is going on; it reads no answers as long as this is there."""
        view = self.view()
        return {
            "at": time.time(),
            "pid": os.getpid(),
            "run": self.log.run,
            "phase": "stopping" if self.stop.stopping else phase,
            **as_members(view, self._rate.update(view.done_now)),
            "acknowledged": self.checkpoint.acknowledged,
            "recorded": self._recorded(),
            "slowest_in_flight": self._slowest(),
            "limits": {**self.wire.found(), "requests_per_minute_given": self.job.spec.limits.requests_per_minute},
        }

    def found(self) -> dict[str, float | None]:
        """The limits as they were found."""
        return self.wire.found()

    def _recorded(self) -> dict[str, object]:
        """Of all runs, as a look into the checkpoint has it; a row that goes again counts once it has ended."""
        totals = self.ledger.totals()
        return {
            "recorded": added(self.work.statuses, self.counts.statuses),
            "failures": added(self.work.kinds, self.counts.kinds),
            **totals_members(totals, self.job.prices),
        }

    def _slowest(self) -> list[dict[str, object]]:
        now = time.monotonic()
        slowest = nsmallest(SLOWEST, ((began, key) for key, began in self._awaited.items()))
        rows = [(self._rows.get(key), began, key) for began, key in slowest]
        return [
            {"row": key, "id": row and row.id, "ordinal": row and row.ordinal, "for_s": round(now - began, 1)}
            for row, began, key in rows
        ]


def added(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    return {name: before.get(name, 0) + now.get(name, 0) for name in sorted({*before, *now})}
