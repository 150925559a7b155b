from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


# -- room


class Places:
    """A window that changes, as a limiter's does; whoever finds no place stands in line."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.taken = 0
        self.line: list[asyncio.Future[None]] = []
        self.longest_line = 0
        self.left = 0
        self.on_room: Callable[[], None] = lambda: None

    @property
    def size(self) -> int:
        return self.sizes[min(self.left // 5, len(self.sizes) - 1)]

    def room(self) -> int:
        return self.size - self.taken - len(self.line)

    async def enter(self) -> None:
        if self.taken >= self.size or self.line:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.line.append(turn)
            self.longest_line = max(self.longest_line, len(self.line))
            await turn
        else:
            self.taken += 1

    def leave(self) -> None:
        self.taken -= 1
        self.left += 1
        while self.line and self.taken < self.size:
            self.taken += 1
            self.line.pop(0).set_result(None)
        self.on_room()


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=0, max_size=60),
    st.integers(1, 12),
)
def test_whatever_the_window_does_every_item_is_worked_on(
    sizes: list[int], items: list[tuple[int, int]], workers: int
) -> None:
    """``items``: how many steps each has a place, and how many more it takes without one."""
    done: list[int] = []

    async def main() -> None:
        places = Places(sizes)
        left = iter(range(len(items)))

        async def draw() -> int | None:
            return next(left, None)

        async def work(item: int) -> None:
            await places.enter()
            with_place, without = items[item]
            for _ in range(with_place):
                await asyncio.sleep(0)
            places.leave()
            for _ in range(without):
                await asyncio.sleep(0)
            done.append(item)

        pool = Pool(draw, work, workers)
        pool.room, places.on_room = places.room, pool.look
        await asyncio.wait_for(pool.run(), 5)

    asyncio.run(main())
    assert sorted(done) == list(range(len(items)))


async def test_who_finds_no_room_draws_nothing_until_somebody_leaves_it() -> None:
    places, drawn = Places([2]), [0]
    answers = [asyncio.Event() for _ in range(6)]

    async def draw() -> int | None:
        await asyncio.sleep(0)  # a table takes its time: all see room at first
        drawn[0] += 1
        return drawn[0] - 1 if drawn[0] <= 6 else None

    async def work(item: int) -> None:
        await places.enter()
        await answers[item].wait()
        places.leave()

    pool = Pool(draw, work, 3)
    pool.room, places.on_room = places.room, pool.look
    running = asyncio.create_task(pool.run())
    await settle()
    assert (places.taken, len(places.line), drawn[0]) == (2, 1, 3)
    answers[0].set()
    await settle()
    assert (places.taken, len(places.line), drawn[0]) == (2, 0, 3), "whoever was in line has the place"
    answers[1].set()
    await settle()
    assert (places.taken, len(places.line), drawn[0]) == (2, 0, 4), "nobody is in line, and one more was drawn"
    for answer in answers:
        answer.set()
    await running


async def test_a_worker_that_keeps_its_item_makes_room_for_another() -> None:
    places, done = Places([1]), asyncio.Event()
    worked: list[int] = []

    async def work(item: int) -> None:
        await places.enter()
        await asyncio.sleep(0)
        places.leave()
        worked.append(item)
        if item == 0:
            await done.wait()  # a link is fetched, a wait between two attempts

    pool = Pool(numbers(20), work, 4)
    pool.room, places.on_room = places.room, pool.look
    running = asyncio.create_task(pool.run())
    await settle()
    await settle()
    await settle()
    assert sorted(worked) == list(range(20))
    done.set()
    await running


async def test_a_stop_ends_those_who_stand_aside() -> None:
    places = Places([1])

    async def work(item: int) -> None:
        await places.enter()
        await asyncio.sleep(3600)

    pool = Pool(numbers(20), work, 4)
    pool.room, places.on_room = places.room, pool.look
    running = asyncio.create_task(pool.run())
    await settle()
    pool.stop()
    await asyncio.wait_for(running, 5)
