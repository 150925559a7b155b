"""How a field is kept: the type of its column, known from the schema alone, so that no answer can change it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

Scalar = Literal["string", "integer", "number", "boolean"]
ColumnType = Scalar | Literal["json"] | tuple[Literal["list"], Scalar]
"""``json`` is for all that no plain column can hold; its values are JSON text."""

Schema = Mapping[str, Any]
Typed = Callable[[Any], Any]

_EVERY = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})
_LEAST, _MOST = -(2**63), 2**63 - 1
_DEEPEST = 32  # references followed; a schema that holds itself ends here


class Unfit(ValueError):
    """A value that fits the schema and not its column."""


def target(ref: str, root: Schema) -> Any:
    """What a pointer into the schema (``#/$defs/x``) names. LookupError when it names nothing."""
    found: Any = root
    for step in ref.removeprefix("#").split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        found = found[int(step)] if isinstance(found, list) and step.isdecimal() else found[step]
    return found


def plain(schema: Any, root: Schema) -> Any:
    """The schema itself, behind references, a single ``allOf`` and "this or null"."""
    for _ in range(_DEEPEST):
        if not isinstance(schema, Mapping):
            break
        several = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf") or ()
        others = [one for one in several if not (isinstance(one, Mapping) and one.get("type") == "null")]
        if isinstance(schema.get("$ref"), str):
            schema = target(schema["$ref"], root)
        elif len(others) == 1 and "type" not in schema and "enum" not in schema:
            schema = others[0]
        else:
            break
    return schema


def column_of(schema: Any, root: Schema) -> ColumnType:
    kinds = kinds_of(schema, root) - {"null"}
    if kinds == {"array"}:
        return _list_of(plain(schema, root), root)
    if kinds and kinds <= {"integer", "number"}:
        return "number" if "number" in kinds else "integer"
    if kinds == {"string"}:
        return "string"
    return "boolean" if kinds == {"boolean"} else "json"


def _list_of(schema: Any, root: Schema) -> ColumnType:
    if not isinstance(schema, Mapping) or "items" not in schema or "prefixItems" in schema:
        return "json"
    inner = column_of(schema["items"], root)
    return "json" if inner == "json" or isinstance(inner, tuple) else ("list", inner)


def kinds_of(schema: Any, root: Schema, followed: frozenset[str] = frozenset()) -> frozenset[str]:
    """The JSON types that a value can have: no fewer than the schema allows. ``number`` comes with ``integer``."""
    if not isinstance(schema, Mapping):
        return _EVERY
    kinds = _EVERY
    if isinstance(ref := schema.get("$ref"), str) and ref not in followed:
        kinds &= kinds_of(target(ref, root), root, followed | {ref})
    if "type" in schema:
        named = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        kinds &= {"integer", *named} if "number" in named else set(named)
    if "enum" in schema or "const" in schema:
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        kinds &= frozenset().union(*map(_kinds_of_value, values))
    for part in schema.get("allOf") or ():
        kinds &= kinds_of(part, root, followed)
    for either in ("anyOf", "oneOf"):
        if schema.get(either):
            kinds &= frozenset().union(*(kinds_of(part, root, followed) for part in schema[either]))
    return kinds


def _kinds_of_value(value: Any) -> frozenset[str]:
    if isinstance(value, float):
        return frozenset({"integer", "number"} if value.is_integer() else {"number"})
    names: dict[type, str] = {str: "string", bool: "boolean", int: "integer", type(None): "null", list: "array"}
    return frozenset({names.get(type(value), "object")})


def typed(column: ColumnType) -> Typed | None:
    """From a value that fits the schema to the value that the column holds; None when they are the same."""
    if isinstance(column, tuple):
        inner = typed(column[1])
        return list if inner is None else lambda values: [inner(value) for value in values]
    return {"integer": _integer, "number": _number, "json": _json_text}.get(column)


def _integer(value: Any) -> int | None:
    if value is None:
        return None
    whole = value if type(value) is int else int(value)
    if not _LEAST <= whole <= _MOST:
        raise Unfit("is larger than a 64-bit integer")
    return whole


def _number(value: Any) -> float | None:
    if type(value) is float and math.isfinite(value):
        return value
    if value is None:
        return None
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Unfit("is larger than a number can be")
    if number != value:
        raise Unfit("has more digits than a number can hold")
    return number


def _json_text(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        raise Unfit("holds a number larger than a number can be") from None
