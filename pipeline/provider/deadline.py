"""One deadline for all calls under way, kept by one timer.

Every attempt may take equally long, so whoever began first is due first: the calls stand in a queue by their beginning,
and the only alarm is that of its head. A timer for each call, as the HTTP library has them, cost 13 us of 90.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from types import TracebackType


class Deadlines:
    """Ends what takes longer than ``total_s``. Belongs to the event loop in which it is first used."""

    def __init__(self, total_s: float) -> None:
        self.total_s = total_s
        self._under_way: dict[_Deadline, None] = {}  # by their beginning
        self._alarm: asyncio.TimerHandle | None = None

    def one(self) -> AbstractContextManager[None]:
        """For the body of one call: raises TimeoutError inside of it once it is due, as ``asyncio.timeout`` does."""
        return _Deadline(self)

    def begin(self, call: _Deadline) -> None:
        loop = call.task.get_loop()
        call.at_s = loop.time() + self.total_s
        self._under_way[call] = None
        if self._alarm is None:
            self._alarm = loop.call_at(call.at_s, self._ring, loop)

    def end(self, call: _Deadline) -> None:
        # An alarm that was set for it stays, and finds the next head when it rings.
        self._under_way.pop(call, None)

    def close(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._alarm = None
        now = loop.time()
        while self._under_way:
            head = next(iter(self._under_way))
            if head.at_s > now:
                self._alarm = loop.call_at(head.at_s, self._ring, loop)
                return
            del self._under_way[head]
            head.expire()


class _Deadline(AbstractContextManager[None]):
    """A class: the generator form costs three times as much."""

    __slots__ = ("_all", "_cancelling", "_expired", "at_s", "task")

    def __init__(self, all_: Deadlines) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._all = all_
        self.task = task
        self._cancelling = task.cancelling()
        self._expired = False
        self.at_s = 0.0

    def expire(self) -> None:
        self._expired = True
        self.task.cancel()

    def __enter__(self) -> None:
        self._all.begin(self)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all.end(self)
        # Somebody else may have cancelled the task as well, and that goes before.
        if self._expired and self.task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from exc
