"""Where in a text the answer stands: every object that can be meant as one.

A brace that opens something like an object and cannot be read to its end makes the whole text no answer. Looking
further behind it, or inside it, is how half an answer is taken for a whole one, and an example for the answer.
"""

from __future__ import annotations

import re
from typing import Any

from pipeline.answers.loose import MOST_CHARS, Loose, scan, strictly
from pipeline.answers.words import NotAnAnswer

_OPENS = re.compile(r"[{\[]")
_LISTS = re.compile(r"\[[\s\[]*")
_LIKE_AN_OBJECT = re.compile(r"""\{\s*(?:["'“}]|//|[^\W\d][\w$-]*\s*:)""")
_FENCE = "```"
_MOST_OBJECTS = 8  # more of them are a table, not an answer
_LAYERS = 3  # JSON in a string in JSON


def objects(text: str) -> list[dict[str, Any]]:
    """In the order of the text; none when it holds none. NotAnAnswer when one is broken."""
    found = _whole(text, 0)
    if found is None:
        found = _in_prose(without_thoughts(text))
    if len(found) > _MOST_OBJECTS:
        raise NotAnAnswer(f"the answer holds {len(found)} objects; one was asked for")
    return found


def _whole(text: str, layer: int) -> list[dict[str, Any]] | None:
    """None when the text is not strict JSON from end to end."""
    try:
        value = strictly(text)
    except NotAnAnswer:
        raise
    except ValueError:
        return None
    if isinstance(value, str) and layer < _LAYERS:
        inner = _whole(value, layer + 1)
        return _in_prose(value) if inner is None else inner
    return _objects_of(value)


def _objects_of(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list) or not any(isinstance(part, (dict, list)) for part in value):
        return []
    if not all(isinstance(part, (dict, list)) for part in value):
        raise NotAnAnswer("the answer is a list of objects and other things; one object was asked for")
    return [one for part in value for one in _objects_of(part)]


def _in_prose(text: str) -> list[dict[str, Any]]:
    if len(text) > MOST_CHARS:
        raise NotAnAnswer(f"the answer is not JSON, and with {len(text)} characters too long to search for it")
    found: list[dict[str, Any]] = []
    at = 0
    while (opens := _OPENS.search(text, at)) and len(found) <= _MOST_OBJECTS:
        at = opens.start()
        lists = _LISTS.match(text, at)
        inside = lists.end() if lists else at
        if _LIKE_AN_OBJECT.match(text, inside):
            value, at = _value(text, at)
            found += _objects_of(value)
        else:
            at = inside if lists else at + 1
    return found


def _value(text: str, at: int) -> tuple[Any, int]:
    try:
        return scan(text, at)
    except (StopIteration, ValueError, RecursionError):
        reader = Loose(text, at)
        return reader.value(), reader.at


def without_thoughts(text: str) -> str:
    """What stands behind the model's thoughts. Some endpoints swallow the tag that opens them."""
    begins = text.lstrip()[:7]
    _, end, answer = text.rpartition("</think>")
    if end and not begins.startswith(("{", "[", _FENCE)):  # there it stands inside a value
        return answer
    if begins == "<think>":
        raise NotAnAnswer("the answer breaks off while the model is still thinking")
    return text


def without_fence(text: str) -> str:
    text = text.strip()
    if not (text.startswith(_FENCE) and text.endswith(_FENCE)):
        return text
    language, line_break, inside = text.strip("`").partition("\n")
    return inside.strip() if line_break else language.strip()
