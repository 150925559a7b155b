"""Rows for the hands, in the order of the input and as lazily as one process draws them; and their keys coming back."""

from __future__ import annotations

import asyncio

from pipeline.crew.words import Block, Made
from pipeline.errors import PipelineError, RunPaused
from pipeline.feed import Feed
from pipeline.job import Job
from pipeline.records import Row
from pipeline.runlog import RunLog
from pipeline.stop import Stop
from pipeline.storage.keys import KEY_BYTES, Keys, lone_key
from pipeline.work import INPUT_CHANGED, Work, unchanged

NO_KEY = bytes(KEY_BYTES)
"""Of a row that was not rendered."""


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
        self._making: dict[int, bytes] = {}  # blocks that are not listed yet, by their first ordinal

    async def block(self, most: int) -> Block:
        """The next rows; none when there are no more, or the run is stopping."""
        async with self._door:
            rows = await self._rows(most)
            if self._makes_keys:
                if rows:
                    self._making[rows[0].ordinal] = NO_KEY * len(rows)
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

    def made(self, told: Made) -> None:
        """Keys of a block have come back. They are listed in order: those of a later block wait."""
        self._making[told.start] = told.keys
        while (keys := self._making.get(len(self._keys))) is not None and NO_KEY not in pieces(keys):
            del self._making[len(self._keys)]
            self._keys.extend(keys)

    def make_up(self) -> None:
        """At the end: the keys of rows that no hand has rendered, as far as later ones are recorded, and of those whose
        keys went with a hand, which may be. Raises what reading the input does."""
        if not self._making or self._work.changed():
            return
        first, last = len(self._keys), max(start + len(keys) // KEY_BYTES for start, keys in self._making.items())
        known = {start + at: key for start, keys in self._making.items() for at, key in enumerate(pieces(keys))}
        for batch in self._job.source.rows(self._job.used, first):
            for row in batch:
                if row.ordinal == len(self._keys) < last:
                    key = known[row.ordinal]
                    if key == NO_KEY:
                        key = lone_key(row.id, self._job.asked(row))
                    self._keys.extend(key)
            if len(self._keys) >= last:
                break
        self._making.clear()


def pieces(keys: bytes) -> list[bytes]:
    return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]
