"""Requests and tokens per minute, calls in flight, and the pause that everyone shares.

A call passes when the gate is open (``breaker``), a place is free (``adaptive.Window``) and every pace allows it
(``allowance``). Whoever may not go waits in one queue, first come first served; the head of the queue decides, so a
small call never overtakes a big one. One alarm wakes the queue; nobody polls.
"""

from __future__ import annotations

import asyncio
import random as _random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from pipeline.errors import AnswerUnusable, EndpointDown, Overloaded, ProviderError, RateLimited, TransientError
from pipeline.provider.adaptive import Window
from pipeline.provider.allowance import Allowance
from pipeline.provider.breaker import Breaker, TimeoutGuard
from pipeline.provider.headroom import headroom
from pipeline.provider.noise import Noise, Pace
from pipeline.records import ApiCall, ApiReply, Billed, Send
from pipeline.share import Need, Share, members

FIRST_WINDOW = 8
"""Calls in flight to begin with when no limit is known."""

_LOOK_EVERY_S = 0.1
"""How often headers are read at most."""

_NEVER = float("inf")


class _Place:
    """What one call holds while it is under way."""

    __slots__ = ("input_tokens", "number", "output_tokens", "probe", "taken_s", "weight")

    def __init__(
        self, number: int, weight: int, taken_s: float, probe: bool, input_tokens: float, output_tokens: float
    ) -> None:
        self.number = number
        self.weight = weight
        self.taken_s = taken_s
        self.probe = probe  # it goes through a shut gate, to see
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens


class _Waiter:
    __slots__ = ("future", "weight")

    def __init__(self, future: asyncio.Future[_Place], weight: int) -> None:
        self.future = future
        self.weight = weight


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
        self._allowance = Allowance(
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            input_tokens_per_minute=input_tokens_per_minute,
            output_tokens_per_minute=output_tokens_per_minute,
            max_output_tokens=max_output_tokens,
        )
        self._window = Window(concurrency, concurrency if self._allowance.known else FIRST_WINDOW)
        self._noise = Noise()
        self._breaker = Breaker(
            random=random,
            # Few workers cannot fail ten times before their rows have used up their attempts.
            failures=min(breaker_after, max(3, concurrency)),
            wait_s=breaker_wait_s,
            max_wait_s=breaker_max_wait_s,
            max_down_s=max_down_s,
        )
        self._guard = TimeoutGuard()
        self._in_flight = 0
        self._refusals = 0
        self._look_s = 0.0
        self._queue: deque[_Waiter] = deque()
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_s = _NEVER
        self._last_error = ""
        self._ended: str | None = None

    def limit(self, send: Send) -> Send:
        """The same ``send``, at the right time. May raise ``EndpointDown`` when the endpoint stays out of order."""

        async def limited(call: ApiCall) -> ApiReply:
            # No lock: nothing is awaited between finding room and taking it.
            weight = call.weight
            place = self._enter(weight) or await self._queue_up(weight)
            try:
                reply = await send(call)
            except ProviderError as exc:
                self._failed(call, exc, place)
                raise
            except BaseException:
                # Cancelled, or a fault of ours: the call may be on its way, so its tokens stay taken.
                if place.probe:
                    self._breaker.lose_probe()
                raise
            else:
                self._succeeded(reply, place)
                return reply
            finally:
                self._in_flight -= 1
                if self._queue:
                    self._pump()

        return limited

    def found(self) -> dict[str, float | None]:
        """What was learned so far. None: nothing yet."""
        per_s = self._allowance.rate.per_s
        return {
            "concurrency": float(int(self._window.size)),
            "in_flight": float(self._in_flight),
            "waiting": float(len(self._queue)),
            "requests_per_minute": None if per_s is None else per_s * 60,
            "requests_per_minute_now": self._allowance.going_per_s(self._clock()) * 60,
            "tokens_per_request": self._allowance.tokens_per_call,
            "pauses": float(self._breaker.pauses),
            "outages": float(self._breaker.outages),
            "refused": float(self._refusals),
            **members(self._allowance.shares()),
        }

    def needs(self) -> dict[str, Need]:
        """What this job could use of each configured limit. To be asked every second or so."""
        return self._allowance.needs(self._clock())

    def keep_to(self, shares: Mapping[str, Share]) -> None:
        """From now on this job's share of what is configured; of a limit without one it has all."""
        self._allowance.keep_to(self._clock(), shares)
        self._pump()

    # -- in and out ------------------------------------------------------------------------------------------------

    def _enter(self, weight: int) -> _Place | None:
        """A place at once; None when one must wait for it."""
        if self._ended is not None:
            raise EndpointDown(self._ended)
        if self._queue:
            return None
        now = self._clock()
        return self._take(now, weight) if self._wait_s(now) <= 0.0 else None

    async def _queue_up(self, weight: int) -> _Place:
        waiter = _Waiter(asyncio.get_running_loop().create_future(), weight)
        self._queue.append(waiter)
        if len(self._queue) == 1:
            self._pump()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self._undo(waiter.future.result())
            self._pump()
            raise

    def _wait_s(self, now: float) -> float:
        """Seconds until the next call may go; infinite: until something happens."""
        if self._breaker.gate != "open":
            if self._breaker.probe_passes(now):
                self._open(now)
            else:
                # The paces rest meanwhile: they belong to an endpoint that lets calls through.
                shut_s = self._breaker.wait_s(now)
                return _NEVER if shut_s <= 0.0 and self._in_flight >= int(self._window.size) else shut_s
        if self._in_flight >= int(self._window.size):
            return _NEVER
        return self._allowance.wait_s(now)

    def _take(self, now: float, weight: int) -> _Place:
        probe = self._breaker.gate != "open"
        if probe:
            self._breaker.send_probe(now)
        self._in_flight += 1
        # Reserved now and not when the call began to wait: by now more is known about how long answers are.
        return _Place(self._noise.sent(), weight, now, probe, *self._allowance.take(now, weight))

    def _undo(self, place: _Place) -> None:
        """Cancelled between getting the place and sending."""
        self._in_flight -= 1
        if place.probe:
            self._breaker.lose_probe()
        self._allowance.undo(place.taken_s, place.input_tokens, place.output_tokens)

    def _pump(self) -> None:
        """Let go whoever may, and set the alarm for the next."""
        queue = self._queue
        while queue:
            if queue[0].future.done():
                queue.popleft()  # cancelled
                continue
            if self._in_flight >= int(self._window.size) and self._breaker.gate == "open":
                return  # whoever comes back asks again
            now = self._clock()
            wait_s = self._wait_s(now)
            if wait_s > 0.0:
                self._set_alarm(now, wait_s)
                return
            waiter = queue[0]
            place = self._take(now, waiter.weight)
            queue.popleft()
            waiter.future.set_result(place)
        self._stop_alarm()

    def _set_alarm(self, now: float, wait_s: float) -> None:
        if self._breaker.gate != "open":
            left_s = self._breaker.left_s(now)
            if left_s <= 0.0:
                self._end(self._breaker.complaint(self._last_error))
                return
            wait_s = min(wait_s, left_s)
        at_s = now + wait_s
        if self._alarm is not None:
            # A little too early is as good: whoever wakes asks again.
            if self._alarm_s <= at_s:
                return
            self._stop_alarm()
        if wait_s < _NEVER:
            self._alarm_s = at_s
            self._alarm = asyncio.ensure_future(self._ring(wait_s))

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm, self._alarm_s = None, _NEVER

    async def _ring(self, wait_s: float) -> None:
        await self._sleep(wait_s)
        self._alarm, self._alarm_s = None, _NEVER
        self._pump()

    def _end(self, why: str) -> None:
        """Nothing goes any more; what is in flight may finish."""
        self._ended = why
        self._stop_alarm()
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.future.done():
                waiter.future.set_exception(EndpointDown(why))

    # -- what replies teach ----------------------------------------------------------------------------------------

    def _succeeded(self, reply: ApiReply, place: _Place) -> None:
        now = self._clock()
        self._allowance.settle(place.weight, reply.usage, place.input_tokens, place.output_tokens)
        self._window.succeeded(now, self._in_flight, now - place.taken_s)
        self._alive(now, place, late=reply.late)
        if now >= self._look_s:
            self._look_s = now + _LOOK_EVERY_S
            room = headroom(reply.headers, self._wall_clock())
            if room is not None:
                self._allowance.told(now, room)

    def _failed(self, call: ApiCall, exc: ProviderError, place: _Place) -> None:
        now = self._clock()
        if exc.billed is Billed.NO:
            self._allowance.give_back(place.input_tokens, place.output_tokens)
        elif exc.billed is Billed.YES:
            self._allowance.settle(place.weight, exc.usage, place.input_tokens, place.output_tokens)
        if isinstance(exc, RateLimited):
            self._refused(now, exc, place)
        elif isinstance(exc, TransientError):
            self._broke(now, call, exc, place)
        else:
            if place.probe:
                self._breaker.lose_probe()
            self._alive(now, place)
            if isinstance(exc, AnswerUnusable):
                self._window.succeeded(now, self._in_flight, now - place.taken_s)

    def _alive(self, now: float, place: _Place, *, late: bool = False) -> None:
        self._guard.ended(late)
        if self._guard.tripped and self._ended is None:
            self._end(self._guard.complaint())
        if self._breaker.replied(place.taken_s):
            self._open(now)

    def _refused(self, now: float, exc: RateLimited, place: _Place) -> None:
        self._refusals += 1
        self._last_error = str(exc)
        self._guard.ended(False)
        self._allowance.hint.refused()
        rate = self._allowance.rate
        rate.sent.take_back(place.taken_s)
        noise = self._noise.refused(place.number)
        if noise and exc.retry_after_s is None and self._breaker.gate == "open":
            # One of those that come whatever we do: the row tries again, and the others go on.
            self._give_back_pace(now, place.number)
            return
        exc.counted = self._breaker.refused(now, place.taken_s, probe=place.probe, retry_after_s=exc.retry_after_s)
        if not exc.counted or noise or self._noise.lesson(place.number, self._pace(now)):
            return  # an echo, a probe or noise: nothing new
        # Blame what was pushing: the places when they were all taken, else the rate; at first nobody knows.
        unknown, full = rate.per_s is None and not rate.known, self._in_flight >= int(self._window.size)
        if unknown or not full or self._window.size <= 1.0:  # fewer places than one there are not
            rate.refused(now, place.taken_s)
        if unknown or full:
            self._window.refused(now, place.taken_s, self._in_flight)

    def _pace(self, now: float) -> Pace:
        per_s = self._allowance.rate.per_s
        going_per_s = self._allowance.rate.sent.per_s(now, 2.0) if per_s is None else per_s
        return Pace(going_per_s, per_s is not None, self._window.size, self._window.doubling)

    def _give_back_pace(self, now: float, number: int) -> None:
        step = self._noise.back(number, self._pace(now))
        if step is not None:
            self._allowance.rate.restore(now, step.per_s if step.limited else None)
            self._window.restore(now, step.size, doubling=step.doubling)

    def _broke(self, now: float, call: ApiCall, exc: TransientError, place: _Place) -> None:
        self._last_error = str(exc)
        if exc.kind == "timeout":
            self._guard.timed_out()
        was_down = self._breaker.gate == "down"
        exc.counted = self._breaker.failed(now, probe=place.probe, row=call.row, billed=exc.billed)
        if self._breaker.gate == "down":
            self._guard.outage()
            if not was_down:
                self._window.restart(now)
        elif isinstance(exc, Overloaded):
            self._window.overloaded(now, place.taken_s)
            if exc.retry_after_s is not None:
                self._breaker.refused(now, place.taken_s, probe=place.probe, retry_after_s=exc.retry_after_s)

    def _open(self, now: float) -> None:
        if self._breaker.counts_by_the_minute(now):
            self._allowance.rate.reopened(now, self._breaker.last_refusal_s)
        self._breaker.open(now)
        self._allowance.opened(now)
        self._window.opened(now)
