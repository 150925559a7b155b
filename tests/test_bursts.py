"""Pool and limiter as a run wires them, and an endpoint whose replies come all at once."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.pool import Pool
from pipeline.provider.limiter import FIRST_WINDOW, Limiter
from pipeline.records import NO_USAGE, ApiCall, ApiReply

CALL = ApiCall("POST", "/chat/completions")
REPLY = ApiReply(200, {}, b"{}", {}, NO_USAGE, 0.1)


class Bursts:
    """Rows without end through a limiter; what is in flight waits for the next burst."""

    def __init__(self, workers: int) -> None:
        self.now = 100.0
        self.waiting: list[asyncio.Future[None]] = []
        limiter = Limiter(requests_per_minute=None, tokens_per_minute=None, concurrency=workers, clock=lambda: self.now)
        self.send = limiter.limit(self.wait)
        self.pool: Pool[int] = Pool(self.draw, self.work, workers)
        self.limiter = limiter

    async def draw(self) -> int:
        return 0

    async def work(self, row: int) -> None:
        await self.send(CALL)

    async def wait(self, call: ApiCall) -> ApiReply:
        self.waiting.append(asyncio.get_running_loop().create_future())
        await self.waiting[-1]
        return REPLY

    async def burst(self) -> int:
        """Everything that is under way comes back; how many that were."""
        for _ in range(50):
            await asyncio.sleep(0)
        self.now += 0.2
        replies, self.waiting = self.waiting, []
        for reply in replies:
            reply.set_result(None)
        return len(replies)


@pytest.mark.parametrize("most", [64, 100])
async def test_replies_that_come_in_bursts_double_what_is_in_flight_until_all_places_are_taken(most: int) -> None:
    """Workers that stand aside come a step after they are called; counted without them, a burst of 64 made room for
    one row more, and 256 places took 6 s to fill where they had taken 1."""
    bursts = Bursts(most)
    run = asyncio.create_task(bursts.pool.run())
    seen = [await bursts.burst() for _ in range(7)]
    assert seen == [min(FIRST_WINDOW << number, most) for number in range(7)]
    bursts.pool.hurry()
    await run


async def test_who_waits_for_a_pace_and_not_for_a_place_finds_no_more_places() -> None:
    bursts = Bursts(64)
    bursts.limiter._allowance.rate.per_s = 1 / 60  # one found to pass in a minute
    run = asyncio.create_task(bursts.pool.run())
    for _ in range(3):
        await bursts.burst()
    assert bursts.limiter.found()["concurrency"] == FIRST_WINDOW
    bursts.pool.hurry()
    await run
