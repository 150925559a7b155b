"""Even pacing: plain arithmetic on times that are handed in.

An allowance per minute is enforced out there by an exact sliding window, by a window that starts with the clock's
minute, or by a bucket that refills all the time and holds little. Only calls spread evenly suit all three. Sent
at exactly the allowed rate, a call that travels 10 ms faster than its forerunner of a minute ago is one too many; so
the aim is a little below, and the margin is a time: 0.7 % of a minute is 0.42 s, of which ``SLACK_S`` may be spent on
catching up when the event loop was late, and the rest is for the jitter of the way.
"""

from __future__ import annotations

REQUEST_SHARE = 0.993
"""Share of the allowed requests that is aimed at."""

TOKEN_SHARE = 0.98
"""Share of the allowed tokens that is aimed at; the lengths in flight are guesses."""

SLACK_S = 0.2
"""How much lost time a pace may catch up by sending closer together."""

TOKEN_SLACK_S = 1.0
"""... and of tokens, which come back late when a guess was too high."""

SLACK_CALLS = 20
"""... but never more than so many calls at once: small buckets hold 50."""

_NEVER = float("inf")


class Pace:
    """Amounts per second, evenly. What is taken may lie below zero and is then paid for by waiting."""

    __slots__ = ("_next", "_started", "per_s", "shut", "slack_s", "used")

    def __init__(self, per_s: float, slack_s: float = SLACK_S) -> None:
        self.per_s = per_s
        self.slack_s = slack_s
        self.shut = False  # nothing goes until the pace is changed
        self.used = 0.0  # in all, less what came back
        self._next = 0.0
        self._started = False

    def wait_s(self, now: float) -> float:
        """Seconds until the next call may go; zero or less: at once."""
        if self.shut:
            return _NEVER
        return self._next - now if self._started else 0.0

    def take(self, now: float, amount: float = 1.0) -> None:
        self.used += amount
        if self._started:
            earliest = now - self.slack_s
            self._next = (self._next if self._next > earliest else earliest) + amount / self.per_s
        else:
            self._started = True
            self._next = now + amount / self.per_s

    def give_back(self, amount: float = 1.0) -> None:
        """Return what was taken and not used; a negative amount is a debt on top."""
        self.used -= amount
        self._next -= amount / self.per_s

    def restart(self, now: float) -> None:
        """Forget time lost so far: after a pause nothing is caught up."""
        if self._started and self._next < now:
            self._next = now

    def change(self, now: float, per_s: float, slack_s: float) -> None:
        """Another pace from now on; zero: none. What is owed stays owed, and what may be caught up stays as much."""
        self.shut = per_s <= 0.0
        if self.shut:
            return
        if self._started:
            self._next = now + max(self._next - now, -self.slack_s) * self.per_s / per_s
        self.per_s, self.slack_s = per_s, slack_s


def request_pace(per_minute: float) -> Pace:
    """The pace of calls that keeps just under an allowance."""
    per_s = per_minute * REQUEST_SHARE / 60
    return Pace(per_s, request_slack_s(per_minute))


def request_slack_s(per_minute: float) -> float:
    """Of the whole allowance: jobs that share one keep to the slack of the whole, each at its own pace."""
    return min(SLACK_S, SLACK_CALLS * 60 / (per_minute * REQUEST_SHARE))


def token_pace(per_minute: float) -> Pace:
    """The pace of tokens that keeps just under an allowance."""
    return Pace(per_minute * TOKEN_SHARE / 60, token_slack_s(per_minute))


def token_slack_s(_per_minute: float) -> float:
    return TOKEN_SLACK_S
