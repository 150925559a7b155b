"""What a job may ask for: short forms, schemas, columns, and what is refused with its path."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pipeline.answers import AnswerSpec, AnswerSpecError, re_ask
from pipeline.errors import SpecError


def test_short_forms_stand_for_schemas_and_columns() -> None:
    spec = AnswerSpec.from_fields(
        {
            "sentiment": ["positive", "negative"],
            "stars": [1, 2, 3],
            "weight": [0.5, 1],
            "mood": ["good", None],
            "flag": [True, False],
            "text": "string",
            "score": "number",
            "count": "integer",
            "sure": "boolean",
            "tags": {"list": "string"},
            "topics": {"list": ["price", "quality"], "maxItems": 2, "description": "what it is about"},
            "words": {"type": "array", "items": {"type": "string"}},
            "grid": {"list": {"list": "number"}},
            "place": {"type": "object", "properties": {"city": {"type": "string"}}},
            "either": {"type": ["string", "integer"]},
            "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        }
    )
    assert {field.name: field.column for field in spec.fields} == {
        "sentiment": "string",
        "stars": "integer",
        "weight": "number",
        "mood": "string",
        "flag": "boolean",
        "text": "string",
        "score": "number",
        "count": "integer",
        "sure": "boolean",
        "tags": ("list", "string"),
        "topics": ("list", "string"),
        "words": ("list", "string"),
        "grid": "json",
        "place": "json",
        "either": "json",
        "maybe": "integer",
    }
    properties = spec.schema["properties"]
    assert properties["sentiment"] == {"type": "string", "enum": ["positive", "negative"]}
    assert properties["mood"] == {"type": ["string", "null"], "enum": ["good", None]}
    assert properties["topics"]["items"] == {"type": "string", "enum": ["price", "quality"]}
    assert properties["topics"]["maxItems"] == 2


def test_the_schema_is_closed_and_asks_for_every_field() -> None:
    spec = AnswerSpec.from_fields({"a": "string", "b": {"list": {"type": "object", "properties": {"c": {}}}}})
    assert spec.schema["additionalProperties"] is False
    assert spec.schema["required"] == ["a", "b"]
    inner = spec.schema["properties"]["b"]["items"]
    assert (inner["additionalProperties"], inner["required"]) == (False, ["c"])
    assert spec.strict
    Draft202012Validator.check_schema(spec.schema)


def test_values_that_no_plain_column_holds_are_kept_as_json_text() -> None:
    spec = AnswerSpec.from_fields({"place": {"type": "object", "properties": {"city": {"type": "string"}}}})
    reading = spec.read('{"place": {"city": "Köln"}}')
    assert (reading.step, reading.values) == ("as_is", {"place": '{"city":"Köln"}'})
    extra = spec.read('{"place": {"city": "Köln", "river": "Rhein"}}')
    assert (extra.step, extra.values) == ("repaired", {"place": '{"city":"Köln"}'})
    assert spec.read('{"place": {}}').problems == ("place: 'city' is a required property",)


def test_a_field_that_the_schema_does_not_require_may_be_missing_or_null() -> None:
    spec = AnswerSpec.from_schema(
        {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "number"}}, "required": ["a"]}
    )
    assert spec.schema["required"] == ["a", "b"], "endpoints' strict mode asks for all of them"
    assert spec.fields[1].column == "number"
    for text in ('{"a": "x"}', '{"a": "x", "b": null}'):
        assert (spec.read(text).step, spec.read(text).values) == ("as_is", {"a": "x", "b": None})
    assert spec.read('{"a": "x", "b": "2"}').values == {"a": "x", "b": 2.0}
    assert spec.read('{"a": "x", "b": "high"}').problems == ("b: 'high' is not of type 'number'",)


def test_references_within_the_schema_are_followed() -> None:
    spec = AnswerSpec.from_schema(
        {
            "properties": {
                "label": {"$ref": "#/$defs/label"},
                "all": {"type": "array", "items": {"$ref": "#/$defs/label"}},
            },
            "$defs": {"label": {"enum": ["yes", "no"]}},
        }
    )
    assert [field.column for field in spec.fields] == ["string", ("list", "string")]
    assert spec.read('{"label": "Yes", "all": ["NO"]}').values == {"label": "yes", "all": ["no"]}


def test_a_schema_that_holds_itself_is_read_to_the_depth_that_an_answer_has() -> None:
    tree = {
        "properties": {"root": {"$ref": "#/$defs/node"}},
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "below": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
            }
        },
    }
    spec = AnswerSpec.from_schema(tree)
    assert spec.fields[0].column == "json"
    assert spec.read('{"root": {"name": "a", "below": [{"name": "b", "below": []}]}}').step == "as_is"
    deep = '{"name": "a", "below": [' * 900 + "]}" * 900
    assert spec.read(f'{{"root": {deep}}}').step == "invalid"


def test_rules_that_span_fields_are_held() -> None:
    spec = AnswerSpec.from_schema(
        {
            "properties": {"label": {"enum": ["yes", "no"]}, "why": {"type": "string"}},
            "if": {"properties": {"label": {"const": "no"}}},
            "then": {"properties": {"why": {"minLength": 3}}},
        }
    )
    assert not spec.strict
    assert spec.read('{"label": "yes", "why": ""}').step == "as_is"
    assert spec.read('{"label": "no", "why": ""}').step == "invalid"


def test_objects_that_were_left_open_on_purpose_stay_open() -> None:
    inner = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": True, "required": []}
    spec = AnswerSpec.from_fields({"x": inner})
    assert not spec.strict
    assert spec.read('{"x": {"b": 1}}').values == {"x": '{"b":1}'}


@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        ({}, "answer.fields", "names no field"),
        (["a"], "answer.fields", "names no field"),
        ({"a": None}, "answer.fields.a", "is empty"),
        ({"a": 5}, "answer.fields.a", "is a number"),
        ({"a": True}, "answer.fields.a", "is a truth value"),
        ({"a": []}, "answer.fields.a", "empty list"),
        ({"a": [None]}, "answer.fields.a", "empty list"),
        ({"a": ["string"]}, "answer.fields.a", "{list: string}"),
        ({"a": ["x", 1]}, "answer.fields.a", "mixes a number and a text"),
        ({"a": ["x", True]}, "answer.fields.a", "put all labels in quotes"),
        ({"a": ["x", "x"]}, "answer.fields.a", "names 'x' twice"),
        ({"a": ["x", " "]}, "answer.fields.a[1]", "is blank"),
        ({"a": [1, float("nan")]}, "answer.fields.a[1]", "JSON cannot carry"),
        ({"a": [["x"]]}, "answer.fields.a", "has a list among its labels"),
        ({"a": "text"}, "answer.fields.a", "did you mean string?"),
        ({"a": "interger"}, "answer.fields.a", "did you mean integer?"),
        ({"a": "positive"}, "answer.fields.a", "labels are a list"),
        ({"a": {"list": "strng"}}, "answer.fields.a.list", "did you mean string?"),
        ({"a": {"typ": "string"}}, "answer.fields.a", "did you mean type?"),
        ({"a": {"description": "the mood"}}, "answer.fields.a", "says nothing about the value"),
        ({"a": {}}, "answer.fields.a", "says nothing about the value"),
        ({"a": {"type": "strin"}}, "answer.fields.a.type", "a type is one of"),
        ({"a": {"type": "string", "enm": ["x"]}}, "answer.fields.a.enm", "did you mean enum?"),
        ({"a": {"type": "string", "enum": "x"}}, "answer.fields.a.enum", "is no JSON Schema"),
        ({"a": {"enum": []}}, "answer.fields.a.enum", "is empty"),
        ({"a": {"type": "string", "enum": [1, 2]}}, "answer.fields.a", "allows no value at all"),
        ({"a": {"type": "string", "pattern": "("}}, "answer.fields.a.pattern", "is no JSON Schema"),
        ({"a": {"type": "number", "minimum": "0"}}, "answer.fields.a.minimum", "is no JSON Schema"),
        ({"a": {"type": "array", "items": {"type": "str"}}}, "answer.fields.a.items.type", "a type is one of"),
        ({"a": {"$ref": "#/$defs/x"}}, "answer.fields.a.$ref", "write the whole as answer.schema"),
        ({"a": {"enum": [datetime.date(2024, 1, 1)]}}, "answer.fields.a.enum[0]", "is a date"),
        ({"a": {"type": "object", "properties": {1: {}}}}, "answer.fields.a.properties", "has the key 1"),
        ({1: "string"}, "answer.fields.1", "is a field name that is no text"),
        ({"a ": "string"}, "answer.fields.a ", "is no name for a column"),
        ({"": "string"}, "answer.fields.", "is no name for a column"),
    ],
)
def test_fields_that_cannot_be_asked_for_are_refused_with_their_path(fields: Any, path: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        AnswerSpec.from_fields(fields)
    assert str(caught.value).startswith(f"{path} ")
    assert words in str(caught.value)


def _with(**more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"type": "string"}}, **more}


@pytest.mark.parametrize(
    ("schema", "path", "words"),
    [
        ("object", "answer.schema", "is no mapping"),
        ({}, "answer.schema.properties", "missing or empty"),
        ({"type": "object"}, "answer.schema.properties", "missing or empty"),
        ({"type": "string"}, "answer.schema.type", "an answer is an object"),
        ({"type": ["object", "null"], "properties": {"a": {}}}, "answer.schema.type", "an answer is an object"),
        (_with(properties={"a": {"type": "text"}}), "answer.schema.properties.a.type", "a type is one of"),
        (_with(properties={"a": 5}), "answer.schema.properties.a", "is no JSON Schema"),
        (_with(properties=["a"]), "answer.schema.properties", "is no JSON Schema"),
        (_with(required=["b"]), "answer.schema.required", "names 'b'"),
        (_with(required="a"), "answer.schema.required", "is no JSON Schema"),
        (_with(propertis={}), "answer.schema.propertis", "did you mean properties?"),
        (_with(properties={"a": {"$ref": "#/$defs/x"}}), "answer.schema.properties.a.$ref", "has nothing there"),
        (
            _with(properties={"a": {"$ref": "https://x.test/s"}}),
            "answer.schema.properties.a.$ref",
            "nothing is fetched",
        ),
        (_with(properties={"a": {"$ref": "other.json"}}), "answer.schema.properties.a.$ref", "nothing is fetched"),
        (_with(properties={"a": {"$ref": "file:///etc/passwd"}}), "answer.schema.properties.a.$ref", "nothing is"),
        (_with(properties={"a": {"items": {"$dynamicRef": "#x"}}}), "answer.schema.properties.a.items.$dynamicRef", ""),
        (_with(**{"$id": "https://x.test/s"}), "answer.schema.$id", "is not supported"),
        (
            {"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"$ref": "#/$defs/x"}}},
            "answer.schema.properties.a.$ref",
            "leads in a circle",
        ),
        (_with(default=float("inf")), "answer.schema.default", "JSON cannot carry"),
    ],
)
def test_a_schema_that_is_none_is_refused_with_its_path(schema: Any, path: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        AnswerSpec.from_schema(schema)
    assert str(caught.value).startswith(f"{path} ")
    assert words in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(AnswerSpecError) as caught:
        AnswerSpec.from_fields({"a": "txt", "b": [], "c": "string"}, where="answer.fields")
    assert [path for path, _ in caught.value.problems] == [("a",), ("b",)]
    assert len(str(caught.value).splitlines()) == 2
    assert caught.value.exit_code == 2


def test_data_in_a_schema_is_not_taken_for_a_reference() -> None:
    spec = AnswerSpec.from_schema(_with(properties={"$ref": {"type": "string", "default": {"$ref": "http://x"}}}))
    assert spec.read('{"$ref": "x"}').values == {"$ref": "x"}


def test_a_schema_from_another_tool_is_taken_with_its_dialect() -> None:
    spec = AnswerSpec.from_schema(_with(**{"$schema": "http://json-schema.org/draft-07/schema#", "title": "Review"}))
    assert "$schema" not in spec.schema
    assert spec.read('{"a": "x"}').step == "as_is"


SPEC = AnswerSpec.from_fields({"sentiment": ["positive", "negative"], "why": "string"})


def test_the_request_asks_as_strongly_as_the_mode_says() -> None:
    assert SPEC.response_format("schema") == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": SPEC.schema},
    }
    assert SPEC.response_format("json") == {"type": "json_object"}
    assert SPEC.response_format("text") is None


def test_the_words_carry_the_schema_where_the_request_does_not() -> None:
    assert SPEC.instructions("schema") is None
    for mode in ("json", "text"):
        said = SPEC.instructions(mode)
        assert said is not None
        assert "JSON" in said, "endpoints refuse json_object without this word"
        assert json.loads(said.splitlines()[-1]) == SPEC.schema


def test_an_answer_is_sent_back_with_the_reasons() -> None:
    text = '{"sentiment": "great"}'
    said = re_ask(text, SPEC.read(text).problems)
    assert "- sentiment: 'great' is not one of ['positive', 'negative']" in said
    assert "- 'why' is a required property" in said
    assert text in said


def test_what_is_sent_back_is_short_and_can_be_written_as_utf_8() -> None:
    said = re_ask("\ud800" + "x" * 100_000, ["no"])
    said.encode()
    assert len(said) < 3_000
