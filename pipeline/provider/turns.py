"""So many at a time, first come, first served. Whoever need not wait pays for no coroutine: ``asyncio.Semaphore`` makes
three of them a turn."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """``take`` a turn, or ``wait`` for one where that is False; ``give_back`` after either."""

    __slots__ = ("_free", "_waiting")

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        if self._free:
            self._free -= 1
            return True
        return False

    async def wait(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()  # it had come in that very moment
            raise

    def give_back(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # else whoever waited was cancelled
                turn.set_result(None)  # handed on: nobody who comes later is quicker
                return
        self._free += 1
