from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pipeline.pool import Pool


def numbers(upto: int) -> Callable[[], Awaitable[int | None]]:
    left = iter(range(upto))

    async def draw() -> int | None:
        return next(left, None)

    return draw


async def settle() -> None:
    """Let everything run that can run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_every_item_is_worked_on_once() -> None:
    done: list[int] = []

    async def work(item: int) -> None:
        await asyncio.sleep(0)
        done.append(item)

    await Pool(numbers(100), work, 7).run()
    assert sorted(done) == list(range(100))


async def test_no_more_is_drawn_than_there_are_workers() -> None:
    drawn: list[int] = []
    go = asyncio.Event()

    async def draw() -> int | None:
        drawn.append(len(drawn))
        return drawn[-1] if len(drawn) <= 50 else None

    async def work(item: int) -> None:
        await go.wait()

    running = asyncio.create_task(Pool(draw, work, 5).run())
    await settle()
    assert len(drawn) == 5
    go.set()
    await running


async def test_a_stop_lets_awaited_answers_finish_and_ends_the_rest_at_once() -> None:
    answer = asyncio.Event()
    finished: list[int] = []

    async def work(item: int) -> None:
        if item % 2:
            await asyncio.Event().wait()  # in a queue, or a backoff: nothing is paid for yet
        with pool.answer_awaited():
            await answer.wait()
        finished.append(item)

    pool = Pool(numbers(100), work, 6)
    running = asyncio.create_task(pool.run())
    await settle()
    assert pool.awaited == 3
    pool.stop()
    await settle()
    assert not running.done()
    answer.set()
    await running
    assert sorted(finished) == [0, 2, 4]
    assert pool.awaited == 0


async def test_hurry_cuts_off_awaited_answers_too() -> None:
    async def work(item: int) -> None:
        with pool.answer_awaited():
            await asyncio.Event().wait()

    pool = Pool(numbers(10), work, 3)
    running = asyncio.create_task(pool.run())
    await settle()
    pool.stop()
    pool.hurry()
    await running
    assert pool.awaited == 0


async def test_a_worker_that_stops_the_pool_itself_still_finishes_its_item() -> None:
    ended: list[int] = []

    async def work(item: int) -> None:
        pool.stop()
        ended.append(item)

    pool = Pool(numbers(10), work, 1)
    await pool.run()
    assert ended == [0]


async def test_what_a_worker_raises_is_raised_and_nobody_is_left_behind() -> None:
    cut: list[int] = []

    async def work(item: int) -> None:
        if item == 1:
            raise ZeroDivisionError
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cut.append(item)
            raise

    with pytest.raises(ZeroDivisionError):
        await Pool(numbers(3), work, 3).run()
    assert sorted(cut) == [0, 2]


async def test_a_pool_that_was_stopped_before_it_ran_draws_nothing() -> None:
    async def draw() -> int | None:
        raise AssertionError("drawn")

    async def work(item: int) -> None:
        return

    pool = Pool(draw, work, 3)
    pool.stop()
    await pool.run()


async def test_what_goes_alone_is_under_the_same_stop() -> None:
    async def work(item: int) -> None:
        return

    async def forever() -> int:
        await asyncio.Event().wait()
        return 1

    async def at_once() -> int:
        return 2

    pool = Pool(numbers(0), work, 1)
    assert await pool.alone(at_once()) == 2
    alone = asyncio.create_task(pool.alone(forever()))
    await settle()
    pool.stop()
    assert await alone is None


async def test_a_cancellation_from_outside_is_no_stop() -> None:
    async def work(item: int) -> None:
        return

    async def forever() -> None:
        await asyncio.Event().wait()

    alone = asyncio.create_task(Pool(numbers(0), work, 1).alone(forever()))
    await settle()
    alone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await alone
