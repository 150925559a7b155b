"""The short forms of ``answer.fields``, each as the JSON Schema that it stands for.

    [a, b, c]           one of these; all texts or all numbers, null for "none of them"
    string              also number, integer, boolean
    {list: string}      a list of any short form: {list: [a, b]} is a list of labels; minItems and the like beside it
    {type: ...}         anything else is a JSON Schema

A list of one type word is refused: ``[string]`` would allow no other word than "string".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pipeline.answers.schema import KEYWORDS, NOTES, Path, Problems, plain_json

TYPE_WORDS = ("string", "number", "integer", "boolean")
_OTHER_WORDS = {
    **dict.fromkeys(("str", "text", "varchar", "char"), "string"),
    **dict.fromkeys(("int", "int64", "long", "whole"), "integer"),
    **dict.fromkeys(("float", "double", "decimal", "real", "numeric"), "number"),
    **dict.fromkeys(("bool", "flag", "yes/no"), "boolean"),
}
_FORMS = "a list of labels, string, number, integer, boolean, {list: ...} or a JSON Schema"


def schema_of(form: Any, path: Path, problems: Problems) -> Any:
    """The JSON Schema that a short form stands for; what is wrong with it goes into ``problems``."""
    if isinstance(form, str):
        return _word(form, path, problems)
    if isinstance(form, (list, tuple)):
        return _labels(list(form), path, problems)
    if not isinstance(form, Mapping):
        problems.append((path, f"is {_seen(form)}; it may be {_FORMS}"))
    elif "list" in form:
        rest = plain_json({key: part for key, part in form.items() if key != "list"}, path, problems)
        return {"type": "array", "items": schema_of(form["list"], (*path, "list"), problems), **rest}
    elif _says_something(form, path, problems):
        return plain_json(form, path, problems)
    return None


def _word(word: str, path: Path, problems: Problems) -> Any:
    if word in TYPE_WORDS:
        return {"type": word}
    folded = word.strip().casefold()
    near = _OTHER_WORDS.get(folded) or next(iter(get_close_matches(folded, TYPE_WORDS, 1, 0.7)), None)
    hint = f"did you mean {near}?" if near else f"a word alone is one of {', '.join(TYPE_WORDS)}; labels are a list"
    problems.append((path, f"is {word!r}; {hint}"))
    return None


def _labels(labels: list[Any], path: Path, problems: Problems) -> Any:
    values = [label for label in labels if label is not None]
    kinds = {"a number" if isinstance(v, (int, float)) and not isinstance(v, bool) else _seen(v) for v in values}
    if not values:
        problems.append((path, "is an empty list; name the labels that may be answered"))
    elif len(values) == 1 and values[0] in TYPE_WORDS:
        words = f"allows only the word {values[0]!r}; write {values[0]} for any {values[0]}, "
        problems.append((path, words + f"{{list: {values[0]}}} for a list"))
    elif len(kinds) > 1:
        problems.append((path, f"mixes {' and '.join(sorted(kinds))}; put all labels in quotes"))
    elif not kinds <= {"a text", "a number", "a truth value"}:
        problems.append((path, f"has {kinds.pop()} among its labels; a label is a text or a number"))
    elif len({*map(repr, labels)}) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        problems.append((path, f"names {twice!r} twice"))
    else:
        for place, label in enumerate(labels):
            _label(label, (*path, place), problems)
        return {"type": _type_of(values, nullable=None in labels), "enum": labels}
    return None


def _label(label: Any, path: Path, problems: Problems) -> None:
    if isinstance(label, str) and not label.strip():
        problems.append((path, "is blank; a blank label cannot be told from no answer"))
    elif isinstance(label, float) and not math.isfinite(label):
        problems.append((path, f"is {label}, which JSON cannot carry"))


def _type_of(values: list[Any], *, nullable: bool) -> str | list[str]:
    if isinstance(values[0], str):
        kind = "string"
    elif isinstance(values[0], bool):
        kind = "boolean"
    else:
        kind = "integer" if all(isinstance(value, int) for value in values) else "number"
    return [kind, "null"] if nullable else kind


def _says_something(form: Mapping[Any, Any], path: Path, problems: Problems) -> bool:
    if form.keys() & (KEYWORDS - NOTES):
        return True
    unknown = next((key for key in form if key not in KEYWORDS), None)
    near = get_close_matches(str(unknown), ["list", *KEYWORDS], 1, 0.6) if unknown is not None else []
    hint = f"; did you mean {near[0]}?" if near else f"; it may be {_FORMS}"
    problems.append((path, "says nothing about the value" + hint))
    return False


def _seen(value: Any) -> str:
    if isinstance(value, str):
        return "a text"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, Mapping):
        return "a mapping"
    return "empty" if value is None else f"a {type(value).__name__}"
