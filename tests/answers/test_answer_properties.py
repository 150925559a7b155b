"""What must hold for every text: no value outside the schema, no crash, and no style in which a good answer is lost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pipeline.answers import AnswerSpec
from pipeline.answers.swift import fits

LABELS = ["positive", "negative", "neutral", "n/a", "A+", "größer", "1"]
FLAT = AnswerSpec.from_fields(
    {
        "label": LABELS,
        "score": {"type": "number", "minimum": 0, "exclusiveMaximum": 100},
        "stars": [1, 2, 3],
        "sure": "boolean",
        "reasons": {"list": "string"},
    }
)
DEEP = AnswerSpec.from_schema(
    {
        "properties": {
            "label": {"$ref": "#/$defs/label"},
            "parts": {
                "type": "array",
                "maxItems": 3,
                "items": {
                    "type": "object",
                    "properties": {"label": {"$ref": "#/$defs/label"}, "n": {"type": "integer"}},
                },
            },
            "note": {"type": ["string", "null"], "maxLength": 40},
        },
        "required": ["label", "parts"],
        "$defs": {"label": {"enum": ["yes", "no"]}},
    }
)
ONE = AnswerSpec.from_fields({"label": LABELS})
SPECS = [FLAT, DEEP, ONE]

texts = st.text(st.characters(), max_size=20)  # surrogates included
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 120),
    st.integers(),
    st.floats(),
    texts,
    st.sampled_from([*LABELS, "Positive", "pоsitive", "YES", "No.", "0.5", "true", "2"]),
)
names = st.sampled_from(["label", "Label", "score", "stars", "sure", "reasons", "parts", "note", "n", "x"])
anything = st.recursive(
    scalars, lambda part: st.lists(part, max_size=3) | st.dictionaries(names, part, max_size=5), max_leaves=12
)
objects = st.dictionaries(names, anything, max_size=6)
near = st.fixed_dictionaries(
    {"label": st.sampled_from(LABELS), "score": st.floats(0, 99), "stars": st.sampled_from([1, 2, 3])},
    optional={"sure": st.booleans(), "reasons": st.lists(texts, max_size=3), "x": scalars},
)
written = st.one_of(objects, near).flatmap(
    lambda value: st.sampled_from([json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1), repr(value)])
)


@st.composite
def mangled(draw: st.DrawFn) -> str:
    """An answer with a piece cut out, put in, or doubled."""
    text = draw(written)
    for _ in range(draw(st.integers(0, 3))):
        a, b = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        piece = draw(st.sampled_from(["", '"', "'", "{", "}", "[", "]", ",", ":", "```", " x ", "\\", text[a:b] * 2]))
        text = text[:a] + piece + text[draw(st.sampled_from([a, b])) :]
    return text


def plain_values(spec: AnswerSpec, values: Mapping[str, Any]) -> dict[str, Any]:
    """As the answer said them: JSON columns read back."""
    kinds = {field.name: field.column for field in spec.fields}
    return {n: json.loads(v) if kinds[n] == "json" and v is not None else v for n, v in values.items()}


def assert_sound(spec: AnswerSpec, text: str) -> None:
    reading = spec.read(text)
    assert (reading.values is None) == (reading.step == "invalid") == bool(reading.problems)
    for problem in reading.problems:
        problem.encode()
    if reading.values is None:
        return
    assert list(reading.values) == [field.name for field in spec.fields]
    Draft202012Validator(spec.schema).validate(plain_values(spec, reading.values))
    types = {"string": str, "integer": int, "number": float, "boolean": bool, "json": str}
    for field in spec.fields:
        value = reading.values[field.name]
        inner = field.column[1] if isinstance(field.column, tuple) else field.column
        for part in value if isinstance(field.column, tuple) and value is not None else [value]:
            assert part is None or type(part) is types[inner]
            assert type(part) is not float or math.isfinite(part)
            assert type(part) is not int or -(2**63) <= part < 2**63
            if type(part) is str:
                part.encode()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(mangled(), written, texts), st.sampled_from(SPECS))
def test_no_text_whatever_yields_a_value_outside_the_schema(text: str, spec: AnswerSpec) -> None:
    assert_sound(spec, text)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mangled(), st.sampled_from(LABELS))
def test_no_label_comes_out_that_stands_nowhere_in_the_text(text: str, label: str) -> None:
    values = ONE.read(text).values
    if values is not None:
        spelt = json.dumps(text)[1:-1] + text
        assert values["label"].casefold() in spelt.casefold() or "\\" in text


good = st.fixed_dictionaries(
    {
        "label": st.sampled_from(LABELS),
        "score": st.floats(0, 99.5),
        "stars": st.sampled_from([1, 2, 3]),
        "sure": st.booleans(),
        "reasons": st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=4),
    }
)
STYLES: dict[str, Callable[[Any], str]] = {
    "plain": json.dumps,
    "utf-8": lambda v: json.dumps(v, ensure_ascii=False),
    "indented": lambda v: json.dumps(v, indent=4),
    "compact": lambda v: json.dumps(v, separators=(",", ":")),
    "sorted": lambda v: json.dumps(v, sort_keys=True),
    "fenced": lambda v: f"```json\n{json.dumps(v, indent=2)}\n```",
    "in prose": lambda v: f"Here's the answer: {json.dumps(v)} Hope it's {{clear}}!",
    "trailing commas": lambda v: json.dumps(v)[:-1] + ",}",
    "unquoted keys": lambda v: "{" + ", ".join(f"{name}: {json.dumps(part)}" for name, part in v.items()) + "}",
    "in a string": lambda v: json.dumps(json.dumps(v)),
    "in a list": lambda v: f"[{json.dumps(v)}]",
    "with an extra": lambda v: json.dumps({"thought": '{"label": "x"}', **v}),
    "after thoughts": lambda v: f'<think>{{"label": ...</think>\n{json.dumps(v)}',
}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(good, st.sampled_from(sorted(STYLES)))
def test_a_valid_answer_reads_the_same_in_every_style(value: dict[str, Any], style: str) -> None:
    text = STYLES[style](value)
    if style in ("after thoughts", "in prose") and "</think>" in "".join(value["reasons"]):
        return
    reading = FLAT.read(text)
    assert reading.values == value, reading.problems
    plainly = style in ("plain", "utf-8", "indented", "compact", "sorted")
    assert not plainly or reading.step == "as_is"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(good)
def test_single_quotes_read_the_same(value: dict[str, Any]) -> None:
    value["reasons"] = [reason for reason in value["reasons"] if "\\U" not in repr(reason)]
    assert FLAT.read(repr(value)).values == value


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(good, st.integers(1, 400))
def test_half_an_answer_is_never_taken_for_a_whole_one(value: dict[str, Any], cut: int) -> None:
    text = json.dumps(value)
    assert FLAT.read(text[: max(0, len(text) - cut)]).step == "invalid"


part_schemas = st.recursive(
    st.one_of(
        st.sampled_from([{"type": kind} for kind in ("string", "integer", "number", "boolean", "null")]),
        st.just({"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^[a-z]"}),
        st.just({"type": "number", "minimum": 0, "exclusiveMaximum": 3}),
        st.just({"type": ["integer", "null"], "exclusiveMinimum": 0}),
        st.lists(st.sampled_from(["a", "b", 1, 2.5, True, None]), min_size=1, unique_by=repr).map(
            lambda v: {"enum": v}
        ),
        st.just({"type": "integer", "enum": [1, "a", True, 2.0]}),
        st.just({"$ref": "#/$defs/x"}),
        st.just({"not": {"type": "string"}}),
    ),
    lambda part: st.one_of(
        part.map(lambda one: {"type": "array", "items": one, "maxItems": 2}),
        st.lists(part, min_size=1, max_size=2).map(lambda several: {"anyOf": several}),
        part.map(
            lambda one: {"type": "object", "properties": {"a": one}, "required": ["a"], "additionalProperties": False}
        ),
    ),
    max_leaves=4,
)
values = st.recursive(
    st.one_of(st.sampled_from(["a", "b", "", "abcdefg", 0, 1, 2, 3, 1.0, 2.5, True, False, None]), st.integers()),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from("ab"), part, max_size=2),
    max_leaves=5,
)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(part_schemas, values)
def test_the_quick_test_says_yes_only_where_jsonschema_does(schema: dict[str, Any], value: Any) -> None:
    root = {**schema, "$defs": {"x": {"enum": ["a", 1]}}}
    test = fits(schema, root)
    if test is not None and test(value):
        assert Draft202012Validator(root).is_valid(value)
