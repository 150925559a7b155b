"""How many tokens a call will use, learned from the replies of this job.

A request must be reserved before its length is known. Reserving ``max_tokens`` chokes the rate (few answers are that
long), reserving nothing floods the endpoint. So: prompt tokens by the weight of the call (its bytes of text, and a flat
weight per attachment: what a picture costs is not in its bytes), output tokens by the mean of what came so far and half
a deviation. A wrong guess is settled by the reply, so it need be right on average only.
"""

from __future__ import annotations

from pipeline.records import Usage

TOKENS_PER_BYTE = 0.3
"""Before anything is learned: English JSON has about 0.25; a little more than that is on the safe side."""

OUTPUT_TOKENS = 512.0
"""Before anything is learned and when the request names no maximum of its own."""

_MEMORY = 1 / 64
"""Weight of the newest reply once some have come: about the last hundred count."""


class Estimate:
    """Learns tokens per byte of weight, and tokens per answer."""

    __slots__ = ("_bytes", "_deviation", "_input_tokens", "_mean", "_replies", "max_output_tokens")

    def __init__(self, max_output_tokens: int | None = None) -> None:
        self.max_output_tokens = max_output_tokens
        self._replies = 0
        self._bytes = 0.0
        self._input_tokens = 0.0
        self._mean = 0.0
        self._deviation = 0.0

    def input_tokens(self, weight: int) -> float:
        if self._bytes > 0:
            return weight * self._input_tokens / self._bytes
        return weight * TOKENS_PER_BYTE

    def output_tokens(self) -> float:
        """Never above the request's own maximum."""
        most = self.max_output_tokens
        if self._replies == 0:
            return OUTPUT_TOKENS if most is None else float(most)
        guess = self._mean + 0.5 * self._deviation
        return guess if most is None or guess < most else float(most)

    def learn(self, weight: int, usage: Usage) -> None:
        if usage.prompt_tokens is not None and weight:
            self._bytes += weight - self._bytes * _MEMORY
            self._input_tokens += usage.prompt_tokens - self._input_tokens * _MEMORY
        if usage.completion_tokens is not None:
            self._replies += 1
            share = max(_MEMORY, 1 / self._replies)
            off = usage.completion_tokens - self._mean
            self._mean += share * off
            self._deviation += share * (abs(off) - self._deviation)
