"""What others see of a run that is going on: the progress bar, ``status``, and the clockwork that keeps them fresh.

The same face for a run of one process and of several; whoever runs says the numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

from pipeline.errors import RunPaused
from pipeline.job import Job
from pipeline.ledger import Totals, totals_members
from pipeline.progress import Display, Rate, View, as_members
from pipeline.runlog import RunLog
from pipeline.sharing import Sharing
from pipeline.stop import Stop
from pipeline.storage.checkpoint import Checkpoint
from pipeline.work import Counts, Work, words

HEARTBEAT_S = 2.0
SLOWEST = 5


class Face(ABC):
    job: Job
    checkpoint: Checkpoint
    work: Work
    log: RunLog
    stop: Stop
    display: Display | None
    sharing: Sharing | None
    _rate: Rate

    # -- the numbers -----------------------------------------------------------------------------------------------

    @abstractmethod
    def found(self) -> Mapping[str, float | None]:
        """The limits as they were found."""

    @abstractmethod
    def _counted(self) -> Counts: ...

    @abstractmethod
    def _totals(self) -> Totals:
        """Of all runs of the job, this one included."""

    @abstractmethod
    def _settled(self) -> int:
        """Rows that have ended in this run, and are acknowledged."""

    @abstractmethod
    def _acknowledged(self) -> int: ...

    @abstractmethod
    def _in_flight(self) -> int:
        """Requests whose answers are waited for."""

    @abstractmethod
    def _slowest(self) -> list[dict[str, object]]: ...

    @abstractmethod
    async def _beat(self) -> None:
        """What is done every few seconds, without end."""

    @abstractmethod
    def _drain(self) -> None:
        """The run stops: what is in flight is waited for."""

    @abstractmethod
    def _hurry(self) -> None:
        """The run stops at once."""

    # -- the face --------------------------------------------------------------------------------------------------

    def view(self) -> View:
        totals = self._totals()
        return View(
            rows=self.work.rows,
            done_before=self.work.done_before + self.work.failed_before,
            done_now=self._settled(),
            failed=self.work.failed_before + self._counted().failed,
            tokens=(totals.usage.prompt_tokens or 0) + (totals.usage.completion_tokens or 0),
            cost_usd=totals.cost(self.job.prices),
            in_flight=self._in_flight(),
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
            "acknowledged": self._acknowledged(),
            "recorded": self._recorded(),
            "slowest_in_flight": self._slowest(),
            "limits": {**self.found(), "requests_per_minute_given": self.job.spec.limits.requests_per_minute},
        }

    def _recorded(self) -> dict[str, object]:
        """Of all runs, as a look into the checkpoint has it; a row that goes again counts once it has ended."""
        counts = self._counted()
        return {
            "recorded": added(self.work.statuses, counts.statuses),
            "failures": added(self.work.kinds, counts.kinds),
            **totals_members(self._totals(), self.job.prices),
        }

    def _heed(self, max_s: float | None) -> None:
        """``max_s``: after that the run stops."""
        self.stop.on_stop, self.stop.on_hurry = self._drain, self._hurry
        if max_s is not None:
            ends = RunPaused(f"stopped after --max-minutes {max_s / 60:g}")
            asyncio.get_running_loop().call_later(max_s, self.stop.because, ends)

    def _tell_stopping(self) -> None:
        in_flight = self._in_flight()
        self.log.info("stopping", in_flight=in_flight, **words(self.stop.reason))
        self.checkpoint.heartbeat(self.heartbeat())  # at once: `pipeline stop` sends no second signal after this
        if self.display is not None and in_flight:
            self.display.say(f"stopping: waiting for {in_flight} answers that are paid for")

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


def added(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    return {name: before.get(name, 0) + now.get(name, 0) for name in sorted({*before, *now})}
