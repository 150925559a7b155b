from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.simulator.answers import Answerer
from pipeline.simulator.completion import Answer
from pipeline.simulator.question import Refused, parse, tokens_of

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


def check(value: Any, schema: dict[str, Any]) -> None:
    """JSON Schema as far as these tests use it, written apart from the code that is tested."""
    assert fits(value, schema, schema), (value, schema)


def fits(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    if "$ref" in schema:
        return fits(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    kinds = schema.get("type", list(TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return (
        any(isinstance(value, TYPES[kind]) and (kind == "boolean" or value is not True) for kind in kinds)
        and bool(value in schema.get("enum", [value]))
        and bool(value == schema.get("const", value))
        and all(fits(value, part, root) for part in schema.get("allOf", []))
        and ("anyOf" not in schema or any(fits(value, part, root) for part in schema["anyOf"]))
        and (not isinstance(value, int | float) or fits_number(value, schema))
        and (not isinstance(value, str) or schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 9999))
        and (not isinstance(value, list) or fits_array(value, schema, root))
        and (not isinstance(value, dict) or fits_object(value, schema, root))
    )


def fits_number(value: float, schema: dict[str, Any]) -> bool:
    return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value)) and bool(
        schema.get("exclusiveMinimum", value - 1) < value
    )


def fits_array(value: list[Any], schema: dict[str, Any], root: dict[str, Any]) -> bool:
    return (
        schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 9999)
        and all(fits(item, schema.get("items", {}), root) for item in value)
        and not (schema.get("uniqueItems") and len({orjson.dumps(item) for item in value}) < len(value))
    )


def fits_object(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any]) -> bool:
    known = schema.get("properties", {})
    return (
        set(schema.get("required", [])) <= set(value)
        and (schema.get("additionalProperties", True) is not False or set(value) <= set(known))
        and all(fits(item, known.get(name, {}), root) for name, item in value.items())
    )


def test_the_checker_of_these_tests_does_refuse() -> None:
    for value, schema in (
        (7, {"type": "string"}),
        (True, {"type": "integer"}),
        ("d", {"enum": ["a"]}),
        (1, {"exclusiveMinimum": 1}),
        ({}, {"required": ["x"]}),
        ({"y": 1}, {"properties": {"x": {}}, "additionalProperties": False}),
        (["a", "a"], {"uniqueItems": True}),
        ("abc", {"maxLength": 2}),
        ([[7]], {"items": {"items": {"type": "string"}}}),
    ):
        assert not fits(value, schema, schema)


INSTRUCTION = "Is this review positive, negative or neutral? One word.\n\n"


def ask(text: str, *, seed: int = 1, answerer: Answerer | None = None, **body: Any) -> Answer:
    messages = [{"role": "user", "content": text}]
    question = parse(orjson.dumps({"model": "gemini-2.5-flash", "messages": messages, **body}))
    return (answerer or Answerer(seed)).answer(question)


def test_the_same_question_gets_the_same_answer_and_another_seed_may_give_another() -> None:
    asked = [f"one of: a, b, c, d, e, f, g\n\n{n}" for n in range(50)]
    once, again, other = ([ask(text, seed=seed).text for text in asked] for seed in (1, 1, 2))
    assert once == again
    assert once != other
    assert len(set(once)) == 7


@pytest.mark.parametrize(
    ("review", "label"),
    [
        ("I love it, works great.", "positive"),
        ("Broken after a week. A waste of money.", "negative"),
        ("Not good at all!", "negative"),
        ("Sehr schlecht, leider kaputt.", "negative"),
        ("Je recommande, c'est parfait.", "positive"),
        ("Una maravilla, excelente.", "positive"),
        ("最高です。", "positive"),
        ("很差，失望。", "negative"),
    ],
)
def test_a_plain_review_gets_the_label_one_expects(review: str, label: str) -> None:
    assert ask(INSTRUCTION + review).text == label


@pytest.mark.parametrize(
    ("prompt", "labels"),
    [
        (INSTRUCTION + "x", {"positive", "negative", "neutral"}),
        ('Classify as "bug", "feature request" or "question": one of: bug, feature request, question\n\nx', None),
        ("Categories: bug | feature request | question.\n\nx", {"bug", "feature request", "question"}),
        ("Answer with one of these labels:\n- red\n- dark blue\n- green\n\nx", {"red", "dark blue", "green"}),
        ("Route it to a team:\nbilling    invoices and refunds\nother    the rest\n\nx", {"billing", "other"}),
        ("Is it spam? Answer yes or no.\n\nx", {"yes", "no"}),
        ("Ist das gut, schlecht oder egal?\n\nx", {"gut", "schlecht", "egal"}),
        ("low/medium/high?\n\nx", {"low", "medium", "high"}),
        ("The text:\n\nx\n\nAnswer with one of: alpha, beta.", {"alpha", "beta"}),
    ],
)
def test_labels_are_found_however_a_prompt_offers_them(prompt: str, labels: set[str] | None) -> None:
    got = {ask(prompt.replace("x", f"text {n}")).text for n in range(60)}
    assert got <= (labels or {"bug", "feature request", "question"})


def test_labels_of_the_system_message_are_used_and_examples_are_not_mistaken_for_the_row() -> None:
    messages = [
        {"role": "system", "content": "Answer with exactly one word: positive, negative or neutral."},
        {"role": "user", "content": "great, love it"},
        {"role": "assistant", "content": "positive"},
        {"role": "user", "content": [{"type": "text", "text": "awful, broken"}]},
    ]
    assert Answerer(1).answer(parse(orjson.dumps({"model": "m", "messages": messages}))).text == "negative"


def test_without_labels_there_is_a_sentence_that_owns_up() -> None:
    assert "simulator" in ask("Tell me about the sea.").text


SCHEMA = {
    "type": "object",
    "properties": {
        "sentiment": {"enum": ["positive", "negative", "neutral"]},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
        "reasons": {"type": "array", "items": {"type": "string", "minLength": 3, "maxLength": 12}, "minItems": 1},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "maxItems": 2},
        "spam": {"type": "boolean"},
        "when": {"anyOf": [{"type": "null"}, {"type": "string", "format": "date"}]},
        "tree": {"$ref": "#/$defs/tree"},
        "both": {"allOf": [{"properties": {"x": {"const": 1}}}, {"required": ["x", "y"]}]},
    },
    "required": ["sentiment", "confidence", "stars", "reasons", "tags", "spam", "when", "tree"],
    "additionalProperties": False,
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {
                "name": {"type": ["string", "null"]},
                "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
            },
            "required": ["kids"],
        }
    },
}


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}},
        {"type": "json_object", "schema": SCHEMA},
    ],
)
def test_the_answer_fits_the_schema_asked_for(wanted: dict[str, Any]) -> None:
    for n in range(50):
        answer = orjson.loads(ask(f"great, love it {n}", response_format=wanted).text)
        check(answer, SCHEMA)
        assert answer["sentiment"] == "positive"


def test_a_schema_in_the_prompt_is_obeyed_in_json_mode() -> None:
    prompt = "Reply with JSON of this schema:\n" + orjson.dumps(SCHEMA).decode() + "\n\nThe text: broken, awful."
    answer = orjson.loads(ask(prompt, response_format={"type": "json_object"}).text)
    check(answer, SCHEMA)
    assert isinstance(orjson.loads(ask("Anything, as JSON", response_format={"type": "json_object"}).text), dict)


SCHEMAS = st.recursive(
    st.one_of(
        st.builds(
            lambda low, width: {"type": "integer", "minimum": low, "maximum": low + width},
            st.integers(-99, 99),
            st.integers(0, 9),
        ),
        st.builds(
            lambda low, width: {"type": "number", "exclusiveMinimum": low, "maximum": low + width},
            st.integers(-99, 99),
            st.integers(1, 9),
        ),
        st.builds(
            lambda least, more: {"type": "string", "minLength": least, "maxLength": least + more},
            st.integers(0, 80),
            st.integers(0, 9),
        ),
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"const": [1, "x"]}, {"enum": [None, 3, "a"]}]),
    ),
    lambda inner: st.one_of(
        st.builds(
            lambda of, least, more: {"type": "array", "items": of, "minItems": least, "maxItems": least + more},
            inner,
            st.integers(0, 4),
            st.integers(0, 3),
        ),
        st.dictionaries(st.sampled_from("abcdef"), inner).map(
            lambda of: {"type": "object", "properties": of, "required": list(of), "additionalProperties": False}
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda of: {"anyOf": of}),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(SCHEMAS)
def test_any_schema_of_the_known_kinds_is_fitted(schema: dict[str, Any]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    check(orjson.loads(ask("text", response_format=wanted).text), schema)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300))
def test_no_prompt_makes_it_stumble(text: str) -> None:
    answer = ask(text)
    assert answer.completion_tokens == tokens_of(answer.text)
    assert ask(INSTRUCTION + text).text


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["model", "messages", "role", "content", "type", "text", "stream"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_a_question_or_refused(body: Any) -> None:
    try:
        Answerer(1).answer(parse(orjson.dumps(body)))
    except Refused as refused:
        assert orjson.loads(refused.body)["error"]["type"] == "invalid_request_error"


def test_usage_is_counted_from_what_was_said() -> None:
    answer = ask("x" * 401)
    assert answer.prompt_tokens == 101 + 3
    assert answer.completion_tokens == tokens_of(answer.text)
    assert ask("é" * 4).prompt_tokens == 2 + 3


def test_max_tokens_cuts_the_answer() -> None:
    full = ask("Tell me about the sea.")
    cut = ask("Tell me about the sea.", max_tokens=3)
    assert (full.finish_reason, cut.finish_reason) == ("stop", "length")
    assert cut.text == full.text[:12]
    assert cut.completion_tokens == 3
    assert ask("Tell me about the sea.", max_completion_tokens=full.completion_tokens) == full


def test_a_thinking_model_counts_its_thoughts_and_may_have_no_words_left() -> None:
    thought = ask("Tell me about the sea.", model="gemini-2.5-pro")
    assert thought.reasoning_tokens > 0
    assert thought.completion_tokens == thought.reasoning_tokens + tokens_of(thought.text)
    starved = ask("Tell me about the sea.", model="o3-mini", max_tokens=5)
    assert (starved.text, starved.finish_reason) == ("", "length")
    assert (starved.completion_tokens, starved.reasoning_tokens) == (5, 5)
    assert ask("Tell me about the sea.", model="improbable-x").reasoning_tokens == 0


def test_answers_can_be_given_a_length_or_be_the_same_for_all() -> None:
    lengths = [ask(str(n), answerer=Answerer(1, answer_tokens=(50, 90))).completion_tokens for n in range(200)]
    assert (min(lengths), max(lengths)) == (50, 90)
    assert {ask(str(n), answerer=Answerer(1, canned=True)).text for n in range(5)} == {"ok"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b'{"messages":[{"role":"user","content":"x"}]}', "model"),
        (b'{"model":7,"messages":[{"role":"user","content":"x"}]}', "model"),
        (b'{"model":"m"}', "messages"),
        (b'{"model":"m","messages":[]}', "messages"),
        (b'{"model":"m","messages":[{"content":"x"}]}', "messages[0]"),
        (b'{"model":"m","messages":[{"role":"user","content":7}]}', "messages[0].content"),
        (b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":"hot"}', "temperature"),
        (b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":3}', "temperature"),
        (b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":0}', "max_tokens"),
        (b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":true}', "max_tokens"),
        (b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":"no"}', "stream"),
        (
            b'{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":{"type":"x"}}',
            "response_format.type",
        ),
        (b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}', None),
    ],
)
def test_a_wrong_request_is_refused_and_told_where(body: bytes, param: str | None) -> None:
    with pytest.raises(Refused) as refused:
        parse(body)
    assert refused.value.status == 400
    assert orjson.loads(refused.value.body)["error"]["param"] == param
