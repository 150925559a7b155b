"""Workers that draw rows lazily and work on them, so many at a time and never more in memory.

A stop has two steps. ``stop``: nothing new is drawn, workers that are not waiting for an answer end at once, the rest
finish, because what they wait for is paid for. ``hurry``: those are cut off too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Pool(Generic[Item]):
    """``draw`` gives the next item or None; ``work`` must not raise but for cancellation."""

    def __init__(
        self, draw: Callable[[], Awaitable[Item | None]], work: Callable[[Item], Awaitable[None]], workers: int
    ) -> None:
        self._draw = draw
        self._work = work
        self._workers = workers
        self._tasks: set[asyncio.Future[Any]] = set()
        self._awaiting_answer: set[asyncio.Future[Any]] = set()
        self.stopping = False

    async def run(self) -> None:
        """Until nothing is left to draw, or a stop has ended. Raises what a worker raised (a bug)."""
        if self.stopping:
            return
        self._tasks = {asyncio.create_task(self._worker()) for _ in range(self._workers)}
        try:
            ended, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in ended:
                if not task.cancelled():
                    task.result()
        finally:
            self.hurry()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks.clear()

    async def _worker(self) -> None:
        while not self.stopping:
            item = await self._draw()
            if item is None:
                return
            await self._work(item)

    @contextlib.contextmanager
    def answer_awaited(self) -> Iterator[None]:
        """Inside, the current worker waits for an answer that may be billed: a stop lets it finish."""
        task = asyncio.current_task()
        assert task is not None
        self._awaiting_answer.add(task)
        try:
            yield
        finally:
            self._awaiting_answer.discard(task)

    async def alone(self, item: Item, work: Callable[[Item], Awaitable[Result]]) -> Result | None:
        """Work on one item before the others begin, under the same stop; None when that cut it off."""
        task = asyncio.ensure_future(work(item))
        self._tasks.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if not self.stopping:
                raise
            return None
        finally:
            self._tasks.discard(task)

    @property
    def awaited(self) -> int:
        """Answers that are being waited for."""
        return len(self._awaiting_answer)

    def stop(self) -> None:
        self.stopping = True
        for task in self._tasks - self._awaiting_answer:
            task.cancel()

    def hurry(self) -> None:
        self.stopping = True
        for task in self._tasks:
            task.cancel()
