"""Workers that draw rows lazily and work on them, so many at a time and never more in memory.

A stop has two steps. ``stop``: nothing new is drawn, workers that are not waiting for an answer end at once, the rest
finish, because what they wait for is paid for. ``hurry``: those are cut off too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Awaiting(AbstractContextManager[None]):
    """Notes the current task while it is open. A class: the generator form costs three times as much."""

    __slots__ = ("_task", "_tasks")

    def __init__(self, tasks: set[asyncio.Future[Any]]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._tasks = tasks

    def __enter__(self) -> None:
        self._tasks.add(self._task)

    def __exit__(self, *_: object) -> None:
        self._tasks.discard(self._task)


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

    def answer_awaited(self) -> AbstractContextManager[None]:
        """Inside, the current worker waits for an answer that may be billed: a stop lets it finish."""
        return _Awaiting(self._awaiting_answer)

    async def alone(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """Do something before the others begin, under the same stop; None when that cut it off."""
        task = asyncio.ensure_future(work)
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
