"""A quick yes. For the schemas of every day: a test that is true only where jsonschema would agree.

jsonschema walks the schema anew for each answer, some 100 us for five fields; a request as a whole costs the machine
about 200. What is not a quick yes goes to jsonschema, which alone says no, and why. So a test here may be too strict
and never too lax.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.answers.columns import Schema, target
from pipeline.answers.schema import NOTES

Fits = Callable[[Any], bool]

_OF_TYPE: dict[str, frozenset[str]] = {
    "string": frozenset({"minLength", "maxLength", "pattern"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "boolean": frozenset(),
    "null": frozenset(),
}
# ``format`` is a remark in draft 2020-12, not a rule.
_KNOWN = frozenset().union(*_OF_TYPE.values()) | {"type", "enum"} | NOTES | {"format"}
_SCALARS = frozenset({str, int, float, bool, type(None)})
_PLAIN_ROOT = frozenset({"type", "properties", "required", "additionalProperties", "$defs", "definitions"}) | NOTES


def is_plain(root: Schema) -> bool:
    """Whether the whole answer fits as soon as each of its fields does."""
    return root.keys() <= _PLAIN_ROOT


def fits(schema: Any, root: Schema, followed: frozenset[str] = frozenset()) -> Fits | None:
    """None when there is no quick test for this schema."""
    if not isinstance(schema, Mapping):
        return None
    alone = schema.keys() - NOTES
    if alone == {"$ref"}:
        ref = schema["$ref"]
        return None if ref in followed else fits(target(ref, root), root, followed | {ref})
    if alone == {"anyOf"}:
        return _any([fits(one, root, followed) for one in schema["anyOf"]])
    if not schema.keys() <= _KNOWN:
        return None
    named = schema.get("type")
    if named is None:
        return _among(schema["enum"]) if alone == {"enum"} else None
    by_type = _any([_typed(kind, schema, root, followed) for kind in (named if isinstance(named, list) else [named])])
    if "enum" not in schema or by_type is None:
        return by_type
    allowed = [value for value in schema["enum"] if by_type(value)]
    return _among(allowed)


def _any(tests: list[Fits | None]) -> Fits | None:
    known = [test for test in tests if test is not None]
    if not known:
        return None
    first, *rest = known
    return (lambda value: first(value) or any(test(value) for test in rest)) if rest else first


def _among(allowed: list[Any]) -> Fits:
    if all(type(value) is str for value in allowed):
        labels = frozenset(allowed)
        return lambda value: type(value) is str and value in labels
    # With its type, because to Python True is 1.
    pairs = frozenset((type(value), value) for value in allowed if type(value) in _SCALARS)
    return lambda value: type(value) in _SCALARS and (type(value), value) in pairs


def _typed(kind: str, schema: Schema, root: Schema, followed: frozenset[str]) -> Fits | None:
    rules = {key: schema[key] for key in _OF_TYPE[kind] if key in schema}
    if kind == "string":
        return _string(rules)
    if kind in ("integer", "number"):
        return _number({int} if kind == "integer" else {int, float}, rules)
    if kind == "array":
        return _array(rules, root, followed)
    if kind == "object":
        return _object(rules, root, followed)
    return (lambda value: value is True or value is False) if kind == "boolean" else (lambda value: value is None)


def _string(rules: Schema) -> Fits:
    if not rules:
        return lambda value: type(value) is str
    least, most = rules.get("minLength", 0), rules.get("maxLength", 2**62)
    search = re.compile(rules.get("pattern", "")).search
    return lambda value: type(value) is str and least <= len(value) <= most and search(value) is not None


def _number(types: set[type], rules: Schema) -> Fits:
    kinds = frozenset(types)
    if not rules:
        return lambda value: type(value) in kinds
    low, high = rules.get("minimum", float("-inf")), rules.get("maximum", float("inf"))
    above, below = rules.get("exclusiveMinimum"), rules.get("exclusiveMaximum")
    if above is None and below is None:
        return lambda value: type(value) in kinds and low <= value <= high
    return lambda value: (
        type(value) in kinds
        and low <= value <= high
        and (above is None or value > above)
        and (below is None or value < below)
    )


def _array(rules: Schema, root: Schema, followed: frozenset[str]) -> Fits | None:
    item = fits(rules["items"], root, followed) if "items" in rules else (lambda value: True)
    if item is None:
        return None
    one = item
    least, most = rules.get("minItems", 0), rules.get("maxItems", 2**62)

    def test(value: Any) -> bool:
        if type(value) is not list or not least <= len(value) <= most:
            return False
        for part in value:  # noqa: SIM110 - a generator for all() costs as much as the test
            if not one(part):
                return False
        return True

    return test


def _object(rules: Schema, root: Schema, followed: frozenset[str]) -> Fits | None:
    """Only closed objects: every key is one of the properties."""
    if rules.get("additionalProperties") is not False:
        return None
    tests: dict[str, Fits] = {}
    for name, schema in rules.get("properties", {}).items():
        test = fits(schema, root, followed)
        if test is None:
            return None
        tests[name] = test
    required = frozenset(rules.get("required", ()))

    def test_all(value: Any) -> bool:
        if type(value) is not dict or not required <= value.keys() <= tests.keys():
            return False
        return all(tests[name](part) for name, part in value.items())

    return test_all
