"""Chance that can be repeated: everything follows from the seed, the request's bytes and how often they came.

So the same requests meet the same fate in any order and under any concurrency.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

_UNIT = 2.0**-53


def body_hash(body: bytes) -> str:
    """How the ledger names a request body."""
    return digest(body).hex()


def digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Roll:
    """What chance holds for one request. The fractions lie in 0..1, without either end."""

    id: str
    fault: float
    latency: float
    tail: float


def roll(seed: int, body: bytes, times_seen: int) -> Roll:
    """``body`` is a digest; ``times_seen`` counts from 1."""
    drawn = blake2b(body + times_seen.to_bytes(8, "big") + str(seed).encode(), digest_size=32).digest()
    return Roll(drawn[24:].hex(), _fraction(drawn[:8]), _fraction(drawn[8:16]), _fraction(drawn[16:24]))


def _fraction(drawn: bytes) -> float:
    return ((int.from_bytes(drawn, "big") >> 11) + 0.5) * _UNIT


class Draw:
    """A stream of small numbers; a hundredth of the cost of setting up ``random.Random``."""

    __slots__ = ("_state",)

    def __init__(self, seed: bytes) -> None:
        self._state = int.from_bytes(seed[:8], "big")

    def below(self, n: int) -> int:
        # Knuth's MMIX generator; its high bits are the good ones.
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        return (self._state >> 33) % n
