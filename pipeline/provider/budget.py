"""A budget that is never passed: the most an attempt can cost is reserved before it is sent, and settled after.

What an attempt can cost at most: a token is at least one byte of the text, an attachment costs at most what the spec
says, and an answer has at most ``max_tokens``. That is far more than most cost, so a reservation that does not fit
waits for those in flight to be settled; the budget is spent only when nothing is in flight and still not one attempt
fits. An attempt that may have been billed, and told no tokens, stays reserved for good.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.errors import BudgetSpent, ProviderError
from pipeline.provider.till import Answer, Till
from pipeline.records import ApiCall, ApiReply, Billed, Send, Usage

LOOK_EVERY_S = 0.05
"""How often is looked whether other processes have settled what they had reserved."""


@dataclass(slots=True)
class Purse:
    """One allowance in one unit (``tokens`` or ``usd``), with the means to price an attempt in it."""

    unit: str
    limit: float
    spent: float  # settled, earlier runs included
    worst: Callable[[ApiCall], float]  # the most that a call can cost
    actual: Callable[[Usage], float | None]  # what a billed call did cost; None when it told too little
    reserved: float = 0.0

    def fits(self, amount: float) -> bool:
        return self.spent + self.reserved + amount <= self.limit


class Budget:
    """Shared by all rows of a run; no purse, no budget. ``till``: by other processes, too."""

    def __init__(self, purses: Sequence[Purse], till: Till | None = None) -> None:
        self.purses = tuple(purses)
        self._till = till
        self._before = [purse.spent for purse in purses]
        self._in_flight = 0
        self._door = asyncio.Lock()  # first come, first served: a small attempt never overtakes a big one
        self._settled = asyncio.Event()

    def keep(self, send: Send) -> Send:
        """The same ``send``, within the budget. Raises BudgetSpent when not even one more attempt fits."""
        if not self.purses:
            return send

        async def kept(call: ApiCall) -> ApiReply:
            amounts = [purse.worst(call) for purse in self.purses]
            await self._reserve(amounts)
            usage: Usage | None = None
            billed = Billed.MAYBE  # cut off: it may be on its way
            try:
                reply = await send(call)
                usage, billed = reply.usage, Billed.YES
                return reply
            except ProviderError as error:
                usage, billed = error.usage, error.billed
                raise
            finally:
                self._settle(amounts, usage, billed)

        return kept

    async def _reserve(self, amounts: list[float]) -> None:
        async with self._door:
            while (answer := self._take(amounts)) is not Answer.YES:
                if not self._in_flight and answer is Answer.NO:
                    raise BudgetSpent(self._why(amounts))
                self._settled.clear()
                if self._till is None:
                    await self._settled.wait()
                else:  # nobody tells what other processes settle
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._settled.wait(), LOOK_EVERY_S)

    def _take(self, amounts: list[float]) -> Answer:
        """Reserve them all, or nothing."""
        if self._till is None:
            answer = Answer.YES if all(map(Purse.fits, self.purses, amounts)) else Answer.NO
        else:
            tills = zip(self.purses, self._before, amounts, strict=True)
            answer = self._till.reserve([(purse.limit - before, amount) for purse, before, amount in tills])
        if answer is Answer.YES:
            self._in_flight += 1
            for purse, amount in zip(self.purses, amounts, strict=True):
                purse.reserved += amount
        return answer

    def _settle(self, amounts: list[float], usage: Usage | None, billed: Billed) -> None:
        self._in_flight -= 1
        for purse, amount in zip(self.purses, amounts, strict=True):
            purse.reserved -= amount
            if billed is not Billed.NO:
                known = None if usage is None else purse.actual(usage)
                purse.spent += amount if known is None else known
        if self._till is not None:
            spent = [purse.spent - before for purse, before in zip(self.purses, self._before, strict=True)]
            self._till.settle([(now, purse.reserved) for now, purse in zip(spent, self.purses, strict=True)])
        self._settled.set()

    def _why(self, amounts: list[float]) -> str:
        others = [0.0] * len(amounts) if self._till is None else self._till.of_others()
        shorts = [(p, a, o) for p, a, o in zip(self.purses, amounts, others, strict=False) if not p.fits(a + o)]
        purse, amount, elsewhere = shorts[0] if shorts else (self.purses[0], amounts[0], others[0])
        return (
            f"the budget is spent: {purse.spent + elsewhere:,.6g} of {purse.limit:,.6g} {purse.unit}, and the next "
            f"request could cost up to {amount:,.6g}. Raise budget.{purse.unit} or be content; the other rows stay "
            "pending"
        )


def tokens_of(usage: Usage) -> float | None:
    """Prompt and completion tokens, or the total where that is more or all there is."""
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return usage.total_tokens
    return max(usage.prompt_tokens + usage.completion_tokens, usage.total_tokens or 0)
