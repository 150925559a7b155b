"""Rows for the hands, in the order of the input and as lazily as one process draws them; and their keys coming back."""

from __future__ import annotations

import asyncio

from pipeline.crew.mate import Mate
from pipeline.crew.words import Block, Made
from pipeline.errors import PipelineError, RunPaused
from pipeline.feed import Feed
from pipeline.job import Job
from pipeline.records import Row
from pipeline.runlog import RunLog
from pipeline.stop import Stop
from pipeline.storage.keys import Keys, key_alone
from pipeline.work import INPUT_CHANGED, Work, unchanged


class Handout:
    """``makes_keys``: nobody has listed the keys; each is made by the hand that renders the row."""

    def __init__(self, job: Job, keys: Keys, work: Work, log: RunLog, stop: Stop, *, makes_keys: bool) -> None:
        self.drawn = False  # all rows are handed out
        self._job = job
        self._keys = keys
        self._work = work
        self._log = log
        self._stop = stop
        self._makes_keys = makes_keys
        self._feed = Feed(unchanged(job.source.rows(job.used, work.start), work.changed), work.wanted)
        self._door = asyncio.Lock()  # the rows of a block follow each other
        self._unmade: list[tuple[int, int]] = []  # rows whose keys went with a hand: first ordinal, and how many

    async def block(self, mate: Mate, most: int) -> Block:
        """The next rows; none when there are no more, or the run is stopping."""
        async with self._door:
            rows = await self._rows(most)
            if self._makes_keys:
                if rows:
                    mate.making[rows[0].ordinal] = len(rows)
                return Block(rows)
        keys = [self._keys.hex(row.ordinal) for row in rows]
        if "" in keys:
            self._stop.because(RunPaused(INPUT_CHANGED))
            return Block(())
        return Block(
            rows,
            keys,
            frozenset(row.ordinal for row in rows if self._work.again(row.ordinal)),
            frozenset(row.ordinal for row in rows if self._work.renews(row.ordinal)),
            {key: self._work.kept[key] for key in keys if key in self._work.kept},
        )

    async def _rows(self, most: int) -> list[Row]:
        rows: list[Row] = []
        try:
            while len(rows) < most and not self._stop.stopping:
                row = await self._feed.draw()
                if row is None:
                    self.drawn = not self._stop.stopping
                    break
                rows.append(row)
        except PipelineError as reason:  # the table turned out to be damaged, or was edited
            self._stop.because(reason)
        except Exception as fault:  # noqa: BLE001 - what is in flight is paid for: a bug stops the run, and cuts off nothing
            if not self._stop.stopping:
                self._log.error("fault_of_ours", fault)
                self._stop.because(PipelineError("a fault of this tool struck while the input was read; see run.log"))
        return rows

    def give_up(self) -> None:
        self._feed.give_up()

    async def close(self) -> None:
        await self._feed.close()

    # -- keys ------------------------------------------------------------------------------------------------------

    def made(self, mate: Mate, told: Made) -> None:
        """Keys of a block have come back."""
        mate.making.pop(told.start, None)
        self._keys.place(told.start, told.keys)

    def lost(self, mate: Mate) -> None:
        """The hand has ended; what it did not give back is made up for."""
        self._unmade += mate.making.items()
        mate.making.clear()

    def make_up(self) -> None:
        """The keys that went with a hand: answers may be recorded under them. Raises what reading the input does."""
        wanted = sorted(self._unmade)
        if wanted and not self._work.changed():
            self._make(wanted)
        if self._makes_keys:
            self._keys.close_gaps()

    def _make(self, wanted: list[tuple[int, int]]) -> None:
        end = max(start + count for start, count in wanted)
        for batch in self._job.source.rows(self._job.used, wanted[0][0]):
            for row in batch:
                if any(start <= row.ordinal < start + count for start, count in wanted):
                    self._keys.place(row.ordinal, bytes.fromhex(key_alone(row.id, self._job.asked(row))))
            if not batch or batch[-1].ordinal >= end:
                return
