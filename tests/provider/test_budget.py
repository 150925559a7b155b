from __future__ import annotations

import asyncio
import random

import pytest

from pipeline.errors import BudgetSpent, RowRejected, TransientError
from pipeline.ledger import Prices, Totals
from pipeline.provider.ask import money_purse, token_purse
from pipeline.provider.budget import Budget, Purse, tokens_of
from pipeline.records import ApiCall, ApiReply, Billed, Send, Usage
from tests.provider.held_clock import held

MAX_OUTPUT = 100


def call(size: int) -> ApiCall:
    return ApiCall("POST", "/", b"x" * size)


def reply(usage: Usage) -> ApiReply:
    return ApiReply(200, {}, b"", {}, usage, 0.1)


def purse(limit: int, before: Totals | None = None) -> Purse:
    return token_purse(limit, before or Totals(), MAX_OUTPUT)


class Bill:
    """An endpoint as hard on a budget as it can be: every call may cost up to all that it can, told or not."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.tokens = 0
        self.most_in_flight = 0
        self.in_flight = 0

    async def send(self, call: ApiCall) -> ApiReply:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answer(call)
        finally:
            self.in_flight -= 1

    async def _answer(self, call: ApiCall) -> ApiReply:
        worst = self.random.random() < 0.3
        prompt = len(call.body) if worst else self.random.randint(1, len(call.body))
        completion = MAX_OUTPUT if worst else self.random.randint(0, MAX_OUTPUT)
        end = self.random.random()
        if end < 0.1:
            await asyncio.sleep(self.random.random())
            raise TransientError("overloaded", kind="overloaded", billed=Billed.NO)
        if end < 0.15:
            raise RowRejected("refused", kind="content_policy")
        self.tokens += prompt + completion  # from here it is on the bill, whoever hears of it
        await asyncio.sleep(self.random.expovariate(2))
        if end < 0.25:
            raise TransientError("reset", kind="disconnected", billed=Billed.MAYBE)
        if end < 0.3:
            return reply(Usage())
        if end < 0.4:
            return reply(Usage(total_tokens=prompt + completion))
        return reply(Usage(prompt, completion, prompt + completion))


async def spend(bill: Bill, limit: int, before: Totals, concurrency: int = 256) -> tuple[int, Purse]:
    """Send until the budget is spent; now and then whoever waits is cut off. Gives the calls that were answered."""
    kept = purse(limit, before)
    send = Budget([kept]).keep(bill.send)
    answered = 0

    async def worker() -> None:
        nonlocal answered
        while True:
            asked = asyncio.ensure_future(send(call(bill.random.randint(10, 400))))
            if bill.random.random() < 0.05:
                asyncio.get_running_loop().call_later(bill.random.random(), asked.cancel)
            try:
                await asked
            except BudgetSpent:
                return
            except (TransientError, RowRejected, asyncio.CancelledError):
                continue
            answered += 1

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return answered, kept


@pytest.mark.parametrize("seed", range(50))
def test_the_budget_is_never_passed_by_one_token(seed: int) -> None:
    bill = Bill(seed)
    limit = bill.random.randint(1_000, 200_000)
    answered, kept = held(spend(bill, limit, Totals()))
    assert bill.tokens <= limit
    assert bill.tokens <= kept.spent <= limit
    assert kept.reserved == 0
    assert limit < 1000 or answered > 0
    # Spent means spent: less is left than one call may cost.
    assert limit - kept.spent < 400 + MAX_OUTPUT


@pytest.mark.parametrize("seed", range(10))
def test_it_is_kept_over_runs(seed: int) -> None:
    bill = Bill(seed)
    limit = 20_000
    before = Totals(30, 20, 4, Usage(6_000, 2_000, 8_000), 1)
    _, kept = held(spend(bill, limit, before))
    assert 8_000 + bill.tokens <= limit
    assert kept.spent <= limit


def test_many_wait_for_room_instead_of_giving_up() -> None:
    async def run() -> tuple[int, int]:
        bill = Bill(1)
        return (await spend(bill, 30_000, Totals(), 256))[0], bill.most_in_flight

    answered, most = held(run())
    assert answered > 30_000 / (400 + MAX_OUTPUT)  # far more than worst cases fit in
    assert most < 256


async def test_a_small_call_does_not_overtake_a_big_one() -> None:
    order: list[int] = []
    gates: dict[int, asyncio.Event] = {}

    async def answer(call: ApiCall) -> ApiReply:
        size = len(call.body)
        order.append(size)
        await gates.setdefault(size, asyncio.Event()).wait()
        return reply(Usage(1, 1, 2))

    send = Budget([purse(1000)]).keep(answer)
    tasks = [asyncio.create_task(send(call(size))) for size in (700, 600, 10)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert order == [700]
    gates[700].set()
    for size in (600, 10):
        gates.setdefault(size, asyncio.Event()).set()
    await asyncio.gather(*tasks)
    assert order == [700, 600, 10]


async def test_one_who_is_cut_off_while_waiting_leaves_room_for_the_next() -> None:
    gate = asyncio.Event()

    async def answer(call: ApiCall) -> ApiReply:
        await gate.wait()
        return reply(Usage(1, 1, 2))

    kept = purse(1000)
    send = Budget([kept]).keep(answer)
    tasks = [asyncio.create_task(send(call(800))) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert tasks[2].result().usage.total_tokens == 2
    assert (kept.spent, kept.reserved) == (4, 0)


@pytest.mark.parametrize(
    ("end", "spent"),
    [
        (reply(Usage(7, 3, 10)), 10),
        (reply(Usage(7, 3, 25)), 25),  # thoughts are in the total alone
        (reply(Usage(total_tokens=12)), 12),
        (reply(Usage()), 150),  # told nothing: all that it can have cost
        (TransientError("refused", kind="overloaded"), 0),
        (TransientError("cut", kind="disconnected", billed=Billed.MAYBE), 150),
        (TransientError("cut", kind="disconnected", billed=Billed.MAYBE, usage=Usage(7, 3, 10)), 10),
        (asyncio.CancelledError(), 150),
    ],
)
async def test_a_reservation_is_settled_by_what_the_call_did(end: ApiReply | BaseException, spent: int) -> None:
    async def answer(call: ApiCall) -> ApiReply:
        if isinstance(end, BaseException):
            raise end
        return end

    kept = purse(1000)
    send: Send = Budget([kept]).keep(answer)
    await asyncio.gather(send(call(50)), return_exceptions=True)
    assert (kept.spent, kept.reserved) == (spent, 0)


async def test_what_does_not_fit_at_all_is_told_with_its_figures_and_exit_5() -> None:
    async def answer(call: ApiCall) -> ApiReply:
        raise AssertionError("sent")

    with pytest.raises(BudgetSpent, match=r"budget\.tokens") as caught:
        await Budget([purse(100)]).keep(answer)(call(50))
    assert caught.value.exit_code == 5
    assert "150" in str(caught.value)


async def test_every_purse_must_have_room() -> None:
    async def answer(call: ApiCall) -> ApiReply:
        return reply(Usage(1000, 100, 1100))

    prices = Prices(10.0, 100.0)
    purses = [purse(10**9), money_purse(0.05, Totals(), MAX_OUTPUT, prices)]
    send = Budget(purses).keep(answer)
    await send(call(1000))
    assert purses[1].spent == pytest.approx(0.02)
    await send(call(1000))
    with pytest.raises(BudgetSpent, match="usd"):
        await send(call(1000))


async def test_without_a_budget_nothing_stands_between() -> None:
    async def answer(call: ApiCall) -> ApiReply:
        return reply(Usage())

    assert Budget([]).keep(answer) is answer


# -- what earlier runs spent


def test_tokens_that_were_only_told_as_a_total_count_over_runs() -> None:
    # They were counted as none, and each rerun had the whole budget again.
    assert purse(1000, Totals(5, 5, 0, Usage(total_tokens=700))).spent == 700
    assert purse(1000, Totals(5, 5, 0, Usage(300, 100, 900))).spent == 900


def test_attempts_that_told_nothing_count_as_long_answers() -> None:
    before = Totals(12, 10, 2, Usage(800, 100, 900), 2)
    assert purse(10**6, before).spent == 900 + 4 * (800 / 8 + MAX_OUTPUT)


def test_money_of_earlier_runs_counts_what_may_have_been_billed() -> None:
    prices = Prices(1.0, 10.0, per_request=0.5)
    before = Totals(3, 2, 1, Usage(2_000_000, 0, 2_000_000))
    kept = money_purse(100.0, before, 1_000_000, prices)
    assert kept.spent == pytest.approx((2 * 0.5 + 2.0) + (0.5 + 1.0 + 10.0))


def test_money_without_any_billed_attempt_is_nothing() -> None:
    assert money_purse(1.0, Totals(5), MAX_OUTPUT, Prices(1.0, 1.0)).spent == 0.0


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (Usage(5, 3), 8),
        (Usage(5, 3, 20), 20),
        (Usage(5, 3, 1), 8),
        (Usage(total_tokens=9), 9),
        (Usage(5, None), None),
        (Usage(), None),
    ],
)
def test_tokens_of_a_reply(usage: Usage, tokens: int | None) -> None:
    assert tokens_of(usage) == tokens
