"""How ``pipeline/storage/journal.zdict`` was made: ``python -m tests.storage.make_dictionary FILE``.

Trained on records as the journal has them, filled with what is in no job in particular: labels, JSON answers and
English out of Python's own help. What was packed with a dictionary can be read with that one alone, so the file is
never made anew: another dictionary is another file, with a mark of its own beside ``packing.PACKED``.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import orjson
import zstandard

from pipeline.storage.journal import body_of

SAMPLES = 8_000
DICTIONARY_BYTES = 2_048
"""Twice as many pack a sample by 4 % better, and other texts no better."""

_WORDS = [word for name in sorted(topics) for word in topics[name].split() if word.strip(".,;:").isalpha()]
_LABELS = ("positive", "negative", "neutral", "yes", "no", "spam", "other", "true", "false", "unknown")
_MODELS = ("gpt-5-mini", "gpt-4o-mini", "gemini-2.5-flash", "gemini-2.5-pro", "claude-sonnet-4-5", "deepseek-chat")
_IDS = ("%d", "%06d", "row-%d", "%08x")


def main() -> None:
    chosen = random.Random(1)
    samples = [_record(chosen) for _ in range(SAMPLES)]
    Path(sys.argv[1]).write_bytes(zstandard.train_dictionary(DICTIONARY_BYTES, [*samples]).as_bytes())


def _record(chosen: random.Random) -> bytes:
    failed = chosen.random() < 0.1
    members: dict[str, Any] = {"e": "t" if failed else "o", "k": chosen.randbytes(16).hex()}
    if failed:
        kind = chosen.choice(["rate_limited", "server_error", "overloaded", "connection_lost", "timed_out"])
        members |= {"x": kind, "d": _words(chosen, 20, 200), "h": chosen.choice([429, 500, 503])}
        members |= {"b": chosen.choice(["no", "maybe"]), "l": _seconds(chosen), "w": _moment(chosen)}
        return body_of(members)
    members |= {"n": chosen.randrange(10 ** chosen.randrange(1, 7)), "s": "ok", "b": "yes", "a": 1}
    members |= {"w": _moment(chosen), "i": chosen.choice(_IDS) % chosen.randrange(10**6)}
    typed = chosen.random() < 0.3
    values: dict[str, Any] = {"label": chosen.choice(_LABELS), "confidence": round(chosen.random(), 2)}
    values["reason"] = _words(chosen, 20, 90)
    members["t"] = orjson.dumps(values).decode() if typed else _text(chosen)
    members |= {"f": chosen.choice(["stop", "stop", "stop", "length"]), "m": chosen.choice(_MODELS)}
    members |= {"r": chosen.choice(["chatcmpl-", "req_", "gen-", ""]) + chosen.randbytes(12).hex(), "h": 200}
    asked, answered = chosen.randrange(20, 900), chosen.randrange(1, 300)
    members |= {"u": [asked, answered, asked + answered, chosen.choice([None, 0]), chosen.choice([None, 0])]}
    members["l"] = _seconds(chosen)
    if typed:
        members |= {"j": orjson.dumps(values).decode(), "v": "as_is"}
    return body_of(members)


def _text(chosen: random.Random) -> str:
    return chosen.choice(_LABELS) if chosen.random() < 0.3 else _words(chosen, 40, 900)


def _words(chosen: random.Random, least: int, most: int) -> str:
    """One by one: whole sentences would be in the dictionary for their own sake."""
    return " ".join(chosen.choices(_WORDS, k=most // 5))[: chosen.randrange(least, most)]


def _seconds(chosen: random.Random) -> float:
    return round(chosen.random() * 5, 4)


def _moment(chosen: random.Random) -> float:
    return round(1.7e9 + chosen.random() * 2e8, 3)


if __name__ == "__main__":
    main()
