"""Values that are right and written wrongly: the case of a label, a number in quotes, a field that nobody asked for.

Only a value that does not fit is touched, and what comes out is held against the schema again. A label is known by its
letters, whatever their case; letters of another alphabet that look like them are other letters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from unicodedata import normalize

from pipeline.answers.columns import Schema, kinds_of, plain
from pipeline.answers.loose import merged

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][-+]?[0-9]{1,3})?")
_TRUTHS = {"true": True, "false": False}
_BEFORE = " \t\r\n\xa0\ufeff\u200b\"'`*_([<“‘«„"
_BEHIND = " \t\r\n\xa0\ufeff\u200b\"'`*_)]>”’»“.,;:!"  # no question mark: that is a doubt
_DEEPEST = 32


def label_for(text: str, allowed: Iterable[str]) -> str | None:
    """The one label that this text names but for case, and for blanks and punctuation around it."""
    labels = list(allowed)
    for form in (text, text.strip(), text.lstrip(_BEFORE).rstrip(_BEHIND)):
        if form in labels:
            return form
        same = [label for label in labels if _same_letters(form, label)]
        if same:
            return same[0] if len(same) == 1 else None
    return None


def _same_letters(text: str, label: str) -> bool:
    """Case folding alone is too kind: it takes the long s and the Kelvin sign for s and k."""
    if len(text) > 2 * len(label) + 2 or normalize("NFC", text).casefold() != normalize("NFC", label).casefold():
        return False
    spellings = label + label.lower() + label.upper() + label.title() + label.casefold()
    return set(text) <= set(spellings + normalize("NFC", spellings) + normalize("NFD", spellings))


def mend(value: Any, schema: Any, root: Schema, depth: int = 0) -> Any:
    """NotAnAnswer when two fields of the answer are one field of the schema, with different values."""
    schema = plain(schema, root)
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return value
    if "enum" in schema or "const" in schema:
        return _allowed(value, schema["enum"] if "enum" in schema else [schema["const"]])
    if isinstance(value, str):
        return _unquoted(value, kinds_of(schema, root) - {"null"})
    if isinstance(value, list) and "items" in schema:
        return [mend(part, schema["items"], root, depth + 1) for part in value]
    if isinstance(value, dict) and "properties" in schema:
        return _fields(value, schema, root, depth)
    return value


def _allowed(value: Any, allowed: list[Any]) -> Any:
    if any(type(one) is type(value) and one == value for one in allowed):
        return value
    labels = [one for one in allowed if isinstance(one, str)]
    if isinstance(value, str) and not labels:
        return _unquoted(value, kinds_of({"enum": allowed}, {}) - {"null"})
    if isinstance(value, (bool, int)):  # the labels "1" to "5", answered as a number
        written = label_for(json.dumps(value), labels)
        return value if written is None else written
    found = label_for(value, labels) if isinstance(value, str) else None
    return value if found is None else found


def _unquoted(text: str, kinds: frozenset[str]) -> Any:
    """The number or truth value that a text spells, where the schema takes no text."""
    if "string" in kinds:
        return text
    word = text.strip()
    if "boolean" in kinds and word.lower() in _TRUTHS:
        return _TRUTHS[word.lower()]
    if kinds & {"integer", "number"} and (found := _NUMBER.fullmatch(word)):
        return float(word) if found[1] or found[2] else int(word)
    return text


def _fields(value: dict[str, Any], schema: Schema, root: Schema, depth: int) -> dict[str, Any]:
    properties = schema["properties"]
    closed = schema.get("additionalProperties") is False
    pairs: list[tuple[str, Any]] = []
    for key, part in value.items():
        name = key if key in properties or not closed else label_for(key, properties)
        if name is not None:
            pairs.append((name, mend(part, properties.get(name, True), root, depth + 1)))
    return merged(pairs)
