"""What a plain (unquoted) scalar is.

YAML 1.1, which PyYAML speaks, reads some words as what nobody meant: ``no`` is false, ``010`` is 8, ``12:30:45`` is
45045, and ``1e3`` is text. So this table takes the forms on which all YAML readers agree, ``1e3`` as the number that it
looks like, and marks the disputed ones as a ``Trap``.
"""

from __future__ import annotations

import math
import re
from typing import Final

from pipeline.spec.document import Trap

_LEAST_INT: Final = -(2**63)
_MOST_INT: Final = 2**64 - 1  # what a JSON encoder takes

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_WORD_BOOL: Final = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_OCTAL: Final = re.compile(r"[-+]?0o?[0-7]+")
_HEXADECIMAL: Final = re.compile(r"[-+]?0x[0-9a-fA-F]+")
_BINARY: Final = re.compile(r"[-+]?0b[01]+")
_LEADING_ZERO: Final = re.compile(r"[-+]?0[0-9_]+(?:\.[0-9]*)?")
_UNDERSCORES: Final = re.compile(r"[-+]?(?:[0-9]+(?:_[0-9]*)+|0x[0-9a-fA-F_]+|0b[01_]+)(?:\.[0-9_]*)?")
_SEXAGESIMAL: Final = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}.*)?")
_NOT_FINITE: Final = re.compile(r"(?i)[-+]?\.(?:inf|nan)")
_LONGEST_NUMBER: Final = 64  # past this a number is an accident, and int() of 5000 digits raises


def plain(text: str) -> bool | int | float | str | Trap | None:
    """Raises ValueError, with words for the user, for a number that cannot be sent as JSON."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        if len(text) > _LONGEST_NUMBER or not _LEAST_INT <= int(text) <= _MOST_INT:
            raise ValueError(
                f"is a number of {len(text)} digits, which JSON cannot carry; put it in quotes if it is text"
            )
        return int(text)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if not math.isfinite(value):
            raise ValueError("is a number too large to be sent; put it in quotes if it is text")
        return value
    return _trap(text) or text


def _trap(text: str) -> Trap | None:
    if text.lower() in _WORD_BOOL:
        plain_word = _WORD_BOOL[text.lower()]
        return Trap(text, plain_word, plain_word)
    if len(text) > _LONGEST_NUMBER:
        return None
    for pattern, base, name in ((_OCTAL, 8, "octal"), (_HEXADECIMAL, 16, "hexadecimal"), (_BINARY, 2, "binary")):
        if pattern.fullmatch(text):
            number = str(int(re.sub(r"[oxb]" if base != 16 else "x", "", text), base))
            return Trap(text, f"{number} ({name})", number)
    if _LEADING_ZERO.fullmatch(text):
        sign = "-" if text.startswith("-") else ""
        return Trap(text, "a number or text, depending on the reader", sign + (text.lstrip("+-0_") or "0"))
    if _UNDERSCORES.fullmatch(text):
        return Trap(text, "a number", text.replace("_", ""))
    if _SEXAGESIMAL.fullmatch(text):
        return Trap(text, "a number to the base 60", None)
    if _DATE.fullmatch(text):
        return Trap(text, "a date", None)
    if _NOT_FINITE.fullmatch(text):
        return Trap(text, "a number that JSON cannot carry", None)
    return None


def flaw(text: str) -> str | None:
    """Why this text can neither be sent nor name a file; None when it can."""
    if "\0" in text:
        return "has a NUL character in it; remove it"
    if any("\ud800" <= char <= "\udfff" for char in text):
        return "has half a surrogate pair in it (\\ud800 to \\udfff); write the whole character"
    return None
