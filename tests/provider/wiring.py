"""The whole wire as a run has it (retry, budget, limiter, mark, client), and time a thousand times as fast."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from pipeline.errors import ProviderError
from pipeline.provider.ask import ask
from pipeline.provider.budget import Budget, Purse
from pipeline.provider.client import Client
from pipeline.provider.endpoints.chat import dialogue
from pipeline.provider.limiter import Limiter
from pipeline.provider.retry import retry
from pipeline.provider.wire import another, marked
from pipeline.records import ApiReply, Model, Outcome, Prompt, Row, Send, Terms

FASTER = 1000.0
MAX_ATTEMPTS = 6


def clock() -> float:
    return time.monotonic() * FASTER


async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds / FASTER)


class Books:
    """The witness: every attempt, and what was told of those that failed."""

    def __init__(self) -> None:
        self.sent_for: list[str] = []
        self.errors: list[ProviderError] = []
        self.replies: list[ApiReply] = []
        self.outcomes: list[Outcome] = []

    def sent(self, key: str) -> None:
        self.sent_for.append(key)

    def seen(self, reply: ApiReply) -> None:
        self.replies.append(reply)

    def superseded(self, key: str, error: ProviderError) -> None:
        self.errors.append(error)

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def kept(self, key: str, reply: ApiReply) -> None:
        raise AssertionError(f"{key}: an exchange of one call has no further reply to keep")


def wired(
    client: Client,
    books: Books,
    *,
    max_in_doubt: int = 1,
    purses: Sequence[Purse] = (),
    concurrency: int = 64,
    **limits: Any,
) -> Send:
    """Composed as in ``pipeline.provider.ask.Wire``, but for the clocks."""
    chance = random.Random(11)
    limiter = Limiter(
        requests_per_minute=None,
        tokens_per_minute=None,
        concurrency=concurrency,
        clock=clock,
        sleep=sleep,
        random=chance.random,
        **limits,
    )
    sent = marked(client.send, books, _awaiting, lambda: False)
    return retry(
        Budget(purses).keep(limiter.limit(sent)),
        max_attempts=MAX_ATTEMPTS,
        max_wait_s=60.0,
        max_in_doubt=max_in_doubt,
        clock=clock,
        sleep=sleep,
        random=chance.random,
        on_retry=lambda call, error, wait_s: another(books, lambda: False, call, error),
    )


def _awaiting() -> AbstractContextManager[None]:
    return contextlib.nullcontext()


async def asked(send: Send, number: int = 0, *, stream: bool = False) -> Outcome:
    """One row through the wire, as the run asks it. Raises RunBlocked and RunPaused."""
    terms = Terms(stream=stream)
    exchange = dialogue(Model("m", {"max_tokens": 20}), None, terms)(
        Prompt([{"role": "user", "content": f"row {number}"}])
    )
    return await ask(send, Row(number, None, {}), f"{number:032x}", exchange, next(exchange), witness=Books())
