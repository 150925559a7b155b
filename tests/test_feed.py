from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from pipeline.errors import InputError
from pipeline.feed import LOW_WATER, Feed
from pipeline.records import Row


def batches(count: int, size: int, seen: Callable[[int], None] = lambda batch: None) -> Iterator[list[Row]]:
    for batch in range(count):
        seen(batch)
        yield [Row(batch * size + place, None, {}) for place in range(size)]


async def drawn(feed: Feed) -> list[int]:
    rows = []
    while (row := await feed.draw()) is not None:
        rows.append(row.ordinal)
    return rows


async def test_rows_come_in_input_order() -> None:
    assert await drawn(Feed(batches(7, 300))) == list(range(2100))


async def test_many_who_draw_at_once_get_each_row_once_and_in_order() -> None:
    feed = Feed(batches(40, 50))
    order: list[int] = []

    async def worker() -> None:
        while (row := await feed.draw()) is not None:
            order.append(row.ordinal)
            await asyncio.sleep(0)

    await asyncio.gather(*(worker() for _ in range(64)))
    assert order == list(range(2000))


async def test_rows_that_are_not_wanted_are_passed_over() -> None:
    assert await drawn(Feed(batches(20, 100), lambda ordinal: ordinal % 500 == 499)) == [499, 999, 1499, 1999]


async def test_no_rows_are_no_rows() -> None:
    assert await drawn(Feed(iter([]))) == []
    assert await drawn(Feed(iter([[], []]))) == []


async def test_one_batch_is_read_ahead_and_no_more() -> None:
    read: list[int] = []
    feed = Feed(batches(50, 2 * LOW_WATER, read.append))
    for _ in range(LOW_WATER):
        await feed.draw()
    assert read == [0]
    for _ in range(LOW_WATER):
        await feed.draw()
    await feed.close()
    assert read == [0, 1]


async def test_one_who_is_cancelled_while_waiting_takes_no_row_along() -> None:
    gate = threading.Event()

    def slow() -> Iterator[list[Row]]:
        gate.wait()
        yield from batches(1, 3)

    feed = Feed(slow())
    first = asyncio.create_task(feed.draw())
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.set()
    assert await drawn(feed) == [0, 1, 2]


async def test_a_table_that_turns_out_damaged_is_told_to_everybody_after_the_rows_before_it() -> None:
    def damaged() -> Iterator[list[Row]]:
        yield from batches(1, 3)
        raise InputError("line 4 is torn")

    feed = Feed(damaged())
    rows = [await feed.draw() for _ in range(3)]
    assert [row.ordinal for row in rows if row] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(InputError):
            await feed.draw()
    await feed.close()


async def test_close_waits_for_a_batch_that_is_being_read() -> None:
    gate, entered, ended = threading.Event(), threading.Event(), threading.Event()

    def slow() -> Iterator[list[Row]]:
        entered.set()
        gate.wait()
        ended.set()
        yield []

    feed = Feed(slow())
    waiting = asyncio.create_task(feed.draw())
    await asyncio.to_thread(entered.wait)
    waiting.cancel()
    closing = asyncio.create_task(feed.close())
    await asyncio.sleep(0)
    assert not closing.done()
    gate.set()
    await closing
    assert ended.is_set()


async def test_whoever_gives_up_does_not_wait_for_a_slow_disk() -> None:
    gate = threading.Event()

    def stuck() -> Iterator[list[Row]]:
        gate.wait()
        yield []

    feed = Feed(stuck())
    waiting = asyncio.create_task(feed.draw())
    await asyncio.sleep(0)
    feed.give_up()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await feed.close()
    gate.set()
