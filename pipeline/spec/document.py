"""The spec between text and types: plain values, and for each where it was written.

Problems are gathered here. What they show of the spec passes ``shown`` or ``label``, which never show a key.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.spec.secrets import is_random, looks_like_key

KeyPath = tuple[str | int, ...]

_SHOWN_CHARACTERS: Final = 60


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written: ``line 7`` or ``--set limits.concurrency``, and its path as the user wrote it."""

    origin: str
    shown: str
    order: int  # line number; what comes from the command line sorts behind


@dataclass(frozen=True, slots=True)
class Trap:
    """A plain scalar that YAML 1.1 reads as something else than it looks like (``no``, ``010``, ``12:30:45``)."""

    raw: str
    reading: str  # what YAML makes of it, in words
    instead: str | None  # how to write that reading plainly; None when the spec has no use for it


@dataclass(frozen=True, slots=True)
class Problem:
    place: Place
    text: str

    def __str__(self) -> str:
        return f"{self.place.origin}: {self.place.shown} {self.text}".strip()


@dataclass(slots=True)
class Document:
    """``tree`` holds None, bool, int, float, str, ``Trap``, lists and dicts with text keys, and nothing else."""

    tree: Any = None
    places: dict[KeyPath, Place] = field(default_factory=dict)
    problems: dict[tuple[KeyPath, str], Problem] = field(default_factory=dict)

    def complain(self, path: KeyPath, text: str, *, place: Place | None = None) -> None:
        """The first complaint about a value stands: later stages judge what an earlier one has refused."""
        place = place or self.place(path)
        self.problems.setdefault((path, place.origin), Problem(place, text))

    def place(self, path: KeyPath) -> Place:
        """The place of the nearest enclosing value that was written, with the rest of the path added."""
        known = path
        while known and known not in self.places:
            known = known[:-1]
        place = self.places.get(known, Place("line 1", "", 1))
        return Place(place.origin, join(place.shown, path[len(known) :]), place.order)

    def told(self) -> list[str]:
        return [str(problem) for problem in sorted(self.problems.values(), key=lambda problem: problem.place.order)]


def join(shown: str, rest: KeyPath) -> str:
    for key in rest:
        if isinstance(key, int):
            shown += f"[{key}]"
        else:
            shown += f".{label(key)}" if shown else label(key)
    return shown


def label(key: str) -> str:
    """A key of the spec in a message: as it stands when it is a word, in quotes and shortened when not."""
    if len(key) <= _SHOWN_CHARACTERS and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", key) and not _secret(key):
        return key
    return quoted(key)


def quoted(text: str) -> str:
    if _secret(text):
        return "(not shown: it looks like a key)"
    short = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
    # Escapes line breaks and control characters, so that a problem stays one line and cannot paint the terminal.
    escaped = json.dumps(short, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in escaped)


def shown(value: object) -> str:
    """A value of the spec in a message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Trap):
        return quoted(value.raw)
    return "a mapping" if isinstance(value, dict) else "a list"


def _secret(text: str) -> bool:
    return looks_like_key(text) or (is_random(text) and " " not in text)
