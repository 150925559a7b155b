"""What was spent: every attempt, its tokens, and the money they come to.

Money is USD. A price that is not known makes the money unknown (None), never 0; tokens that a billed reply did not
report are counted as unreported attempts, so that a sum never looks more complete than it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.records import NO_USAGE, YES, Billed, Usage

PER_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """USD per million tokens, and per billed request. None: not known."""

    input: float | None = None
    output: float | None = None
    cached_input: float | None = None  # None: cached tokens cost what others do
    per_request: float | None = None

    @property
    def known(self) -> bool:
        return self.per_request is not None or (self.input is not None and self.output is not None)

    def cost(self, usage: Usage, requests: int = 1) -> float | None:
        """The money of some billed requests. None when a price or a token count that it needs is not known."""
        if not self.known:
            return None
        flat = (self.per_request or 0.0) * requests
        if self.input is None or self.output is None:
            return flat
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            return None
        cached = min(usage.cached_tokens or 0, usage.prompt_tokens)
        cached_price = self.input if self.cached_input is None else self.cached_input
        tokens = (
            (usage.prompt_tokens - cached) * self.input + cached * cached_price + usage.completion_tokens * self.output
        )
        return flat + tokens / PER_TOKENS


@dataclass(frozen=True, slots=True)
class Totals:
    """Attempts added up."""

    attempts: int = 0
    billed: int = 0
    maybe_billed: int = 0
    usage: Usage = NO_USAGE  # of every attempt that reported it
    unreported: int = 0  # billed attempts without token counts

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.attempts + other.attempts,
            self.billed + other.billed,
            self.maybe_billed + other.maybe_billed,
            self.usage.plus(other.usage),
            self.unreported + other.unreported,
        )

    def cost(self, prices: Prices) -> float | None:
        """Money of what was billed and reported; None when a price is unknown."""
        if not self.billed:
            return 0.0 if prices.known else None
        return prices.cost(self.usage, self.billed)


def totals_members(totals: Totals, prices: Prices) -> dict[str, int | float | None]:
    """For programs."""
    return {
        "requests": totals.attempts,
        "requests_billed": totals.billed,
        "requests_maybe_billed": totals.maybe_billed,
        "prompt_tokens": totals.usage.prompt_tokens,
        "completion_tokens": totals.usage.completion_tokens,
        "cost_usd": totals.cost(prices),
    }


class Ledger:
    """The running totals of one process, for progress and limits; what is durable is in the checkpoint."""

    def __init__(self, before: Totals) -> None:
        self.before = before
        self.attempts = 0
        self.billed = 0
        self.maybe_billed = 0
        self.unreported = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cached_tokens = 0

    def add(self, billed: Billed, usage: Usage) -> None:
        """One attempt that was made."""
        self.attempts += 1
        if billed is YES:
            self.billed += 1
            if usage.prompt_tokens is None and usage.total_tokens is None:
                self.unreported += 1
        elif billed is Billed.MAYBE:
            self.maybe_billed += 1
        self.prompt_tokens += usage.prompt_tokens or 0
        self.completion_tokens += usage.completion_tokens or 0
        self.cached_tokens += usage.cached_tokens or 0

    def totals(self) -> Totals:
        """All runs of the job so far, this one included."""
        return self.before + self.now()

    def now(self) -> Totals:
        """What this process has spent."""
        usage = Usage(self.prompt_tokens, self.completion_tokens, None, self.cached_tokens)
        return Totals(self.attempts, self.billed, self.maybe_billed, usage, self.unreported)
