"""The part of a run that is awake: rows are drawn, asked and recorded until there are none, or a reason to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from heapq import nsmallest

from pipeline.asking import Asking
from pipeline.errors import PipelineError, ProviderError, StorageError
from pipeline.face import HEARTBEAT_S, SLOWEST, Face
from pipeline.ledger import Totals
from pipeline.noticed import Gap
from pipeline.records import Billed
from pipeline.stop import SIGNALS, signals_to
from pipeline.work import Counts

CUT_OFF = ProviderError("cut off by the end of the run; it may have been billed", kind="in_doubt", billed=Billed.MAYBE)


class Sending(Asking, Face):
    """One run's rows on their way. ``go`` returns when all have ended or the stop has; it raises nothing but bugs."""

    heeds: Sequence[signal.Signals] = SIGNALS

    # -- the whole run ---------------------------------------------------------------------------------------------

    async def go(self, max_s: float | None = None) -> None:
        """Send everything that is to be sent, or stop. The reason, if any, is in ``stop.reason``."""
        loop = asyncio.get_running_loop()
        self._heed(max_s)
        self.checkpoint.start(lambda: _soon(loop, self._disk_failed))
        with signals_to(self.stop, self.heeds), self._clockwork():
            async with self.wire, self._linked:
                try:
                    await self.pool.alone(self._fetch(self.work.unfetched))
                    await self._canary()
                    await self.pool.run()
                except PipelineError as reason:
                    self.stop.because(reason)
                finally:
                    if self._readers is not None:
                        self._readers.shutdown(wait=False, cancel_futures=True)
                    if self.sharing is not None:
                        self.sharing.leave()
                    await self._feed.close()
                    self._note_cut_off()
                    self.log.count()

    async def _canary(self) -> None:
        """The first request of a run goes alone; so does the next, as long as the first has told nothing."""
        while not self.watch.settled and not self.stop.stopping:
            row = await self.pool.alone(self._draw())
            if row is None or self.stop.stopping:
                return
            outcome = await self.pool.alone(self._outcome(row))
            if outcome is None:
                return
            reason = self.watch.canary(outcome, again=self.work.again(row.ordinal))
            if reason is not None:
                self.stop.because(reason)

    def _drain(self) -> None:
        self.pool.stop()
        if self.sharing is not None:
            self.sharing.stop()
        self._tell_stopping()
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().call_later(self.drain_s, self._drained_too_long)

    def _drained_too_long(self) -> None:
        self.log.warning("drain_ended", given_up=self.pool.awaited)
        self.pool.hurry()

    def _hurry(self) -> None:
        self.pool.hurry()
        self._feed.give_up()

    def _note_cut_off(self) -> None:
        """Requests whose answers nobody waits for any more: their marks would go with the segment that is sealed."""
        for key in list(self._awaited):
            self._note(key, CUT_OFF)

    def _disk_failed(self) -> None:
        failure = self.checkpoint.writer.failure or StorageError(
            f"the disk is full at {self.checkpoint.layout.folder}; every acknowledged answer is kept. "
            "Free some space, then run the same command again"
        )
        self.stop.because(failure)

    # -- what others see -------------------------------------------------------------------------------------------

    def found(self) -> dict[str, float | None]:
        return self.wire.found()

    def _counted(self) -> Counts:
        return self.counts

    def _totals(self) -> Totals:
        return self.ledger.totals()

    def _settled(self) -> int:
        return min(self.counts.ended, self.checkpoint.acknowledged)

    def _acknowledged(self) -> int:
        return self.checkpoint.acknowledged

    def _in_flight(self) -> int:
        return self.pool.awaited

    def _slowest(self) -> list[dict[str, object]]:
        now = time.monotonic()
        slowest = nsmallest(SLOWEST, ((began, key) for key, began in self._awaited.items()))
        rows = [(self._rows.get(key), began, key) for began, key in slowest]
        return [
            {"row": key, "id": row and row.id, "ordinal": row and row.ordinal, "for_s": round(now - began, 1)}
            for row, began, key in rows
        ]

    async def _beat(self) -> None:
        gap = Gap()
        while True:
            gap_s = gap.look()
            if gap_s is not None:
                self.log.warning("suspended", for_s=round(gap_s, 1))
                self.wire.renew()
            self.log.tick()
            self.checkpoint.heartbeat(self.heartbeat())
            await asyncio.sleep(HEARTBEAT_S)


def _soon(loop: asyncio.AbstractEventLoop, step: Callable[[], None]) -> None:
    """From any thread; a loop that has ended needs to know nothing any more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(step)
