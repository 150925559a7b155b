"""How fast: every pace a call must keep, and the tokens it holds until its reply settles them.

Configured requests and tokens, the rate that was found to pass, and the hint of headers; the slowest of them rules.
Of what is configured this job may have a share alone, which changes while it runs.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.provider.adaptive import Rate
from pipeline.provider.demand import Portion
from pipeline.provider.estimate import Estimate
from pipeline.provider.headroom import Headroom, Hint
from pipeline.provider.pacing import (
    SLACK_CALLS,
    SLACK_S,
    Pace,
    request_pace,
    request_slack_s,
    token_pace,
    token_slack_s,
)
from pipeline.records import Usage
from pipeline.share import Need, Share

REQUESTS = "requests_per_minute"

_GOING_S = 5.0
"""The rate at present is measured over so many seconds."""


class _Tokens:
    """One allowance of tokens, and which part of a call it counts."""

    __slots__ = ("input", "output", "pace", "portion")

    def __init__(self, per_minute: float, input_: float, output: float) -> None:
        self.pace = token_pace(per_minute)
        self.portion = Portion(per_minute, self.pace, token_slack_s)
        self.input = input_
        self.output = output


class Allowance:
    """The paces of one endpoint. Knows no clock: every method is told the time."""

    def __init__(
        self,
        *,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        input_tokens_per_minute: float | None,
        output_tokens_per_minute: float | None,
        max_output_tokens: int | None,
    ) -> None:
        self._requests: Pace | None = None
        self._tokens: list[_Tokens] = []
        self._portions: dict[str, Portion] = {}
        if requests_per_minute is not None:
            self._requests = request_pace(requests_per_minute)
            self._portions[REQUESTS] = Portion(requests_per_minute, self._requests, request_slack_s)
        told = (
            ("tokens_per_minute", tokens_per_minute, 1.0, 1.0),
            ("input_tokens_per_minute", input_tokens_per_minute, 1.0, 0.0),
            ("output_tokens_per_minute", output_tokens_per_minute, 0.0, 1.0),
        )
        for name, most, input_, output in told:
            if most is not None:
                tokens = _Tokens(most, input_, output)
                self._tokens.append(tokens)
                self._portions[name] = tokens.portion
        self._waits_for: Portion | None = None  # whose pace holds the next call back, since when, until when
        self._waits_since_s = self._waits_until_s = 0.0
        self.known = self._requests is not None or bool(self._tokens)
        self.estimate = Estimate(max_output_tokens)
        self.rate = Rate(known=self.known)
        self.hint = Hint()
        self._found = Pace(1.0)
        self._held = False  # the found rate was what held the next call back
        self.tokens_per_call: float | None = None  # tokens of a call, prompt and answer

    def wait_s(self, now: float) -> float:
        """Seconds until the next call may go; zero or less: at once."""
        if self._waits_for is not None:
            self._note_wait(now)
        wait_s, slowest = 0.0, None
        if self._requests is not None:
            own_s = self._requests.wait_s(now)
            if own_s > 0.0:
                wait_s, slowest = own_s, self._portions[REQUESTS]
        for tokens in self._tokens:
            own_s = tokens.pace.wait_s(now)
            if own_s > wait_s:
                wait_s, slowest = own_s, tokens.portion
        per_s = self._found_per_s(now)
        if per_s is not None:
            self._found.per_s = per_s
            found_s = self._found.wait_s(now)
            if found_s > 0 and found_s >= wait_s:
                self._held = True
                return found_s
        if slowest is not None:
            self._waits_for, self._waits_since_s, self._waits_until_s = slowest, now, now + wait_s
        return wait_s

    def _note_wait(self, now: float) -> None:
        assert self._waits_for is not None
        self._waits_for.held_s += max(0.0, min(now, self._waits_until_s) - self._waits_since_s)
        self._waits_for = None

    def take(self, now: float, weight: int) -> tuple[float, float]:
        """One call goes. Returns the input and output tokens reserved for it."""
        input_tokens, output_tokens = self._reserve(weight)
        if self._requests is not None:
            self._requests.take(now)
        for tokens in self._tokens:
            tokens.pace.take(now, tokens.input * input_tokens + tokens.output * output_tokens)
        if self._held:
            self._held = False
            self.rate.climb(now)
        if self._found_per_s(now) is not None:
            self._found.slack_s = min(SLACK_S, SLACK_CALLS / self._found.per_s)
            self._found.take(now)
        self.rate.sent.add(now)
        self.hint.sent(now)
        return input_tokens, output_tokens

    def undo(self, sent_s: float, input_tokens: float, output_tokens: float) -> None:
        """It was not sent after all."""
        if self._requests is not None:
            self._requests.give_back()
        if self._found_per_s(sent_s) is not None:
            self._found.give_back()
        self.rate.sent.take_back(sent_s)
        self.give_back(input_tokens, output_tokens)

    def give_back(self, input_tokens: float, output_tokens: float) -> None:
        for tokens in self._tokens:
            tokens.pace.give_back(tokens.input * input_tokens + tokens.output * output_tokens)

    def settle(self, weight: int, usage: Usage, input_tokens: float, output_tokens: float) -> None:
        """Correct what was reserved by what was used; what is not reported stays as it was guessed."""
        if usage.total_tokens:
            known = self.tokens_per_call
            self.tokens_per_call = usage.total_tokens if known is None else known + (usage.total_tokens - known) * 0.05
        if not self._tokens:
            return
        self.estimate.learn(weight, usage)
        if not weight:
            return
        used_in = input_tokens if usage.prompt_tokens is None else float(usage.prompt_tokens)
        used_out = output_tokens if usage.completion_tokens is None else float(usage.completion_tokens)
        if usage.total_tokens is not None:
            used_out = max(used_out, usage.total_tokens - used_in)  # some count reasoning in the total only
        self.give_back(input_tokens - used_in, output_tokens - used_out)

    def told(self, now: float, room: Headroom) -> None:
        """Headers of a good reply."""
        self.hint.told(now, room, self.going_per_s(now), self.tokens_per_call)

    def going_per_s(self, now: float) -> float:
        """Calls per second at present."""
        return self.rate.sent.per_s(now, _GOING_S)

    def needs(self, now: float) -> dict[str, Need]:
        """What this job could use of each configured limit. To be asked every second or so."""
        waits_for, until_s = self._waits_for, self._waits_until_s
        if waits_for is not None:
            self._note_wait(now)
            if until_s > now:
                self._waits_for, self._waits_since_s = waits_for, now
        return {name: portion.need(now) for name, portion in self._portions.items()}

    def keep_to(self, now: float, shares: Mapping[str, Share]) -> None:
        """The job's share of each configured limit; of a limit without one it has all."""
        for name, portion in self._portions.items():
            portion.keep_to(now, shares.get(name))

    def shares(self) -> dict[str, Share]:
        """As they were told last."""
        return {name: portion.share for name, portion in self._portions.items() if portion.share is not None}

    def opened(self, now: float) -> None:
        """A pause is over. What it lost is not caught up."""
        self.rate.opened(now)
        self._found.restart(now)
        if self._requests is not None:
            self._requests.restart(now)
        for tokens in self._tokens:
            tokens.pace.restart(now)

    def _reserve(self, weight: int) -> tuple[float, float]:
        if not self._tokens or not weight:
            return 0.0, 0.0
        return self.estimate.input_tokens(weight), self.estimate.output_tokens()

    def _found_per_s(self, now: float) -> float | None:
        per_s = self.rate.per_s
        if now >= self.hint.until_s:
            return per_s
        return self.hint.per_s if per_s is None else min(per_s, self.hint.per_s)
