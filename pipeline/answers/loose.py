"""JSON as models write it: strictly first, then with the slips that leave no doubt what is meant.

Read all the same: single or curly quotes, unquoted keys, trailing commas, True/False/None, comments, raw line breaks in
strings, a key twice with the same value. Refused, because a guess would be needed: anything that breaks off, a quote
inside a string of the same quotes, unknown escapes, NaN, a key twice with different values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from pipeline.answers.words import NotAnAnswer, clip, utf8

MOST_CHARS = 200_000
"""A longer text is read strictly or not at all: reading loosely costs about 1 us per token."""

_DEEPEST = 64
_BLANKS = re.compile(r"(?:[\s\ufeff\u200b]|//[^\n]*)*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORD = re.compile(r"[^\W\d][\w$-]*")
_CLOSES = {'"': '"', "'": "'", "“": "”"}
_STRETCH = {quote: re.compile(rf"[^{close}\\]*") for quote, close in _CLOSES.items()}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "/": "/", "\\": "\\", '"': '"', "'": "'"}
_HEX = {"u": re.compile(r"[0-9a-fA-F]{4}"), "x": re.compile(r"[0-9a-fA-F]{2}")}
_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_NOT_NUMBERS = frozenset({"nan", "infinity", "inf"})
_HALVES = re.compile(r"\\u[dD][89a-fA-F]")
_CUT = "the answer breaks off in the middle of its JSON"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key twice")
    return table


def _no_constant(word: str) -> Any:
    raise ValueError(word)


scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(  # type: ignore[attr-defined]
    object_pairs_hook=_once, parse_constant=_no_constant
).scan_once
"""``scan(text, 0)`` gives the value and where it ends. ValueError or StopIteration: not strict JSON."""

BLANKS = " \t\r\n"


def strictly(text: str) -> Any:
    """ValueError when the text as a whole is not strict JSON, or has a key twice."""
    text = text.strip(BLANKS)
    try:
        value, end = scan(text, 0)
    except StopIteration:
        raise ValueError("not JSON") from None
    except RecursionError:
        raise NotAnAnswer("the answer is nested too deeply") from None
    if end != len(text):
        raise ValueError("more than JSON")
    return value


def is_sound(text: str) -> bool:
    """Whether no string in this JSON text can hold half a surrogate pair. It may say no to a text that has none."""
    if "\\u" in text and _HALVES.search(text):
        return False
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


def sound(value: Any) -> Any:
    """The value with every half surrogate pair replaced, the very same object where there is none."""
    if isinstance(value, str):
        return value if value.isascii() else utf8(value)
    if isinstance(value, list):
        return [sound(part) for part in value]
    if isinstance(value, dict):
        return merged([(sound(key), sound(part)) for key, part in value.items()])
    return value


def merged(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key may come twice with one value. To Python True is 1 and 1 is 1.0, hence ``repr``."""
    table = dict(pairs)
    if len(table) != len(pairs):
        for key, value in pairs:
            if repr(table[key]) != repr(value):
                raise NotAnAnswer(f"{clip(repr(key), 60)} is given twice, with different values")
    return table


class Loose:
    """Reads one value out of the middle of a text. NotAnAnswer says what stopped it."""

    def __init__(self, text: str, at: int) -> None:
        self._text = text
        self.at = at
        """Where reading goes on: after ``value``, the first character behind it."""

    def value(self, depth: int = 0) -> Any:
        char = self._next()
        if depth > _DEEPEST:
            raise NotAnAnswer(f"the answer is nested more than {_DEEPEST} levels deep")
        if char == "{":
            return self._object(depth)
        if char == "[":
            return self._list(depth)
        if char in _CLOSES:
            return self._string(char)
        return self._number() if char == "-" or "0" <= char <= "9" else self._word()

    def _object(self, depth: int) -> dict[str, Any]:
        pairs: list[tuple[str, Any]] = []
        self.at += 1
        while self._next() != "}":
            if pairs:
                self._expect(",")
                if self._next() == "}":
                    break
            key = self._key()
            self._expect(":")
            pairs.append((key, self.value(depth + 1)))
        self.at += 1
        return merged(pairs)

    def _list(self, depth: int) -> list[Any]:
        values: list[Any] = []
        self.at += 1
        while self._next() != "]":
            if values:
                self._expect(",")
                if self._next() == "]":
                    break
            values.append(self.value(depth + 1))
        self.at += 1
        return values

    def _key(self) -> str:
        char = self._next()
        if char in _CLOSES:
            return self._string(char)
        if word := _WORD.match(self._text, self.at):
            self.at = word.end()
            return word[0]
        raise self._broken("a key is missing")

    def _string(self, quote: str) -> str:
        close, stretch, parts = _CLOSES[quote], _STRETCH[quote], []
        self.at += 1
        while True:
            begin, self.at = self.at, _past(stretch, self._text, self.at)
            parts.append(self._text[begin : self.at])
            if self._here() == close:
                self.at += 1
                return _joined("".join(parts))
            parts.append(self._escape())

    def _escape(self) -> str:
        self.at += 1
        char = self._here()
        if char in _ESCAPES:
            self.at += 1
            return _ESCAPES[char]
        digits = _HEX[char].match(self._text, self.at + 1) if char in _HEX else None
        if digits is None:
            raise self._broken("a \\ in a string stands before a character that it cannot escape")
        self.at = digits.end()
        return chr(int(digits[0], 16))

    def _number(self) -> int | float:
        found = _NUMBER.match(self._text, self.at)
        if found is None:
            return self._minus()
        self.at = found.end()
        try:
            return float(found[0]) if found[1] or found[2] else int(found[0])
        except ValueError:  # past 4300 digits Python refuses
            raise NotAnAnswer(f"a number of {len(found[0])} digits is no answer") from None

    def _minus(self) -> int | float:
        self.at += 1
        self._word()
        raise self._broken("a number is missing")

    def _word(self) -> bool | None:
        found = _WORD.match(self._text, self.at)
        word = found[0] if found else ""
        if word.casefold() in _NOT_NUMBERS:
            raise NotAnAnswer(f"{word} is no number in JSON")
        if found is None or word not in _WORDS:
            raise self._broken("a value is missing or has no quotes")
        self.at = found.end()
        return _WORDS[word]

    def _expect(self, char: str) -> None:
        if self._next() != char:
            raise self._broken(f"a {char!r} is missing")
        self.at += 1

    def _next(self) -> str:
        self.at = _past(_BLANKS, self._text, self.at)
        return self._here()

    def _here(self) -> str:
        if self.at >= len(self._text):
            raise NotAnAnswer(_CUT)
        return self._text[self.at]

    def _broken(self, what: str) -> NotAnAnswer:
        near = self._text[max(0, self.at - 20) : self.at + 20]
        return NotAnAnswer(f"the JSON is broken: {what} at character {self.at + 1}, near {near!r}")


def _past(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _joined(text: str) -> str:
    """Two ``\\u`` escapes may be the halves of one character."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
