"""Finds the labels that a prompt offers, and picks the one that a model might have picked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from pipeline.simulator.chance import Draw
from pipeline.simulator.words import BAD, BAD_PARTS, GOOD, GOOD_PARTS, NOT, POLARITY, TOPICS

_WORD = r"[\"'`*«„“]{0,2}[^\W\d_][\w-]*[\"'`*»“”]{0,2}"
_OR = r"(?:or|oder|ou|o|of|lub|или|または)"
_MANY = rf"{_WORD}(?:, ?{_WORD})+,? {_OR} {_WORD}"
_HEAD = (
    r"\b(?:one of|either|any of|labels?|categor(?:y|ies)|class(?:es)?|options?|choices?|eine[rs]? von|une? de|uno de)\b"
)
# "... :", and a line for each label with what it means
_EXPLAINED = re.compile(
    rf":[ \t]*\n((?:[ \t]*(?:[-*•] ?)?{_WORD}(?:[ \t]{{2,}}|[ \t]*[:\t]| [-–] )[^\n]+(?:\n|\Z)){{2,}})"
)
_FIRST_WORD = re.compile(rf"^[ \t]*(?:[-*•] ?)?({_WORD})", re.MULTILINE)
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_HEAD}[^:\n]{{0,60}}:[ \t]*\n((?:[ \t]*[-*•] ?[^\n]{{1,40}}(?:\n|\Z)){{2,}})",  # a list of its own
        rf"{_HEAD}[^:\n]{{0,60}}:[ \t]*([^\n.?!:]+(?:[,/|;]| or | oder )[^\n.?!:]+)",
        rf"\b(?:one|either) of (?:the )?({_WORD}(?:, ?{_WORD})+(?:,? (?:or|and|oder|und) {_WORD})?)",
        rf"({_MANY})",
        rf"({_WORD}(?: ?[/|] ?{_WORD}){{2,}})",
        rf"\b(?:answer|reply|respond|say|output|write)\b[^.\n]{{0,40}}?\b({_WORD} or {_WORD})",
        r"\b(yes or no|true or false|yes/no|true/false|ja oder nein|oui ou non)\b",
    )
)
_SEPARATOR = re.compile(rf"\s*[,/|;\n]\s*(?:(?:{_OR}|and|und) )?|\s+(?:{_OR}|and|und)\s+", re.IGNORECASE)
_TRIM = " \t\r\n\"'`*«»„“”-•.()[]"
_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_LONGEST_LABEL = 40
_INSTRUCTION = 1500  # characters; instructions stand in front or behind, and the data between is not searched
_DATA = 6000  # characters that are read for their feeling


def offered(texts: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The labels to choose from, as they were written; empty when the prompt offers none."""
    text = next((text for role, text in reversed(texts) if role == "user"), "")
    for role, system in texts:
        if role in ("system", "developer") and (found := _found_once(system[: 2 * _INSTRUCTION])):
            return found
    head, _, rest = text.partition("\n\n")
    tail = rest.rpartition("\n\n")[2]
    return _found_once(head[:_INSTRUCTION]) or (_found(tail[-_INSTRUCTION:]) if rest else ())


def pick(labels: Sequence[str], text: str, draw: Draw) -> str:
    """``labels`` must not be empty."""
    bare = [label.lower() for label in labels]
    words = _TOKEN.findall(text[-_DATA:].lower().replace("’", "'"))
    if sum(label in POLARITY for label in bare) >= 2:
        wanted = _feeling(words, text[-_DATA:], set(bare))
        for choice in (2, 0) if wanted == 0 else (wanted,):  # as much of both is mixed rather than neutral
            for label, name in zip(labels, bare, strict=True):
                if choice is not None and POLARITY.get(name) == choice:
                    return label
    scores = [_speaks_for(label, words) for label in bare]
    best = max(scores)
    if best > min(scores):
        return labels[scores.index(best)]
    return labels[draw.below(len(labels))]


@lru_cache(maxsize=1024)
def _found_once(text: str) -> tuple[str, ...]:
    return _found(text)


def _found(text: str) -> tuple[str, ...]:
    if (match := _EXPLAINED.search(text)) is not None:
        return tuple(dict.fromkeys(word.strip(_TRIM) for word in _FIRST_WORD.findall(match[1])))
    for pattern in _PATTERNS:
        for match in pattern.finditer(text):
            labels = tuple(dict.fromkeys(label for part in _SEPARATOR.split(match[1]) if (label := part.strip(_TRIM))))
            if 2 <= len(labels) <= 50 and max(map(len, labels)) <= _LONGEST_LABEL:
                return labels
    return ()


def _feeling(words: Sequence[str], text: str, labels: set[str]) -> int | None:
    """1 good, -1 bad, 0 as much of both, None without a sign of either."""
    good = bad = 0
    if not text.isascii():
        good = sum(part in text for part in GOOD_PARTS)
        bad = sum(part in text for part in BAD_PARTS)
    for at, word in enumerate(words):
        sign = 0 if word in labels else (word in GOOD) - (word in BAD)
        if not sign:
            continue
        if any(before in NOT or before.endswith("n't") for before in words[max(0, at - 3) : at]):
            sign = -sign
        good, bad = (good + 1, bad) if sign > 0 else (good, bad + 1)
    if not good and not bad:
        return None
    return (good > bad) - (bad > good)


def _speaks_for(label: str, words: Sequence[str]) -> int:
    named = sum(word == label for word in words)
    return named + sum(sum(word in speaking for word in words) for start, speaking in TOPICS if label.startswith(start))
