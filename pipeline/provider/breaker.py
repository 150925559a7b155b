"""Whether anything may go at all: the pause after a refusal, and the breaker when the endpoint is down.

Both close one gate for everyone. When the wait is over one call goes as a probe; if it comes back well, the gate opens.

* A pause begins with a 429 (or an overloaded endpoint that says how long). The endpoint's ``Retry-After`` is believed
  up to 120 s. The same long value told twice is a habit, not a measurement (60, always 60): then probes go after
  short waits of our own, and when one passes well before its time the header is not believed again.
  A probe that is not refused for a while opens the gate too: a good answer may take minutes, a refusal takes none.
* The breaker opens after many failures in a row with no reply in between. Then only a reply opens the gate. A row whose
  failure may be its own (a 500 for one bad prompt) counts twice at most.

Whoever fails while the gate is shut is not to blame; ``True`` from ``refused`` and ``failed`` means it counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

from pipeline.records import Billed

BELIEVED_S = 120.0
"""A ``Retry-After`` above this is not slept through before a probe."""

_HABIT_S = 30.0
"""Told twice the same and at least this: a habit."""

_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 4.0
"""Our own waits between probes double up to this in the first minute; later four times as long."""

_SHORTEST_GRACE_S = 0.3

LONG_SHUT_S = 5.0
"""Shut for longer than this although probes went: the endpoint counts by the minute."""


Gate = Literal["open", "paused", "down"]
"""Paused: calls are refused (429); down: they fail. No enum: asked for at every call, a member of one takes 60 ns."""


class Breaker:
    """The gate. Knows no clock: every method is told the time."""

    def __init__(
        self,
        *,
        random: Callable[[], float],
        failures: int = 10,
        wait_s: float = 15.0,
        max_wait_s: float = 120.0,
        max_down_s: float = 600.0,
    ) -> None:
        self._random = random
        self._failures = failures
        self._first_wait_s = wait_s
        self._max_wait_s = max_wait_s
        self._max_down_s = max_down_s
        self.gate: Gate = "open"
        self.since_s = 0.0  # when this trouble began
        self.last_refusal_s = 0.0
        self.probes = 0  # probes that failed in this trouble
        self.asked_s: float | None = None  # the last Retry-After
        self.pauses = 0
        self.outages = 0
        self.believes = True  # whether Retry-After is believed
        self._closed_s = float("-inf")  # when the gate was last shut
        self._until_s = 0.0
        self._probe_out = False
        self._grace_ends_s = 0.0
        self._refusal_takes_s = 0.0
        self._habit: float | None = None  # the long Retry-After that ended the last pause
        self._testing = False  # probing against the header's word
        self._streak = 0
        self._streak_since_s = 0.0
        self._rows: dict[str, int] = {}

    def wait_s(self, now: float) -> float:
        """Seconds until a probe may go; only asked while the gate is shut."""
        if not self._probe_out:
            return self._until_s - now
        return self._grace_ends_s - now if self.gate == "paused" else float("inf")

    def probe_passes(self, now: float) -> bool:
        """The probe has been out so long without a refusal that it is taken for accepted."""
        return self._probe_out and self.gate == "paused" and now >= self._grace_ends_s

    def send_probe(self, now: float) -> None:
        self._probe_out = True
        self._grace_ends_s = now + max(_SHORTEST_GRACE_S, 3 * self._refusal_takes_s)

    def lose_probe(self) -> None:
        """It was cancelled: another may go."""
        self._probe_out = False

    def left_s(self, now: float) -> float:
        """Seconds until patience ends; only asked while the gate is shut."""
        return self.since_s + self._max_down_s - now

    def complaint(self, last_error: str) -> str:
        """Why the run stops."""
        minutes = f"{self._max_down_s / 60:.3g} min"
        if self.gate == "down":
            return f"the endpoint has been failing for {minutes}: {last_error}"
        if self.believes and self.asked_s is not None and self.asked_s > BELIEVED_S:
            return f"the endpoint asks to wait {spoken(self.asked_s)}: {last_error}"
        return f"the endpoint has refused every call for {minutes}: {last_error}"

    def counts_by_the_minute(self, now: float) -> bool:
        """The endpoint stayed shut so long, or said it would, that its allowance must be one per minute."""
        if self.gate != "paused" or now - self.since_s < LONG_SHUT_S:
            return False
        said = self.asked_s is not None and LONG_SHUT_S <= self.asked_s != 60.0
        return self.probes >= 3 or (said and not self._testing)

    def replied(self, sent_s: float) -> bool:
        """The endpoint answered something (a good reply, or a fault of the row). True when that opens the gate."""
        if self.gate == "open":
            self._forget_failures()
            return False
        # What was sent before the trouble began says nothing about now.
        return sent_s >= (self._closed_s if self.gate == "paused" else self._streak_since_s)

    def open(self, now: float) -> None:
        if self._testing and self.asked_s is not None and now - self._closed_s < self.asked_s / 2:
            self.believes = False
        self.gate = "open"
        self._probe_out = self._testing = False
        self._forget_failures()

    def refused(self, now: float, sent_s: float, *, probe: bool, retry_after_s: float | None) -> bool:
        """429. True when it counts against the row: it is news, not an echo of a trouble we know."""
        takes_s = now - sent_s
        self._refusal_takes_s += (0.2 if self._refusal_takes_s else 1.0) * (takes_s - self._refusal_takes_s)
        self.last_refusal_s = now
        if self.gate == "open" and sent_s < self._closed_s:
            return False  # sent before a pause that is already over
        news = self.gate == "open"
        if news:
            self.gate, self.since_s, self.probes, self.asked_s = "paused", now, 0, None
            self._closed_s = self._until_s = now
            self.pauses += 1
        elif probe:
            self.gate, self._probe_out = "paused", False
            self.probes += 1
        if news or probe:
            self._until_s = now + self._pause_s(now, retry_after_s)
        elif retry_after_s is not None and self.gate == "paused" and not self._testing and self.believes:
            self._until_s = max(self._until_s, now + min(retry_after_s, BELIEVED_S))
        return news

    def failed(self, now: float, *, probe: bool, row: str, billed: Billed) -> bool:
        """Failed in passing. True when it counts against the row."""
        if self.gate == "down":
            if probe:
                self.probes += 1
                self._probe_out = False
                self._until_s = now + min(self._first_wait_s * 2.0 ** min(self.probes, 16), self._max_wait_s)
            return False
        if probe:
            self._probe_out = False
            self._until_s = now + self._own_pause_s(now)
        if self._streak == 0:
            self._streak_since_s = now
        if not self._again(row, billed):
            self._streak += 1
        if self._streak < self._failures:
            return True
        self.since_s = self._streak_since_s
        self.gate, self.probes, self._probe_out = "down", 0, False
        self._closed_s = now
        self._until_s = now + self._first_wait_s
        self.outages += 1
        return False

    def _again(self, row: str, billed: Billed) -> bool:
        if billed is Billed.NO or not row:
            return False
        self._rows[row] = self._rows.get(row, 0) + 1
        return self._rows[row] > 2

    def _forget_failures(self) -> None:
        if self._streak:
            self._streak = 0
            self._rows.clear()

    def _own_pause_s(self, now: float) -> float:
        longest: float = _LONGEST_PAUSE_S if now - self.since_s < 60 else 4 * _LONGEST_PAUSE_S
        return min(_FIRST_PAUSE_S * 2.0 ** min(self.probes, 16), longest) * (1 + 0.2 * self._random())

    def _pause_s(self, now: float, told_s: float | None) -> float:
        if told_s is None or told_s <= 0 or not self.believes:
            return self._own_pause_s(now)
        self.asked_s = told_s
        if self._habit is not None and (told_s == self._habit or min(told_s, self._habit) > BELIEVED_S):
            self._testing = True
        self._habit = told_s if told_s >= _HABIT_S else None
        if self._testing:
            return self._own_pause_s(now)
        return min(told_s, BELIEVED_S) + self._random() * min(1.0, 0.05 * told_s)


def spoken(seconds: float) -> str:
    """A span as people say it."""
    for size, unit in ((365.25 * 86400, "years"), (86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


class TimeoutGuard:
    """Notices that the time-out is shorter than what answers normally take: such answers are made, paid and lost."""

    def __init__(self, *, share: float = 0.05, at_least: int = 20) -> None:
        self._share = share
        self._at_least = at_least
        self._last: deque[bool] = deque(maxlen=int(at_least / share))
        self._count = 0
        self._undecided = 0

    def ended(self, timed_out: bool) -> None:
        """One attempt that got an answer, good or bad."""
        while self._undecided:
            self._undecided -= 1
            self._add(True)
        self._add(timed_out)

    def timed_out(self) -> None:
        """Undecided until a reply follows: in an outage everything times out, and the time-out is not to blame."""
        self._undecided += 1

    def outage(self) -> None:
        self._undecided = 0

    @property
    def tripped(self) -> bool:
        return self._count >= self._at_least and self._count > self._share * len(self._last)

    def complaint(self) -> str:
        return (
            f"{self._count} of the last {len(self._last)} attempts ended in a time-out; answers take longer than "
            "endpoint.timeout_s.total allows, and each one cut off may be paid for: raise it and run again"
        )

    def _add(self, timed_out: bool) -> None:
        if len(self._last) == self._last.maxlen:
            self._count -= self._last[0]
        self._last.append(timed_out)
        self._count += timed_out
