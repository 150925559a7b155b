"""The way out that all rows of a run share.

A call passes ``retry``, then the budget, then ``limiter``, then the mark that it is being sent, then ``client``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from pipeline import __version__
from pipeline.errors import ProviderError, RunPaused
from pipeline.provider.budget import Budget, Purse
from pipeline.provider.client import Client
from pipeline.provider.limiter import Limiter
from pipeline.provider.retry import retry
from pipeline.provider.till import Till
from pipeline.records import ApiCall, ApiReply, Outcome, Send
from pipeline.share import Need, Share


class Witness(Protocol):
    """Who is told about every attempt: before it is sent, when a good reply is there, when another one follows."""

    def sent(self, key: str) -> None: ...

    def seen(self, reply: ApiReply) -> None: ...

    def superseded(self, key: str, error: ProviderError) -> None: ...

    def ended(self, outcome: Outcome) -> None:
        """How the row ended: to be written down at once."""

    def kept(self, key: str, reply: ApiReply) -> None:
        """A reply that is paid for, and is not the row's last: written down before the next call is sent."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where calls go, and how."""

    base_url: str
    key: str | None
    headers: Mapping[str, str]
    connect_s: float
    total_s: float
    max_reply_bytes: int
    proxy: str | None
    idle_s: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What the whole job may ask for. None: not known, found out while running."""

    requests_per_minute: float | None
    tokens_per_minute: float | None
    input_tokens_per_minute: float | None
    output_tokens_per_minute: float | None
    concurrency: int
    max_output_tokens: int | None
    max_attempts: int
    max_wait_s: float
    max_in_doubt: int


class Wire:
    """The way out: an async context manager, with the one ``send`` that all rows share."""

    def __init__(
        self,
        address: Address,
        limits: Limits,
        witness: Witness,
        awaiting: Callable[[], AbstractContextManager[None]],
        stopping: Callable[[], bool],
        purses: Sequence[Purse] = (),
        till: Till | None = None,
    ) -> None:
        self._client = Client(
            base_url=address.base_url,
            key=address.key,
            headers=address.headers,
            connect_s=address.connect_s,
            total_s=address.total_s,
            concurrency=limits.concurrency,
            max_reply_bytes=address.max_reply_bytes,
            idle_s=address.idle_s,
            proxy=address.proxy,
            user_agent=f"prompt-pipeline/{__version__}",
        )
        self._limiter = Limiter(
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
            input_tokens_per_minute=limits.input_tokens_per_minute,
            output_tokens_per_minute=limits.output_tokens_per_minute,
            concurrency=limits.concurrency,
            max_output_tokens=limits.max_output_tokens,
        )
        sent = marked(self._client.send, witness, awaiting, stopping)
        self.send: Send = retry(
            Budget(purses, till).keep(self._limiter.limit(sent)),
            max_attempts=limits.max_attempts,
            max_wait_s=limits.max_wait_s,
            max_in_doubt=limits.max_in_doubt,
            on_retry=lambda call, error, wait_s: another(witness, stopping, call, error),
        )

    def found(self) -> dict[str, float | None]:
        """The limits as they were found."""
        return self._limiter.found()

    def needs(self) -> dict[str, Need]:
        """What this run could use of each configured limit. To be asked every second or so."""
        return self._limiter.needs()

    def keep_to(self, shares: Mapping[str, Share]) -> None:
        """From now on this run's share of what is configured; of a limit without one it has all."""
        self._limiter.keep_to(shares)

    def renew(self) -> None:
        """After a time that nobody lived through: connections from before it are not used again."""
        self._client.renew()

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, exc, trace)


def marked(
    send: Send,
    witness: Witness,
    awaiting: Callable[[], AbstractContextManager[None]],
    stopping: Callable[[], bool],
) -> Send:
    """The last step before the wire: nothing goes out once the run is stopping, and what goes out leaves a mark."""

    async def attempt(call: ApiCall) -> ApiReply:
        _go_on(stopping)
        witness.sent(call.row)
        if call.ear is not None:
            call.ear.sent()
        with awaiting():
            reply = await send(call)
        witness.seen(reply)
        if call.ear is not None:
            # Here and not where the reply arrives in the end: until it is written down a kill costs a paid answer, and
            # limiter, budget and ledger would take half of that time.
            call.ear.heard(reply)
        return reply

    return attempt


def another(witness: Witness, stopping: Callable[[], bool], call: ApiCall, error: ProviderError) -> None:
    """An attempt failed and another one would follow, after a wait; a run that is stopping waits for none."""
    witness.superseded(call.row, error)
    _go_on(stopping)


def _go_on(stopping: Callable[[], bool]) -> None:
    if stopping():
        raise RunPaused("the run is stopping")
