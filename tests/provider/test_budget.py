"""A budget is kept to the token, whatever the attempts turn out to cost."""

from __future__ import annotations

import asyncio
import random

import pytest

from pipeline.errors import AnswerUnusable, BudgetSpent, ProviderError, TransientError
from pipeline.ledger import Prices, Totals
from pipeline.provider.budget import Budget, Purse
from pipeline.provider.purses import money_purse, token_purse
from pipeline.records import ApiCall, ApiReply, Billed, Send, Usage
from tests.provider.held_clock import held

MOST_OUT = 60
NOTHING = Totals()


class Provider:
    """Bills what the seed says; some attempts fail billed, with or without telling what they cost."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.tokens = 0
        self.requests = 0

    async def send(self, call: ApiCall) -> ApiReply:
        self.requests += 1
        await asyncio.sleep(self.chance.expovariate(5))
        fate = self.chance.random()
        if fate < 0.1:
            raise TransientError("busy", kind="overloaded", billed=Billed.NO)
        usage = Usage(self.chance.randint(1, len(call.body)), self.chance.randint(0, MOST_OUT))
        self.tokens += (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
        if fate < 0.2:
            raise TransientError("cut", kind="timeout", billed=Billed.MAYBE)
        if fate < 0.25:
            raise AnswerUnusable("empty", kind="empty_body", billed=Billed.YES)
        if fate < 0.3:
            raise AnswerUnusable("no choices", kind="no_choices", billed=Billed.YES, usage=usage)
        return ApiReply(200, {}, b"", {}, usage, 0.1)


async def spend_all(send: Send, seed: int, workers: int) -> int:
    """Everybody asks until the budget says no; gives how many were told so."""
    chance = random.Random(seed + 1)
    told = 0

    async def worker() -> None:
        nonlocal told
        while True:
            try:
                await send(ApiCall("POST", "/", b"x" * chance.randint(20, 400)))
            except BudgetSpent:
                told += 1
                return
            except ProviderError:
                continue

    await asyncio.gather(*(worker() for _ in range(workers)))
    return told


@pytest.mark.parametrize("seed", range(50))
def test_256_workers_never_pass_a_budget_of_tokens_by_one(seed: int) -> None:
    provider = Provider(seed)
    limit = random.Random(seed).randint(1_000, 60_000)
    budget = Budget([token_purse(limit, NOTHING, MOST_OUT)])
    assert held(spend_all(budget.keep(provider.send), seed, 256)) == 256
    assert provider.tokens <= limit
    assert provider.requests > 0
    assert budget.purses[0].reserved == 0
    # What is left would not pay for the dearest request there is.
    assert limit - budget.purses[0].spent < 400 + MOST_OUT


@pytest.mark.parametrize("seed", range(5))
def test_a_budget_of_money_is_kept_too(seed: int) -> None:
    provider = Provider(seed)
    prices = Prices(2.0, 2.0)
    budget = Budget([money_purse(0.05, NOTHING, MOST_OUT, prices)])
    held(spend_all(budget.keep(provider.send), seed, 64))
    assert 0.04 < budget.purses[0].spent <= 0.05
    assert provider.tokens * 2.0 / 1e6 <= 0.05


def test_earlier_runs_count_and_what_they_were_never_told_counts_in_full() -> None:
    before = Totals(attempts=12, billed=10, maybe_billed=2, usage=Usage(1_000, 200), unreported=0)
    purse = token_purse(10_000, before, MOST_OUT)
    assert purse.spent == 1_200 + 2 * (100 + MOST_OUT)


def test_two_purses_must_both_have_room() -> None:
    rich = token_purse(1_000_000, NOTHING, MOST_OUT)
    poor = Purse("usd", 1.0, 0.9, lambda call: 0.2, lambda usage: 0.0)
    provider = Provider(1)
    with pytest.raises(BudgetSpent, match="usd"):
        held(_once(Budget([rich, poor]).keep(provider.send)))
    assert provider.requests == 0


def test_an_attachment_counts_as_the_spec_says_and_not_by_its_bytes() -> None:
    call = ApiCall("POST", "/", b"x" * 10_000, attachments=2, attached_bytes=9_000)
    assert token_purse(1, NOTHING, MOST_OUT, 300).worst(call) == 1_000 + 2 * 300 + MOST_OUT
    assert money_purse(1, NOTHING, MOST_OUT, Prices(1.0, 0.0), 300).worst(call) == pytest.approx(1_600 / 1e6)


async def _once(send: Send) -> ApiReply:
    return await send(ApiCall("POST", "/", b"x"))
