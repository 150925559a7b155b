"""Time that stands still while anything can run, and jumps when everybody waits: a minute takes milliseconds.

And endpoints in pure Python that enforce an allowance the way real ones do.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from pipeline.errors import RateLimited
from pipeline.records import ApiCall, ApiReply, Send, Usage

T = TypeVar("T")

START_S = 1000.0
"""What the clock shows at first."""


class _Jumping(selectors.DefaultSelector):
    """Never waits: it moves the clock on by as long as it was told to wait."""

    now = START_S

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everybody waits, and nothing will ever happen")
        if not ready and timeout:
            self.now += timeout
        return ready


class HeldLoop(asyncio.SelectorEventLoop):
    """An event loop on a held clock."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def held(main: Coroutine[Any, Any, T]) -> T:
    """Run it on a held clock. Waiting for nothing is an error, not a hang."""
    with asyncio.Runner(loop_factory=HeldLoop) as runner:
        return runner.run(main)


def clock() -> float:
    return asyncio.get_running_loop().time()


Admits = Callable[[float, float], float]
"""Time and cost of an arriving call; zero: admitted, else the seconds after which it would be."""


class Sliding:
    """At most ``most`` in any ``span_s``, exactly."""

    def __init__(self, most: float, span_s: float = 60.0) -> None:
        self.most, self.span_s = most, span_s
        self._log: deque[tuple[float, float]] = deque()
        self.level = 0.0

    def __call__(self, now: float, cost: float) -> float:
        while self._log and self._log[0][0] <= now - self.span_s:
            self.level -= self._log.popleft()[1]
        if self.level + cost > self.most:
            return self._log[0][0] + self.span_s - now if self._log else 1.0
        self.level += cost
        self._log.append((now, cost))
        return 0.0

    def left(self, now: float) -> tuple[float, float]:
        """What is left, and in how many seconds all of it would be there again."""
        return self.most - self.level, self._log[-1][0] + self.span_s - now if self._log else 0.0


class Fixed:
    """At most ``most`` in each window of the clock."""

    def __init__(self, most: float, span_s: float = 60.0, phase_s: float = 23.0) -> None:
        self.most, self.span_s, self.phase_s = most, span_s, phase_s
        self.level = 0.0
        self._window = -1

    def __call__(self, now: float, cost: float) -> float:
        window = int((now + self.phase_s) // self.span_s)
        if window != self._window:
            self._window, self.level = window, 0.0
        if self.level + cost > self.most:
            return (window + 1) * self.span_s - self.phase_s - now
        self.level += cost
        return 0.0

    def left(self, now: float) -> tuple[float, float]:
        return self.most - self.level, self.span_s - (now + self.phase_s) % self.span_s


class Bucket:
    """Refilled evenly, holds ``burst``."""

    def __init__(self, most: float, burst: float = 50.0) -> None:
        self.most, self.burst = most, burst
        self._level = burst
        self._at: float | None = None

    def __call__(self, now: float, cost: float) -> float:
        if self._at is not None:
            self._level = min(self.burst, self._level + (now - self._at) * self.most / 60)
        self._at = now
        if self._level < cost:
            return (cost - self._level) * 60 / self.most
        self._level -= cost
        return 0.0

    def left(self, now: float) -> tuple[float, float]:
        return self._level, (self.burst - self._level) * 60 / self.most


class Server:
    """An endpoint: admits by ``limit``, answers after a latency that jitters, keeps books."""

    def __init__(
        self,
        limit: Admits,
        *,
        latency_s: float = 0.2,
        jitter_s: float = 0.05,
        cost: Callable[[random.Random], float] | None = None,
        parallel: int | None = None,
        retry_after: Callable[[float], float | None] = lambda _wait_s: None,
        headers: Callable[[], Mapping[str, str]] = dict,
        seed: int = 7,
    ) -> None:
        self.limit = limit
        self.latency_s, self.jitter_s = latency_s, jitter_s
        self.cost = cost
        self.parallel = parallel
        self.retry_after = retry_after
        self.headers = headers
        self.random = random.Random(seed)
        self.accepted: list[tuple[float, float]] = []
        self.refused: list[float] = []
        self.in_flight = 0
        self.most_in_flight = 0

    async def send(self, call: ApiCall) -> ApiReply:
        await asyncio.sleep(self.latency_s * 0.1 + self.random.random() * self.jitter_s)
        cost = 1.0 if self.cost is None else self.cost(self.random)
        now = clock()
        wait_s = self.limit(now, cost)
        if wait_s == 0.0 and self.parallel is not None and self.in_flight >= self.parallel:
            wait_s = 1.0
        if wait_s > 0.0:
            self.refused.append(now)
            await asyncio.sleep(self.latency_s * 0.1)
            raise RateLimited("too many", kind="rate_limited", status=429, retry_after_s=self.retry_after(wait_s))
        self.accepted.append((now, cost))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency_s * (0.7 + 0.4 * self.random.random()))
        finally:
            self.in_flight -= 1
        usage = Usage() if self.cost is None else Usage(100, int(cost) - 100, int(cost))
        return ApiReply(200, self.headers(), b"", {}, usage, self.latency_s)

    def used(self, start_s: float, end_s: float) -> float:
        """Cost admitted per minute between two times, counted from the clock's beginning."""
        total = sum(cost for at, cost in self.accepted if start_s <= at - START_S < end_s)
        return total * 60 / (end_s - start_s)

    @property
    def refused_share(self) -> float:
        return len(self.refused) / max(1, len(self.refused) + len(self.accepted))


async def work(send: Send, rows: int, workers: int, body: bytes = b"x" * 400) -> list[BaseException]:
    """Send so many calls by so many workers; returns what was raised."""
    todo = iter(range(rows))
    faults: list[BaseException] = []

    async def worker() -> None:
        for row in todo:
            try:
                await send(ApiCall("POST", "/", body, row=f"{row:032x}"))
            except Exception as exc:  # noqa: BLE001 - whatever it is, the test wants to see it
                faults.append(exc)

    await asyncio.gather(*(worker() for _ in range(workers)))
    return faults


async def work_for(send: Send, span_s: float, workers: int, body: bytes = b"x" * 400) -> list[BaseException]:
    """Keep so many workers sending for a time; returns what was raised."""
    faults: list[BaseException] = []
    end_s = clock() + span_s

    async def worker(number: int) -> None:
        row = 0
        while clock() < end_s:
            row += 1
            try:
                await send(ApiCall("POST", "/", body, row=f"{number:016x}{row:016x}"))
            except Exception as exc:  # noqa: BLE001 - whatever it is, the test wants to see it
                faults.append(exc)

    await asyncio.gather(*(worker(number) for number in range(workers)))
    return faults
