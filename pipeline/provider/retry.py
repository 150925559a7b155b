"""Which calls are tried again, and when.

Only what is transient. What was surely not billed goes again up to ``max_attempts``; what may have been billed at most
``max_in_doubt`` times more; what was paid and is unusable, what the row itself is to blame for, and what blocks the
run: never. A failure that is not ``counted`` (the endpoint as a whole is in trouble, see the limiter) costs no attempt:
the row goes back and waits at the limiter's gate, which ends the run when the trouble lasts.

The wait of one row is full jitter, so that rows that failed together do not come back together. How long everybody
waits is the limiter's business. A quota shared by all rows keeps retries from becoming a storm: when it is used up a
retry waits for its share. It is not failed for what its neighbours did.
"""

from __future__ import annotations

import asyncio
import random as _random
import time
from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from pipeline.errors import ProviderError, RateLimited, TransientError
from pipeline.records import ApiCall, ApiReply, Billed, Send

FIRST_WAIT_S = 0.5
"""The first wait is drawn from zero to this; each further one from twice as much."""

QUOTA = 500.0
"""Tokens of the shared quota, and what a retry takes out of it, as botocore has them."""

COST = 5.0
COST_IN_DOUBT = 14.0

REFILL_PER_S = 50.0
"""The quota comes back by good replies, and by itself at this rate: with an empty quota ten retries per second go."""

OnRetry = Callable[[ApiCall, ProviderError, float], None]


class Quota:
    """Tokens for retries, shared by all rows."""

    def __init__(self, size: float, clock: Callable[[], float]) -> None:
        self._size = size
        self._left = size
        self._clock = clock
        self._at_s: float | None = None

    def take(self, amount: float) -> float:
        """Take it, and say how many seconds of waiting it costs: nothing while some is left."""
        now = self._clock()
        if self._at_s is not None:
            self._left = min(self._size, self._left + (now - self._at_s) * REFILL_PER_S)
        self._at_s = now
        self._left -= amount
        return max(0.0, -self._left / REFILL_PER_S)

    def give_back(self, amount: float) -> None:
        if self._left < self._size:
            self._left = min(self._size, self._left + amount)


class _Tries:
    """The attempts of one call that failed at first."""

    def __init__(self, send: Send, call: ApiCall, first: TransientError) -> None:
        self._send = send
        self._call = call
        self._first: TransientError | None = first
        self.made = 1
        self.counted = 0
        self.in_doubt = 0

    async def attempt(self) -> ApiReply:
        first, self._first = self._first, None
        try:
            if first is not None:
                raise first  # the attempt that was already made
            self.made += 1
            reply = await self._send(self._call)
        except ProviderError as exc:
            exc.attempts = self.made
            if exc.counted:
                self.counted += 1
                self.in_doubt += exc.billed is not Billed.NO
            raise
        return reply._replace(attempts=self.made)


def retry(
    send: Send,
    *,
    max_attempts: int,
    max_wait_s: float,
    max_in_doubt: int = 1,
    quota: float = QUOTA,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    random: Callable[[], float] = _random.random,
    on_retry: OnRetry | None = None,
) -> Send:
    """The same ``send``, more than once if need be. A reply and an error say in ``attempts`` how often it was tried."""
    shared = Quota(quota, clock)

    async def again(call: ApiCall, first: TransientError) -> ApiReply:
        tries = _Tries(send, call, first)
        cost = 0.0

        def exhausted(_state: RetryCallState) -> bool:
            return tries.counted >= max_attempts or tries.in_doubt > max_in_doubt

        def wait_s(state: RetryCallState) -> float:
            nonlocal cost
            if exhausted(state):
                return 0.0  # asked for before the end is noticed: the quota is not for this one
            own_s = random() * min(FIRST_WAIT_S * 2.0 ** min(tries.made - 1, 32), max_wait_s)
            exc = _error(state)
            cost = 0.0
            if exc.counted:
                cost = COST if exc.billed is Billed.NO or isinstance(exc, RateLimited) else COST_IN_DOUBT
            # Waiting for the quota must not become a standstill of its own.
            return max(own_s, min(shared.take(cost), max_wait_s)) if cost else own_s

        def before_sleep(state: RetryCallState) -> None:
            if on_retry is not None:
                on_retry(call, _error(state), state.upcoming_sleep)

        retrying = AsyncRetrying(
            sleep=sleep,
            stop=exhausted,
            wait=wait_s,
            retry=retry_if_exception_type(TransientError),
            before_sleep=before_sleep,
            reraise=True,
        )
        reply: ApiReply = await retrying(tries.attempt)
        shared.give_back(cost)
        return reply

    async def retried(call: ApiCall) -> ApiReply:
        try:
            reply = await send(call)
        except TransientError as first:
            # Only a call that failed pays for the loop, which takes this failure for its first attempt.
            failure = first
        else:
            shared.give_back(1.0)
            return reply
        return await again(call, failure)

    return retried


def _error(state: RetryCallState) -> ProviderError:
    """What the attempt just made failed with."""
    failed = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(failed, ProviderError)
    return failed
