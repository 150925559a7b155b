"""What may be asked for: the JSON Schema of an answer, held to the rules and closed.

Draft 2020-12. An object that lists its properties is closed (``additionalProperties: false``), and without ``required``
all of them are required: nobody asks for a field in order not to get it, and endpoints that enforce a schema ask for
this form. Whoever wants it otherwise says so. At the top a field that ``required`` leaves out may be null, because a
column has a place for it in every row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from jsonschema import Draft202012Validator, SchemaError

from pipeline.answers.columns import kinds_of, plain, target
from pipeline.answers.words import clip
from pipeline.errors import SpecError

Path = tuple[str | int, ...]
Problems = list[tuple[Path, str]]

NOTES = frozenset({"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"})
_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_ONES = frozenset(
    {"items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else", "contentSchema"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)
KEYWORDS = (
    NOTES
    | _MAPS
    | _LISTS
    | _ONES
    | {"type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"}
    | {"maxLength", "minLength", "pattern", "format", "contentEncoding", "contentMediaType"}
    | {"maxItems", "minItems", "uniqueItems", "maxContains", "minContains"}
    | {"maxProperties", "minProperties", "required", "dependentRequired"}
    | {"$ref", "$schema", "$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$vocabulary"}
)
_REFUSED = frozenset({"$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$vocabulary"})
# Beside these a closed object might allow nothing at all, and endpoints' strict mode refuses most of them.
_LOOSE = frozenset(
    {"allOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependentRequired", "patternProperties"}
    | {"propertyNames", "unevaluatedItems", "unevaluatedProperties", "contains", "uniqueItems", "prefixItems"}
    | {"minProperties", "maxProperties"}
)
_DEEPEST = 64
_TYPES = "string, number, integer, boolean, object, array, null"


class AnswerSpecError(SpecError):
    """All that is wrong with an ``answer`` block. ``problems`` has each with its path below ``where``."""

    def __init__(self, where: str, problems: Problems) -> None:
        super().__init__("\n".join(f"{dotted(where, path)} {words}" for path, words in problems))
        self.problems = tuple(problems)


def dotted(where: str, path: Path) -> str:
    for step in path:
        where += f"[{step}]" if isinstance(step, int) else f".{step}"
    return where


def plain_json(value: Any, path: Path, problems: Problems) -> Any:
    """A copy in dicts and lists alone; what JSON cannot carry goes into ``problems``."""
    if len(path) > _DEEPEST:
        problems.append((path, f"is nested more than {_DEEPEST} levels deep"))
    elif isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                problems.append((path, f"has the key {key!r}, which is no text; put it in quotes"))
        return {str(key): plain_json(part, (*path, str(key)), problems) for key, part in value.items()}
    elif isinstance(value, (list, tuple)):
        return [plain_json(part, (*path, place), problems) for place, part in enumerate(value)]
    elif isinstance(value, float) and not math.isfinite(value):
        problems.append((path, f"is {value}, which JSON cannot carry"))
    elif value is None or isinstance(value, (str, bool, int, float)):
        return value
    else:
        problems.append((path, f"is a {type(value).__name__}, which JSON cannot carry; put it in quotes"))
    return None


def positions(schema: Any, path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The schema and every schema in it. Data (``enum``, ``default``) is not looked into."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for key, part in schema.items():
        if key in _ONES:
            yield from positions(part, (*path, key))
        elif key in _LISTS and isinstance(part, list):
            for place, one in enumerate(part):
                yield from positions(one, (*path, key, place))
        elif key in _MAPS and isinstance(part, dict):
            for name, one in part.items():
                yield from positions(one, (*path, key, name))


def check(schema: Any, path: Path, problems: Problems, *, refs: bool) -> None:
    """``refs``: whether the schema may point into itself, which a field's own schema cannot."""
    before = len(problems)
    try:
        Draft202012Validator.check_schema(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    except SchemaError as exc:
        problems.append(((*path, *exc.absolute_path), _no_schema(exc)))
        return
    for inner, one in positions(schema, path):
        _check_one(inner, one, schema, problems, refs=refs)
    if len(problems) == before and not kinds_of(schema, schema):
        problems.append((path, "allows no value at all: its type, enum and const exclude each other"))


def _no_schema(error: SchemaError) -> str:
    if error.absolute_path and error.absolute_path[-1] == "type":
        return f"is {clip(repr(error.instance), 60)}; a type is one of {_TYPES}"
    return f"is no JSON Schema: {clip(error.message)}"


def _check_one(path: Path, schema: dict[str, Any], root: Any, problems: Problems, *, refs: bool) -> None:
    for key in schema:
        if key in _REFUSED:
            problems.append(((*path, key), "is not supported; remove it, and point with $ref: '#/$defs/...'"))
        elif key not in KEYWORDS and (near := get_close_matches(key, KEYWORDS, 1, 0.75)):
            problems.append(((*path, key), f"is no keyword of JSON Schema; did you mean {near[0]}?"))
    if "enum" in schema and not schema["enum"]:
        problems.append(((*path, "enum"), "is empty; name the values that may be answered"))
    if "$ref" in schema and (wrong := _wrong_ref(schema["$ref"], root, refs=refs)):
        problems.append(((*path, "$ref"), wrong))


def _wrong_ref(ref: str, root: Any, *, refs: bool) -> str | None:
    if not refs:
        return "points out of its field; write the whole as answer.schema"
    if ref != "#" and not ref.startswith(("#/$defs/", "#/definitions/")):
        return f"is {clip(ref, 80)!r}; only '#/$defs/...' and '#' are followed, and nothing is fetched"
    try:
        found = target(ref, root)
        if isinstance(found, dict) and "$ref" in found and "$ref" in (plain(found, root) or {}):
            return f"is {clip(ref, 80)!r}, which leads in a circle"
    except (LookupError, TypeError, ValueError):
        return f"is {clip(ref, 80)!r}, and this schema has nothing there"
    return None if isinstance(found, (dict, bool)) else f"is {clip(ref, 80)!r}, and what stands there is no schema"


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The whole schema of an answer in the form that is sent and held against every answer."""
    root = {key: part for key, part in schema.items() if key != "$schema"}
    properties = root["properties"]
    if not _is_loose(root):
        for key in ("properties", "$defs", "definitions"):
            if key in root:
                root[key] = {name: _closed(part) for name, part in root[key].items()}
        properties = root["properties"]
    optional = [name for name in properties if name not in root.get("required", properties)]
    root["properties"] = {n: _or_null(p, root) if n in optional else p for n, p in properties.items()}
    return {**root, "type": "object", "required": list(properties), "additionalProperties": False}


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    schema = dict(schema)
    if "properties" in schema:
        schema["properties"] = {name: _closed(part) for name, part in schema["properties"].items()}
    if "anyOf" in schema:
        schema["anyOf"] = [_closed(part) for part in schema["anyOf"]]
    elif schema.get("type") == "object" and "properties" in schema:
        schema.setdefault("additionalProperties", False)
        schema.setdefault("required", list(schema["properties"]))
    if "items" in schema:
        schema["items"] = _closed(schema["items"])
    return schema


def _or_null(schema: Any, root: dict[str, Any]) -> Any:
    return schema if "null" in kinds_of(schema, root) else {"anyOf": [schema, {"type": "null"}]}


def _is_loose(schema: dict[str, Any]) -> bool:
    return any(one.keys() & _LOOSE for _, one in positions(schema))


def is_strict(schema: dict[str, Any]) -> bool:
    """Whether endpoints that guarantee a schema (``strict``) take it: every object closed, every property required."""
    return not _is_loose(schema) and all(_is_exact(one) for _, one in positions(schema))


def _is_exact(schema: dict[str, Any]) -> bool:
    if schema.get("type") != "object" and "properties" not in schema:
        return True
    listed = schema.get("properties", {}).keys()
    return schema.get("additionalProperties") is False and listed == set(schema.get("required", ()))
