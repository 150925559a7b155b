from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence

import pytest

from pipeline.errors import BudgetSpent
from pipeline.provider.budget import Budget, Purse
from pipeline.provider.till import Answer, Till, new_page
from pipeline.records import ApiCall, ApiReply, Usage

LIMIT = 1_000.0


@pytest.fixture
def page() -> Iterator[int]:
    fd = new_page(3)
    yield fd
    os.close(fd)


def tills(page: int) -> list[Till]:
    return [Till(os.dup(page), 3, slot) for slot in range(3)]


def test_what_one_has_reserved_or_spent_the_others_have_not(page: int) -> None:
    one, two, three = tills(page)
    assert one.reserve([(LIMIT, 600.0)]) is Answer.YES
    assert two.reserve([(LIMIT, 600.0)]) is Answer.LATER
    assert two.reserve([(LIMIT, 400.0)]) is Answer.YES
    assert three.reserve([(LIMIT, 1.0)]) is Answer.LATER
    one.settle([(500.0, 0.0)])
    two.settle([(400.0, 0.0)])
    assert three.reserve([(LIMIT, 101.0)]) is Answer.NO
    assert three.reserve([(LIMIT, 100.0)]) is Answer.YES
    assert three.of_others() == [900.0, 0.0]


def test_of_two_purses_both_must_hold_it(page: int) -> None:
    one, two, _ = tills(page)
    assert one.reserve([(10.0, 5.0), (1.0, 0.9)]) is Answer.YES
    assert two.reserve([(10.0, 5.0), (1.0, 0.2)]) is Answer.LATER
    assert one.of_others() == [0.0, 0.0], "all or nothing"


def test_what_a_dead_process_had_reserved_is_spent_and_nobody_waits_for_it(page: int) -> None:
    one, two, leader = tills(page)
    assert one.reserve([(LIMIT, 600.0)]) is Answer.YES
    leader.bury(0)
    assert two.reserve([(LIMIT, 401.0)]) is Answer.NO
    assert two.reserve([(LIMIT, 400.0)]) is Answer.YES


def spend(page: int, slot: int, seed: int, bill: str) -> None:
    """A process that spends until nothing fits, and notes what it was billed, each amount before it settles."""
    chance = random.Random(seed)
    till = Till(page, 2, slot)
    fd = os.open(bill, os.O_WRONLY | os.O_APPEND)
    spent = 0.0
    while (answer := till.reserve([(LIMIT, 7.0)])) is not Answer.NO:
        if answer is Answer.YES:
            cost = chance.randint(1, 7)
            os.write(fd, b"%d\n" % cost)
            spent += cost
            till.settle([(spent, 0.0)])


@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_at_once_never_pass_the_limit(page: int, killed: bool, tmp_path: object) -> None:
    bill = os.path.join(str(tmp_path), "bill")
    with open(bill, "wb"):
        pass
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=spend, args=(page, slot, slot, bill)) for slot in range(2)]
    for process in both:
        process.start()
    if killed:
        while not os.path.getsize(bill):
            time.sleep(0.001)
        assert both[0].pid is not None
        os.kill(both[0].pid, signal.SIGKILL)
        both[0].join()
        Till(os.dup(page), 2).bury(0)
    for process in both:
        process.join()
    with open(bill, "rb") as file:
        billed = sum(map(int, file.read().split()))
    assert LIMIT - 14 <= billed <= LIMIT


class Slow(Till):
    """Says when it has read the page, and takes its time before it writes."""

    def __init__(self, page: int, slots: int, slot: int, told: int) -> None:
        super().__init__(page, slots, slot)
        self._told = told

    def _write(self, slot: int, amounts: Sequence[tuple[float, float]]) -> None:
        os.write(self._told, b"read")
        time.sleep(0.2)
        super()._write(slot, amounts)


def test_nobody_reserves_while_another_adds_up(page: int) -> None:
    heard, told = os.pipe()
    pid = os.fork()
    if not pid:
        answer = Slow(page, 2, 0, told).reserve([(LIMIT, 600.0)])
        os._exit(0 if answer is Answer.YES else 1)
    assert os.read(heard, 4) == b"read"
    assert Till(os.dup(page), 2, 1).reserve([(LIMIT, 600.0)]) is Answer.LATER
    assert os.waitpid(pid, 0)[1] == 0
    os.close(heard)
    os.close(told)


async def test_a_budget_waits_for_what_other_processes_may_give_back(page: int) -> None:
    def purse() -> Purse:
        return Purse("tokens", 120.0, 20.0, lambda call: 60.0, lambda usage: float(usage.total_tokens or 0))

    one, two, _ = tills(page)
    go = asyncio.Event()

    async def slow(call: ApiCall) -> ApiReply:
        await go.wait()
        return ApiReply(200, {}, b"", {}, Usage(total_tokens=10), 0.1)

    first, second = Budget([purse()], one).keep(slow), Budget([purse()], two).keep(slow)
    asked = asyncio.ensure_future(first(ApiCall("POST", "/")))
    await asyncio.sleep(0)
    waiting = asyncio.ensure_future(second(ApiCall("POST", "/")))
    await asyncio.sleep(0.12)
    assert not waiting.done(), "60 of 100 are reserved, and 60 more do not fit"
    go.set()
    await asyncio.gather(asked, waiting)
    for send in (first, second, first):
        await send(ApiCall("POST", "/"))
    with pytest.raises(BudgetSpent, match=r"70 of 120 tokens.*up to 60"):
        await second(ApiCall("POST", "/"))
