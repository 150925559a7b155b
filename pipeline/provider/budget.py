"""A budget that is never passed: the most an attempt can cost is reserved before it is sent, and settled after.

What an attempt can cost at most: a token is at least one byte of the text, an attachment costs at most what the spec
says, and an answer has at most ``max_tokens``. That is far more than most cost, so a reservation that does not fit
waits for those in flight to be settled; the budget is spent only when nothing is in flight and still not one attempt
fits. An attempt that may have been billed, and told no tokens, stays reserved for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.errors import BudgetSpent, ProviderError
from pipeline.records import ApiCall, ApiReply, Billed, Send, Usage


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
    """Shared by all rows of a run; no purse, no budget."""

    def __init__(self, purses: Sequence[Purse]) -> None:
        self.purses = tuple(purses)
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
            while not all(map(Purse.fits, self.purses, amounts)):
                if not self._in_flight:
                    raise BudgetSpent(self._why(amounts))
                self._settled.clear()
                await self._settled.wait()
            self._in_flight += 1
            for purse, amount in zip(self.purses, amounts, strict=True):
                purse.reserved += amount

    def _settle(self, amounts: list[float], usage: Usage | None, billed: Billed) -> None:
        self._in_flight -= 1
        for purse, amount in zip(self.purses, amounts, strict=True):
            purse.reserved -= amount
            if billed is not Billed.NO:
                known = None if usage is None else purse.actual(usage)
                purse.spent += amount if known is None else known
        self._settled.set()

    def _why(self, amounts: list[float]) -> str:
        purse, amount = next((p, a) for p, a in zip(self.purses, amounts, strict=True) if not p.fits(a))
        return (
            f"the budget is spent: {purse.spent:,.6g} of {purse.limit:,.6g} {purse.unit}, and the next request could "
            f"cost up to {amount:,.6g}. Raise budget.{purse.unit} or be content; the other rows stay pending"
        )


def tokens_of(usage: Usage) -> float | None:
    """Prompt and completion tokens, or the total where that is more or all there is."""
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return usage.total_tokens
    return max(usage.prompt_tokens + usage.completion_tokens, usage.total_tokens or 0)
