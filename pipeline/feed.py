"""Rows for the workers: batches are read in a thread, one ahead of what is being drawn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

from pipeline.records import Row

LOW_WATER = 500
"""Rows left in hand when the next batch is asked for."""


class Feed:
    """Draws in input order. ``wanted`` tells by ordinal which rows are to be sent; the others are passed over."""

    def __init__(self, batches: Iterator[list[Row]], wanted: Callable[[int], bool] | None = None) -> None:
        self._batches = batches
        self._wanted = wanted
        self._rows: deque[Row] = deque()
        self._reading: asyncio.Future[list[Row] | None] | None = None
        self._ended = False

    async def draw(self) -> Row | None:
        """The next row, None at the end. Raises InputError when the table turns out to be damaged."""
        while True:
            if len(self._rows) < LOW_WATER and self._reading is None and not self._ended:
                self._reading = asyncio.ensure_future(asyncio.to_thread(next, self._batches, None))
            if self._rows:
                return self._rows.popleft()
            if self._reading is None:
                return None
            await self._take_batch(self._reading)

    async def _take_batch(self, reading: asyncio.Future[list[Row] | None]) -> None:
        # A worker that is cancelled here must not take the batch with it.
        batch = await asyncio.shield(reading)
        if self._reading is not reading:
            return  # another worker was faster
        self._reading = None
        if batch is None:
            self._ended = True
        elif self._wanted is None:
            self._rows.extend(batch)
        else:
            self._rows.extend(row for row in batch if self._wanted(row.ordinal))

    async def close(self) -> None:
        """Wait for a batch that is still being read, so that its thread ends before the loop does."""
        self._ended = True
        if self._reading is not None:
            await asyncio.wait({self._reading})
            if not self._reading.cancelled():
                self._reading.exception()
