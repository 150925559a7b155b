"""Rows for the workers: batches are read in a thread, one ahead of what is being drawn."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator

from pipeline.records import Row

LOW_WATER = 500
"""Rows left in hand when the next batch is asked for."""


_Asked = queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Future[list[Row] | None]] | None]


class Feed:
    """Draws in input order. ``wanted`` tells by ordinal which rows are to be sent; the others are passed over."""

    def __init__(self, batches: Iterator[list[Row]], wanted: Callable[[int], bool] | None = None) -> None:
        self._batches = batches
        self._wanted = wanted
        self._rows: deque[Row] = deque()
        self._reading: asyncio.Future[list[Row] | None] | None = None
        self._ended = False
        self._asked: _Asked | None = None

    async def draw(self) -> Row | None:
        """The next row, None at the end. Raises InputError when the table turns out to be damaged."""
        while True:
            if len(self._rows) < LOW_WATER and self._reading is None and not self._ended:
                self._reading = self._read()
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

    def _read(self) -> asyncio.Future[list[Row] | None]:
        loop = asyncio.get_running_loop()
        reading: asyncio.Future[list[Row] | None] = loop.create_future()
        if self._asked is None:
            # One thread for all batches: what a table's reader allocates stays with its thread, and many short-lived
            # ones, or the loop's executor, would leave that behind again and again. The loop does not wait for it.
            self._asked = queue.SimpleQueue()
            threading.Thread(target=self._read_on, args=(self._asked,), name="feed", daemon=True).start()
        self._asked.put((loop, reading))
        return reading

    def _read_on(self, asked: _Asked) -> None:
        while (wanted := asked.get()) is not None:
            loop, reading = wanted
            batch: list[Row] | None = None
            fault: Exception | None = None
            try:
                batch = next(self._batches, None)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is raised where the rows are drawn
                fault = exc
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                loop.call_soon_threadsafe(_deliver, reading, batch, fault)

    def give_up(self) -> None:
        """Wait no longer for a batch that is still being read; its thread ends when it may."""
        self._end()
        if self._reading is not None:
            self._reading.cancel()

    def _end(self) -> None:
        self._ended = True
        if self._asked is not None:
            self._asked.put(None)

    async def close(self) -> None:
        """Wait for a batch that is still being read, so that its thread ends before the loop does."""
        self._end()
        if self._reading is not None:
            await asyncio.wait({self._reading})
            if not self._reading.cancelled():
                self._reading.exception()


def _deliver(reading: asyncio.Future[list[Row] | None], batch: list[Row] | None, fault: Exception | None) -> None:
    if reading.cancelled():
        return
    if fault is None:
        reading.set_result(batch)
    else:
        reading.set_exception(fault)
