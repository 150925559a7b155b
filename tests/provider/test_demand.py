"""Several limiters that share one allowance through a table in memory, on a held clock."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.provider.allowance import REQUESTS
from pipeline.provider.limiter import Limiter
from pipeline.provider.retry import retry
from pipeline.records import Send
from pipeline.share import Claim, Share, claim, take
from tests.provider.held_clock import START_S, Admits, Bucket, Fixed, Server, Sliding, clock, held, work_for

ALL: dict[str, Any] = {"requests_per_minute": 3000, "tokens_per_minute": None}


class Job:
    """A limiter, and the clockwork of ``sharing`` without its files."""

    def __init__(self, table: dict[int, Claim], concurrency: int = 64, **limits: Any) -> None:
        self.table = table
        self.limiter = Limiter(
            concurrency=concurrency, clock=clock, random=random.Random(3).random, **{**ALL, **limits}
        )
        self.limiter.keep_to({name: Share(0.0, need.limit, 1) for name, need in self.limiter.needs().items()})
        self.beating = asyncio.ensure_future(self._beat())

    async def _beat(self) -> None:
        while True:
            needs = self.limiter.needs()
            shares = take(needs, [told for job, told in self.table.items() if job != id(self)])
            self.table[id(self)] = claim(needs, shares)
            self.limiter.keep_to(shares)
            await asyncio.sleep(1.0)

    def send(self, server: Server) -> Send:
        return retry(
            self.limiter.limit(server.send),
            max_attempts=6,
            max_wait_s=60.0,
            clock=clock,
            random=random.Random(5).random,
        )

    def die(self) -> None:
        self.beating.cancel()
        self.table.pop(id(self), None)

    @property
    def share(self) -> float:
        return self.limiter.found()["requests_per_minute_share"] or 0.0


def sent(server: Server, start_s: float, end_s: float) -> int:
    return sum(start_s <= at - START_S < end_s for at, _ in server.accepted)


@pytest.mark.parametrize("jobs", [2, 4])
@pytest.mark.parametrize("limit", [Sliding, Fixed, Bucket])
def test_jobs_together_use_all_of_what_they_share(limit: Callable[[float], Admits], jobs: int) -> None:
    server = Server(limit(3000), jitter_s=0.05)

    async def main() -> None:
        table: dict[int, Claim] = {}
        sharing = [Job(table) for _ in range(jobs)]
        await asyncio.gather(*(work_for(job.send(server), 120, 64) for job in sharing))
        for job in sharing:
            job.die()

    held(main())
    assert server.used(0, 120) >= 0.97 * 3000
    assert server.refused_share <= 0.005


def test_jobs_that_come_one_after_the_other_never_send_more_than_is_allowed() -> None:
    server = Server(Sliding(3000), jitter_s=0.05)

    async def main() -> None:
        table: dict[int, Claim] = {}

        async def come(after_s: float) -> None:
            await asyncio.sleep(after_s)
            job = Job(table)
            await work_for(job.send(server), 150 - after_s, 64)
            job.die()

        await asyncio.gather(*(come(20.3 * number) for number in range(5)))

    held(main())
    assert server.used(0, 150) >= 0.95 * 3000
    assert server.refused_share <= 0.005


def test_what_a_killed_job_had_is_used_by_the_others_within_seconds() -> None:
    server = Server(Sliding(3000), jitter_s=0.05)

    async def main() -> None:
        table: dict[int, Claim] = {}
        jobs = [Job(table) for _ in range(4)]
        tasks = [asyncio.ensure_future(work_for(job.send(server), 120, 64)) for job in jobs]
        await asyncio.sleep(70)
        jobs[0].die()
        tasks[0].cancel()
        await asyncio.gather(*tasks[1:])
        for job in jobs:
            job.die()

    held(main())
    assert sent(server, 73, 80) >= 0.97 * 50 * 7
    assert server.refused_share <= 0.005


@pytest.mark.parametrize("slow", [1, 8])
def test_a_job_that_waits_for_its_answers_leaves_the_rest_to_the_other(slow: int) -> None:
    server = Server(Sliding(3000), latency_s=2.0, jitter_s=0.05)
    last = 0.0

    async def main() -> None:
        nonlocal last
        table: dict[int, Claim] = {}
        few, many = Job(table, concurrency=slow), Job(table, concurrency=256)
        await asyncio.gather(work_for(few.send(server), 90, slow), work_for(many.send(server), 90, 256))
        last = many.share
        few.die()
        many.die()

    held(main())
    assert last >= 3000 - 1.5 * slow * 60 / 1.7 - 60
    assert server.used(20, 90) >= 0.95 * 3000


def test_a_job_that_had_nothing_to_do_gets_its_part_within_seconds() -> None:
    server = Server(Sliding(3000), jitter_s=0.05)

    async def main() -> tuple[float, float]:
        table: dict[int, Claim] = {}
        idle, busy = Job(table), Job(table)
        working = asyncio.ensure_future(work_for(busy.send(server), 90, 64))
        await asyncio.sleep(60)
        before = busy.share
        waking = asyncio.ensure_future(work_for(idle.send(server), 30, 64))
        await asyncio.sleep(8)
        after = idle.share
        await asyncio.gather(working, waking)
        idle.die()
        busy.die()
        return before, after

    before, after = held(main())
    assert before >= 0.97 * 3000
    assert after >= 0.45 * 3000
    assert server.refused_share <= 0.005


def test_tokens_are_shared_like_requests() -> None:
    def cost(rng: random.Random) -> float:
        return 100 + min(4096, max(1, int(rng.lognormvariate(0, 0.8) * 300)))

    server = Server(Sliding(600_000), cost=cost, latency_s=2.0)
    limits: dict[str, Any] = {"requests_per_minute": None, "tokens_per_minute": 600_000, "max_output_tokens": 4096}

    async def main() -> None:
        table: dict[int, Claim] = {}
        jobs = [Job(table, **limits) for _ in range(3)]
        await asyncio.gather(*(work_for(job.send(server), 240, 64) for job in jobs))
        for job in jobs:
            job.die()

    held(main())
    assert server.used(0, 240) >= 0.95 * 600_000
    assert server.refused_share <= 0.01


def test_small_limits_are_kept_though_calls_come_whole() -> None:
    server = Server(Sliding(10), jitter_s=0.05)

    async def main() -> None:
        table: dict[int, Claim] = {}
        jobs = [Job(table, requests_per_minute=10) for _ in range(3)]
        await asyncio.gather(*(work_for(job.send(server), 1200, 4) for job in jobs))
        for job in jobs:
            job.die()

    held(main())
    assert server.refused == []
    assert server.used(60, 1200) >= 7


def test_the_smallest_limit_holds_for_all() -> None:
    server = Server(Sliding(1200), jitter_s=0.05)

    async def main() -> None:
        table: dict[int, Claim] = {}
        jobs = [Job(table), Job(table, requests_per_minute=1200)]
        await asyncio.gather(*(work_for(job.send(server), 120, 64) for job in jobs))
        for job in jobs:
            job.die()

    held(main())
    assert server.used(0, 120) >= 0.95 * 1200
    assert server.refused_share <= 0.01


def test_what_was_found_tells_the_share_and_only_where_there_is_one() -> None:
    async def main() -> tuple[dict[str, float | None], dict[str, float | None]]:
        limiter = Limiter(concurrency=4, clock=clock, **ALL)
        alone = limiter.found()
        limiter.keep_to({REQUESTS: Share(750.0, 3000.0, 4)})
        return alone, limiter.found()

    alone, shared = held(main())
    assert "jobs_sharing" not in alone
    assert shared == {**alone, "jobs_sharing": 4.0, "requests_per_minute_share": 750.0}
