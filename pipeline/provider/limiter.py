"""Requests and tokens per minute, calls in flight, and the pause that everyone shares.

A call passes when the gate is open (``breaker``), a place is free (``adaptive.Window``), and its pace allows it:
requests and tokens as configured (``pacing``), and the rate that was found to pass (``adaptive.Rate``). Tokens are
taken as estimated (``estimate``) and settled by the reply. Whoever may not go waits in one queue, first come first
served; the head of the queue decides, so a small call never overtakes a big one.

The headers of good replies may slow us down for a moment; they never speed us up and never bring us to a stand.
"""

from __future__ import annotations

import asyncio
import random as _random
import time
from collections import deque
from collections.abc import Awaitable, Callable

from pipeline.errors import AnswerUnusable, Overloaded, ProviderError, RateLimited, RunPaused, TransientError
from pipeline.provider.adaptive import Rate, Window
from pipeline.provider.breaker import BELIEVED_S, Breaker, Gate, TimeoutGuard
from pipeline.provider.estimate import Estimate
from pipeline.provider.headroom import Headroom, headroom
from pipeline.provider.pacing import Pace, request_pace, token_pace
from pipeline.records import ApiCall, ApiReply, Billed, Send, Usage

FIRST_WINDOW = 8
"""Calls in flight to begin with when no limit is known."""

LONG_SHUT_S = 5.0
"""Shut for longer than this with probes refused: the endpoint counts by the minute."""

_LOOK_EVERY_S = 0.1
"""How often headers are read at most."""

_NEVER = float("inf")


class _Tokens:
    """One allowance of tokens. ``of`` says what part of a call it counts."""

    __slots__ = ("counts_input", "counts_output", "pace")

    def __init__(self, per_minute: float, *, counts_input: bool, counts_output: bool) -> None:
        self.pace = token_pace(per_minute)
        self.counts_input = counts_input
        self.counts_output = counts_output

    def amount(self, input_tokens: float, output_tokens: float) -> float:
        return (input_tokens if self.counts_input else 0.0) + (output_tokens if self.counts_output else 0.0)


class _Waiter:
    __slots__ = ("future", "input_tokens", "output_tokens")

    def __init__(self, future: asyncio.Future[bool], input_tokens: float, output_tokens: float) -> None:
        self.future = future  # True: it goes as a probe
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens


class Limiter:
    """One per endpoint and account, shared by all workers."""

    def __init__(
        self,
        *,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        input_tokens_per_minute: float | None = None,
        output_tokens_per_minute: float | None = None,
        concurrency: int,
        max_output_tokens: int | None = None,
        breaker_after: int = 10,
        breaker_wait_s: float = 15.0,
        breaker_max_wait_s: float = 120.0,
        max_down_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        known = any((requests_per_minute, tokens_per_minute, input_tokens_per_minute, output_tokens_per_minute))
        self._requests = None if requests_per_minute is None else request_pace(requests_per_minute)
        self._tokens = [
            _Tokens(per_minute, counts_input=counts_input, counts_output=counts_output)
            for per_minute, counts_input, counts_output in (
                (tokens_per_minute, True, True),
                (input_tokens_per_minute, True, False),
                (output_tokens_per_minute, False, True),
            )
            if per_minute is not None
        ]
        self._estimate = Estimate(max_output_tokens)
        self._window = Window(concurrency, concurrency if known else FIRST_WINDOW)
        self._rate = Rate()
        self._found: Pace | None = None  # the pace of the rate that was found
        self._hint = _Hint()
        # Few workers cannot fail ten times before their rows have used up their attempts.
        self._breaker = Breaker(
            random=random,
            failures=min(breaker_after, max(3, concurrency)),
            wait_s=breaker_wait_s,
            max_wait_s=breaker_max_wait_s,
            max_down_s=max_down_s,
        )
        self._guard = TimeoutGuard()
        self._in_flight = 0
        self._refusals = 0
        self._queue: deque[_Waiter] = deque()
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_s = _NEVER
        self._last_error = ""
        self._ended: str | None = None

    # -- the wrapped call ------------------------------------------------------------------------------------------

    def limit(self, send: Send) -> Send:
        """The same ``send``, at the right time. May raise ``RunPaused`` when the endpoint stays out of order."""

        async def limited(call: ApiCall) -> ApiReply:
            if self._ended is not None:
                raise RunPaused(self._ended)
            input_tokens = output_tokens = 0.0
            if self._tokens and call.body:
                input_tokens, output_tokens = self._estimate.input_tokens(call.body), self._estimate.output_tokens()
            # No lock: nothing is awaited between finding room and taking it.
            if self._queue or self._try(self._clock(), input_tokens, output_tokens) > 0.0:
                probe = await self._wait(input_tokens, output_tokens)
            else:
                probe = self._breaker.gate is not Gate.OPEN
            sent_s = self._clock()
            try:
                reply = await send(call)
            except ProviderError as exc:
                self._failed(call, exc, sent_s, input_tokens, output_tokens, probe=probe)
                raise
            except BaseException:
                # Cancelled, or a fault of ours: the call may be on its way, so its tokens stay taken.
                if probe:
                    self._breaker.lose_probe()
                self._free_place()
                raise
            self._succeeded(call, reply, sent_s, input_tokens, output_tokens)
            return reply

        return limited

    def _succeeded(self, call: ApiCall, reply: ApiReply, sent_s: float, reserved_in: float, reserved_out: float) -> None:
        now = self._clock()
        self._settle(call, reply.usage, reserved_in, reserved_out)
        self._window.succeeded(now, self._in_flight, now - sent_s)
        self._alive(now, sent_s)
        if now >= self._hint.look_s:
            self._hint.look_s = now + _LOOK_EVERY_S
            room = headroom(reply.headers, self._wall_clock())
            if room is not None:
                self._hint.told(now, room, self._sent_per_s(now), self._estimate.per_call())
        self._free_place()

    def _failed(
        self, call: ApiCall, exc: ProviderError, sent_s: float, reserved_in: float, reserved_out: float, *, probe: bool
    ) -> None:
        now = self._clock()
        if exc.billed is Billed.NO:
            self._give_back(reserved_in, reserved_out)
        elif exc.billed is Billed.YES:
            self._settle(call, exc.usage, reserved_in, reserved_out)
        if isinstance(exc, RateLimited):
            self._refused(now, sent_s, exc, probe=probe)
        elif isinstance(exc, TransientError):
            self._broke(now, sent_s, call, exc, probe=probe)
        else:
            self._alive(now, sent_s)
            if probe:
                self._breaker.lose_probe()
            if isinstance(exc, AnswerUnusable):
                self._window.succeeded(now, self._in_flight, now - sent_s)
        self._free_place()

    # -- what replies teach ----------------------------------------------------------------------------------------

    def _alive(self, now: float, sent_s: float) -> None:
        self._guard.ended(False)
        if self._guard.tripped:
            self._end(self._too_many_timeouts())
        if self._breaker.replied(now, sent_s):
            self._open(now)

    def _refused(self, now: float, sent_s: float, exc: RateLimited, *, probe: bool) -> None:
        self._refusals += 1
        self._last_error = str(exc)
        self._hint.refused()
        self._guard.ended(False)
        held_by_rate = self._rate.per_s is not None and self._in_flight < int(self._window.size)
        exc.counted = self._breaker.refused(now, sent_s, probe=probe, retry_after_s=exc.retry_after_s)
        if exc.counted and not probe:
            self._rate.refused(now, sent_s)
            if not held_by_rate:
                self._window.refused(now, sent_s, self._in_flight)
        else:
            self._rate.sent.take_back(sent_s)

    def _broke(self, now: float, sent_s: float, call: ApiCall, exc: TransientError, *, probe: bool) -> None:
        self._last_error = str(exc)
        down = self._breaker.gate is Gate.DOWN
        exc.counted = self._breaker.failed(now, probe=probe, row=call.row, billed=exc.billed)
        if self._breaker.gate is Gate.DOWN:
            self._guard.outage()
            if not down:
                self._window.restart(now)
        elif exc.kind == "timeout":
            self._guard.timed_out()
        if isinstance(exc, Overloaded):
            self._window.overloaded(now, sent_s)
            if exc.retry_after_s is not None and self._breaker.gate is not Gate.DOWN:
                self._breaker.refused(now, sent_s, probe=probe, retry_after_s=exc.retry_after_s)

    def _open(self, now: float) -> None:
        breaker = self._breaker
        shut_s = now - breaker.since_s
        if breaker.gate is Gate.PAUSED and shut_s > LONG_SHUT_S and (breaker.probes >= 3 or breaker.told_long):
            self._rate.reopened(now, breaker.last_refusal_s)
        self._rate.opened(now)
        self._window.opened(now)
        breaker.open(now)
        for pace in self._paces():
            pace.restart(now)
        self._pump()

    def _settle(self, call: ApiCall, usage: Usage, reserved_in: float, reserved_out: float) -> None:
        """Correct what was reserved by what was used; what is not reported stays as it was guessed."""
        self._estimate.learn(call.body, usage)
        if not self._tokens or not call.body:
            return
        used_in = reserved_in if usage.prompt_tokens is None else float(usage.prompt_tokens)
        used_out = reserved_out if usage.completion_tokens is None else float(usage.completion_tokens)
        if usage.total_tokens is not None:
            used_out = max(used_out, usage.total_tokens - used_in)  # some count reasoning only in the total
        self._give_back(reserved_in - used_in, reserved_out - used_out)

    def _give_back(self, input_tokens: float, output_tokens: float) -> None:
        for tokens in self._tokens:
            tokens.pace.give_back(tokens.amount(input_tokens, output_tokens))

    # -- places and paces ------------------------------------------------------------------------------------------

    def _try(self, now: float, input_tokens: float, output_tokens: float) -> float:
        """Take a place and go (0), or say in how many seconds to ask again (infinite: when something happens)."""
        shut = self._breaker.gate is not Gate.OPEN
        if shut:
            wait_s = self._breaker.wait_s(now)
            if wait_s > 0:
                return wait_s
            if self._breaker.probe_passes(now):
                self._breaker_opens(now)
                shut = False
        if self._in_flight >= int(self._window.size):
            return _NEVER
        wait_s = 0.0 if self._requests is None else self._requests.wait_s(now)
        for tokens in self._tokens:
            wait_s = max(wait_s, tokens.pace.wait_s(now))
        found = self._found_pace(now)
        if found is not None:
            found_s = found.wait_s(now)
            if found_s > 0 and found_s >= wait_s:
                self._rate.climb(now)
            wait_s = max(wait_s, found_s)
        if wait_s > 0 and not shut:
            return wait_s
        self._take(now, input_tokens, output_tokens, probe=shut)
        return 0.0
