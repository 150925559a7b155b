"""Makes up a JSON value that fits a JSON Schema.

Known: type, enum, const, $ref into the schema, anyOf, oneOf, allOf, properties, required, items, prefixItems, bounds,
multipleOf, lengths and the usual formats. Not known: pattern, not, if, dependencies; such a value may not fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.simulator.chance import Draw
from pipeline.simulator.labels import pick

_DEEP = 5  # from here on only what is required, so that a schema that holds itself ends
_TOO_DEEP = 12
_FORMATS = {
    "date": "2025-01-31",
    "date-time": "2025-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "P1D",
    "email": "someone@example.org",
    "uri": "https://example.org/",
    "url": "https://example.org/",
    "hostname": "example.org",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_SENTENCES = (
    "the wording points that way",
    "the text says so plainly",
    "nothing in the text speaks against it",
    "the tone of the text suggests it",
    "several phrases of the text support it",
)


class Fitter:
    """``text`` is what the question was about; enums are picked by it."""

    def __init__(self, schema: Mapping[str, Any], text: str, draw: Draw) -> None:
        self._root = schema
        self._text = text
        self._draw = draw

    def value(self) -> Any:
        return self._value(self._root, 0)

    def _value(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, Mapping) or depth > _TOO_DEEP:
            return None
        schema = self._plain(schema)
        if "const" in schema:
            return schema["const"]
        if choices := schema.get("enum"):
            return self._choice(choices)
        kind = _kind(schema)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind in ("number", "integer"):
            return self._number(schema, whole=kind == "integer")
        if kind == "boolean":
            return self._draw.below(2) == 1
        return None if kind == "null" else self._string(schema)

    def _plain(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """With references followed and alternatives decided."""
        for _ in range(_TOO_DEEP):
            if isinstance(schema.get("$ref"), str):
                schema = {**self._target(schema["$ref"]), **{k: v for k, v in schema.items() if k != "$ref"}}
            elif alternatives := schema.get("anyOf") or schema.get("oneOf"):
                chosen = next((one for one in alternatives if one.get("type") != "null"), alternatives[0])
                schema = {**{k: v for k, v in schema.items() if k not in ("anyOf", "oneOf")}, **chosen}
            elif parts := schema.get("allOf"):
                schema = _merged([{k: v for k, v in schema.items() if k != "allOf"}, *map(self._plain, parts)])
            else:
                break
        return schema

    def _target(self, ref: str) -> Mapping[str, Any]:
        found: Any = self._root
        for step in ref.removeprefix("#").strip("/").split("/"):
            if step:
                found = found.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(found, Mapping) else {}
        return found if isinstance(found, Mapping) else {}

    def _choice(self, choices: Sequence[Any]) -> Any:
        words = [choice for choice in choices if isinstance(choice, str)]
        if words:
            return pick(words, self._text, self._draw)
        return choices[self._draw.below(len(choices))]

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties, required = schema.get("properties") or {}, schema.get("required") or ()
        names = list(properties) if depth < _DEEP else [name for name in properties if name in required]
        names += [name for name in required if name not in properties]
        return {name: self._value(properties.get(name, {}), depth + 1) for name in names}

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        first = [self._value(one, depth + 1) for one in schema.get("prefixItems") or ()]
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        wanted = min(max(least, 1 + self._draw.below(3) if depth < _DEEP else 0), most)
        values = first
        # A set of few possible values may not be as large as wanted: so many tries, then it is what it is.
        for _ in range(20 * int(wanted)):
            if len(values) >= wanted or schema.get("items") is False:
                break
            value = self._value(schema.get("items", {}), depth + 1)
            if not schema.get("uniqueItems") or value not in values:
                values.append(value)
        return values

    def _number(self, schema: Mapping[str, Any], *, whole: bool) -> int | float:
        step = schema.get("multipleOf") or (1 if whole else 0.01)
        if whole and step != int(step):
            step = 1
        low, high = _bounds(schema, step, 5.0 if whole else 1.0)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if first > last:  # the range is finer than our steps
            return round(low) if whole else (low + high) / 2
        number = (first + self._draw.below(last - first + 1)) * step
        return round(number) if whole else round(number, 9)

    def _string(self, schema: Mapping[str, Any]) -> str:
        text = _FORMATS.get(schema.get("format", ""), "") or _SENTENCES[self._draw.below(len(_SENTENCES))]
        least = schema.get("minLength", 0)
        if len(text) < least:
            text = (text + " ") * (least // (len(text) + 1) + 1)
            text = text[:least]
        return text[: schema["maxLength"]] if "maxLength" in schema else text


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if isinstance(kind, str):
        return kind
    if "properties" in schema or "required" in schema:
        return "object"
    return "array" if "items" in schema or "prefixItems" in schema else "string"


def _merged(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in parts:
        properties = {**merged.get("properties", {}), **part.get("properties", {})}
        required = [*merged.get("required", ()), *part.get("required", ())]
        merged |= part
        if properties:
            merged["properties"] = properties
        if required:
            merged["required"] = required
    return merged


def _bounds(schema: Mapping[str, Any], step: float, usual_width: float) -> tuple[float, float]:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if above is not None and above is not True and above is not False:
        low = above + step if low is None else max(low, above + step)
    if below is not None and below is not True and below is not False:
        high = below - step if high is None else min(high, below - step)
    if low is None:
        low = 0.0 if high is None or high >= 0 else high - usual_width
    return low, max(low, usual_width) + (low if low > 0 else 0) if high is None else high
