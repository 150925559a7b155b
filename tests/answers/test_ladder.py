"""Every answer ends on the rung it should: malformed answers as models write them, each with what must come of it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pipeline.answers import AnswerSpec

SPEC = AnswerSpec.from_fields(
    {
        "sentiment": ["positive", "negative", "neutral"],
        "confidence": "number",
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
        "recommend": "boolean",
        "reasons": {"list": "string"},
    }
)
VALUES = {"sentiment": "positive", "confidence": 0.9, "stars": 4, "recommend": True, "reasons": ["fast", "cheap"]}
GOOD = json.dumps(VALUES)
OTHER = GOOD.replace("positive", "negative")
CURLY = GOOD.replace('["', "[“").replace('"]', "”]").replace(' "', " “").replace('{"', "{“").replace('"', "”")


def but(**changed: str) -> str:
    """The good answer with some values written as given."""
    return "{" + ", ".join(f'"{name}": {changed.get(name, json.dumps(v))}' for name, v in VALUES.items()) + "}"


def read_as(**changed: Any) -> dict[str, Any]:
    return {**VALUES, **changed}


AS_IS: list[tuple[str, str, dict[str, Any]]] = [
    ("compact", json.dumps(VALUES, separators=(",", ":")), VALUES),
    ("indented", json.dumps(VALUES, indent=2), VALUES),
    ("blank lines around", f"\n\n {GOOD}\r\n", VALUES),
    ("another order of the fields", json.dumps(dict(reversed(VALUES.items()))), VALUES),
    ("a whole number for a number", but(confidence="1"), read_as(confidence=1.0)),
    ("5.0 is an integer to JSON Schema", but(stars="5.0"), read_as(stars=5)),
    ("an exponent", but(confidence="9e-1"), VALUES),
    ("an empty list", but(reasons="[]"), read_as(reasons=[])),
    ("letters of other scripts", but(reasons='["größe", "价格", "🙂"]'), read_as(reasons=["größe", "价格", "🙂"])),
    ("a character in two escapes", but(reasons=r'["\ud83d\ude42"]'), read_as(reasons=["🙂"])),
    ("a label in escapes", but(sentiment=r'"\u0070ositive"'), VALUES),
    ("quotes within quotes, escaped", but(reasons=r'["he said \"great\""]'), read_as(reasons=['he said "great"'])),
    ("JSON in a text", but(reasons=r'["{\"a\": 1}"]'), read_as(reasons=['{"a": 1}'])),
    ("a fence in a text", but(reasons='["```json"]'), read_as(reasons=["```json"])),
    ("the end of thoughts in a text", but(reasons='["</think>"]'), read_as(reasons=["</think>"])),
    ("a NUL in a text", but(reasons=r'["\u0000"]'), read_as(reasons=["\0"])),
]

REPAIRED: list[tuple[str, str, dict[str, Any]]] = [
    ("a fence", f"```json\n{GOOD}\n```", VALUES),
    ("a fence without a language", f"```\n{GOOD}\n```", VALUES),
    ("a fence in capitals", f"```JSON\n{GOOD}\n```", VALUES),
    ("a fence that is never closed", f"```json\n{GOOD}", VALUES),
    ("a fence in prose", f"Here it is:\n\n```json\n{GOOD}\n```\nLet me know!", VALUES),
    ("prose before", f"Sure! The answer is {GOOD}", VALUES),
    ("prose behind", f"{GOOD}\n\nI chose positive because {{of reasons}}.", VALUES),
    ("a brace in the prose before", f"Filling in {{placeholder}}: {GOOD}", VALUES),
    ("a footnote in the prose", f"As stated [1], {GOOD}", VALUES),
    ("an apostrophe in the prose", f"Here's what I'd say: {GOOD} That's it.", VALUES),
    ("a byte order mark", f"\ufeff{GOOD}", VALUES),
    ("no-break spaces around", f"\xa0{GOOD}\xa0", VALUES),
    ("thoughts before", f"<think>Maybe {OTHER}? No.</think>{GOOD}", VALUES),
    ("thoughts whose opening tag was swallowed", f"Maybe {OTHER}? No.</think>\n{GOOD}", VALUES),
    ("doubled braces, as in a template", "{" + GOOD + "}", VALUES),
    ("a brace too many", GOOD + "}", VALUES),
    ("a list of one", f"[{GOOD}]", VALUES),
    ("a list of one in a fence", f"```json\n[\n{GOOD}\n]\n```", VALUES),
    ("a list of a list of one", f"[[{GOOD}]]", VALUES),
    ("JSON in a JSON string", json.dumps(GOOD), VALUES),
    ("JSON in a string in a string", json.dumps(json.dumps(GOOD)), VALUES),
    ("single quotes", repr(VALUES), VALUES),
    ("single quotes and an apostrophe", repr({**VALUES, "reasons": ["it's cheap"]}), read_as(reasons=["it's cheap"])),
    ("an escaped apostrophe", GOOD.replace("fast", r"it\'s"), read_as(reasons=["it's", "cheap"])),
    ("an escape of Python", but(reasons=r"['\x41']"), read_as(reasons=["A"])),
    ("True as Python writes it", but(recommend="True"), VALUES),
    ("curly quotes", CURLY, VALUES),
    ("unquoted keys", GOOD.replace('"sentiment"', "sentiment").replace('"stars"', "stars"), VALUES),
    ("a trailing comma", GOOD[:-1] + ",}", VALUES),
    ("a trailing comma in a list", but(reasons='["fast", "cheap",\n]'), VALUES),
    ("a comment", GOOD.replace("{", "{ // my answer\n"), VALUES),
    ("a raw line break in a text", but(reasons='["a\nb"]'), read_as(reasons=["a\nb"])),
    ("a raw tab in a text", but(reasons='["a\tb"]'), read_as(reasons=["a\tb"])),
    ("half a character", but(reasons=r'["\ud83d"]'), read_as(reasons=["�"])),
    ("half a character, raw", but(reasons='["\ud83d"]'), read_as(reasons=["�"])),
    ("a label in capitals", but(sentiment='"POSITIVE"'), VALUES),
    ("a label with a capital", but(sentiment='"Positive"'), VALUES),
    ("a label with blanks", but(sentiment='" positive\\n"'), VALUES),
    ("a label with a full stop", but(sentiment='"Positive."'), VALUES),
    ("a label in quotes", but(sentiment="\"'positive'\""), VALUES),
    ("a label in bold", but(sentiment='"**Positive**"'), VALUES),
    ("a number as text", but(confidence='"0.9"'), VALUES),
    ("an integer as text", but(stars='"4"'), VALUES),
    ("an integer as text with a fraction of nought", but(stars='"4.0"'), VALUES),
    ("a number as text with blanks", but(confidence='" 0.9 "'), VALUES),
    ("true as text", but(recommend='"true"'), VALUES),
    ("true as text in capitals", but(recommend='"TRUE"'), VALUES),
    ("a field that nobody asked for", GOOD[:-1] + ', "language": "en"}', VALUES),
    ("an object that nobody asked for in a field", GOOD[:-1] + ', "meta": {"sentiment": "negative"}}', VALUES),
    ("a field name in capitals", GOOD.replace("sentiment", "Sentiment"), VALUES),
    ("a field twice with one value", GOOD[:-1] + ', "stars": 4}', VALUES),
    ("a field twice in two spellings, one value", GOOD[:-1] + ', "Stars": 4}', VALUES),
    ("the same answer twice", f"{GOOD}\n\nIn short:\n{GOOD}", VALUES),
    ("an object of other things beside it", f'{GOOD}\n\nUsage: {{"tokens": 5}}', VALUES),
    ("several slips at once", f"```python\n{{sentiment: 'Positive', {GOOD[26:-1]},}}\n```", VALUES),
]

INVALID: list[tuple[str, str, str]] = [
    ("empty", "", "is empty"),
    ("blank", " \n\t", "is empty"),
    ("an empty fence", "```json\n\n```", "is empty"),
    ("a refusal in words", "I'm sorry, but I can't label this review.", "no JSON object"),
    ("a label alone, of five fields", "positive", "no JSON object"),
    ("an empty object", "{}", "'sentiment' is a required property"),
    ("null", "null", "no JSON object"),
    ("a number", "4", "no JSON object"),
    ("a list of texts", '["positive", 0.9]', "no JSON object"),
    ("half a JSON", GOOD[:60], "breaks off"),
    ("all but the last brace", GOOD[:-1], "breaks off"),
    ("cut within a number", GOOD[: GOOD.index("0.9") + 2], "is missing at"),
    ("cut within an escape", '{"sentiment": "positive\\', "breaks off"),
    ("half a JSON in a fence", f"```json\n{GOOD[:-1]}\n```", "is missing at"),
    ("half a JSON with a whole object in it", f'{{"example": {GOOD}, "answer": {{"sentiment": "neg', "breaks off"),
    ("half a list", f"[{GOOD}, ", "breaks off"),
    ("half a list of lists", f"[[{GOOD}], [", "breaks off"),
    ("a whole answer and half another", f"{GOOD}\nOr rather {OTHER[:40]}", "breaks off"),
    ("half a JSON in a JSON string", json.dumps(GOOD[:-1]), "breaks off"),
    ("thoughts that never end", f"<think>It could be {GOOD}", "still thinking"),
    ("thoughts and no answer", f"<think>It could be {GOOD}</think>", "is empty"),
    ("a label outside the set", but(sentiment='"great"'), "'great' is not one of"),
    ("a label that is nearly right", but(sentiment='"positiv"'), "'positiv' is not one of"),
    ("a label and more", but(sentiment='"very positive"'), "is not one of"),
    ("two labels", but(sentiment='"positive, negative"'), "is not one of"),
    ("a label in doubt", but(sentiment='"positive?"'), "is not one of"),
    ("a label negated", but(sentiment='"!positive"'), "is not one of"),
    ("an empty label", but(sentiment='""'), "is not one of"),
    ("a null label", but(sentiment="null"), "None is not one of"),
    ("a list of a label", but(sentiment='["positive"]'), "is not one of"),
    ("a Cyrillic look-alike", but(sentiment='"pоsitive"'), "is not one of"),
    ("a long s", but(sentiment='"poſitive"'), "is not one of"),
    ("full-width letters", but(sentiment='"ｐｏｓｉｔｉｖｅ"'), "is not one of"),
    ("a zero-width space inside", but(sentiment='"posi\u200btive"'), "is not one of"),
    ("a combining mark", but(sentiment='"positivé"'), "is not one of"),
    ("a Greek look-alike in a field name", GOOD.replace("sentiment", "sentιment"), "required property"),
    ("a percentage", but(confidence='"90%"'), "is not of type 'number'"),
    ("a bare percentage", but(confidence="90%"), "broken"),
    ("a number in words", but(confidence='"high"'), "confidence: 'high' is not of type 'number'"),
    ("a comma for a point", but(confidence='"0,9"'), "is not of type 'number'"),
    ("Arabic digits", but(stars='"٤"'), "is not of type 'integer'"),
    ("an integer with a fraction", but(stars="4.5"), "is not of type 'integer'"),
    ("out of bounds", but(stars="6"), "stars: 6 is greater than the maximum of 5"),
    ("out of bounds as text", but(stars='"6"'), "greater than the maximum"),
    ("yes for true", but(recommend='"yes"'), "is not of type 'boolean'"),
    ("1 for true", but(recommend="1"), "is not of type 'boolean'"),
    ("true for a number", but(confidence="true"), "is not of type 'number'"),
    ("a text for a list", but(reasons='"fast, cheap"'), "is not of type 'array'"),
    ("a number among texts", but(reasons='["fast", 5]'), "reasons[1]: 5 is not of type 'string'"),
    ("NaN", but(confidence="NaN"), "NaN is no number"),
    ("Infinity", but(confidence="Infinity"), "Infinity is no number"),
    ("minus infinity", but(confidence="-Infinity"), "Infinity is no number"),
    ("a number past all numbers", but(confidence="1e999"), "larger than a number can be"),
    ("a whole number past all numbers", but(confidence="1" + "0" * 400), "larger than a number can be"),
    ("more digits than a number holds", but(confidence="9007199254740993"), "more digits"),
    ("a number of 5000 digits", but(stars="1" * 5000), "5000 digits"),
    ("a leading zero", but(stars="04"), "broken"),
    ("a field missing", json.dumps({k: v for k, v in VALUES.items() if k != "stars"}), "'stars' is a required"),
    ("a field twice, two values", GOOD[:-1] + ', "sentiment": "negative"}', "'sentiment' is given twice"),
    ("a field twice, 1 and true", GOOD[:-1] + ', "stars": true}', "'stars' is given twice"),
    ("a field in two spellings, two values", GOOD[:-1] + ', "SENTIMENT": "negative"}', "given twice"),
    ("two objects that differ", f"{GOOD} or {OTHER}", "ambiguous"),
    ("a list of two", f"[{GOOD}, {OTHER}]", "ambiguous"),
    ("an answer and a broken correction", f"{GOOD} Correction: {but(sentiment='bad')}", "broken"),
    ("an answer and a correction that does not fit", f"{GOOD} Correction: {but(sentiment='5')}", "2 objects"),
    ("nine objects", GOOD * 9, "9 objects"),
    ("an object and something else", f'[{GOOD}, "note"]', "list of objects and other things"),
    ("wrapped in another object", f'{{"answer": {GOOD}}}', "required property"),
    ("the schema given back", json.dumps(SPEC.schema), "required property"),
    ("unescaped quotes within quotes", but(reasons='["he said "great" to me"]'), "broken"),
    ("an apostrophe within single quotes", repr(VALUES).replace("fast", "it's"), "broken"),
    ("an escape that does not exist", but(reasons=r'["\d+"]'), "cannot escape"),
    ("an unquoted label", but(sentiment="positive"), "has no quotes"),
    ("a comma missing", GOOD.replace('", "confidence', '" "confidence'), "',' is missing"),
    ("two commas", GOOD.replace(", ", ",, ", 1), "a key is missing"),
    ("no braces", GOOD[1:-1], "no JSON object"),
    ("nested without end", "[" * 100_000, "nested too deeply|no JSON object"),
    ("objects nested without end", '{"a":' * 100_000, "nested too deeply"),
    ("nested 200 deep, loosely", "{'a':" * 200 + "1" + "}" * 200, "levels deep"),
    ("a long text without JSON", "{ " * 200_000, "too long"),
]


@pytest.mark.parametrize(("text", "values"), [case[1:] for case in AS_IS], ids=[case[0] for case in AS_IS])
def test_a_valid_answer_is_taken_as_it_is(text: str, values: dict[str, Any]) -> None:
    reading = SPEC.read(text)
    assert (reading.step, reading.values, reading.problems) == ("as_is", values, ())
    assert repr(reading.values) == repr(values), "the types and the order count too"


@pytest.mark.parametrize(("text", "values"), [case[1:] for case in REPAIRED], ids=[case[0] for case in REPAIRED])
def test_what_is_beyond_doubt_is_repaired(text: str, values: dict[str, Any]) -> None:
    reading = SPEC.read(text)
    assert (reading.step, reading.values, reading.problems) == ("repaired", values, ())
    assert repr(reading.values) == repr(values), "the types and the order count too"


@pytest.mark.parametrize(("text", "problem"), [case[1:] for case in INVALID], ids=[case[0] for case in INVALID])
def test_what_would_be_a_guess_is_invalid_and_says_why(text: str, problem: str) -> None:
    reading = SPEC.read(text)
    assert (reading.step, reading.values) == ("invalid", None)
    assert any(any(part in said for part in problem.split("|")) for said in reading.problems), reading.problems
    assert all(len(said) <= 340 for said in reading.problems)
    for said in reading.problems:
        said.encode()


LABEL = AnswerSpec.from_fields({"sentiment": ["positive", "negative", "n/a"]})


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("positive", "positive"),
        ("Positive.", "positive"),
        (" NEGATIVE\n", "negative"),
        ('"positive"', "positive"),
        ("**positive**", "positive"),
        ("```\npositive\n```", "positive"),
        ("```text\nPositive\n```", "positive"),
        ("N/A", "n/a"),
        ("<think>it is bad</think>\n\npositive", "positive"),
    ],
)
def test_a_label_alone_is_an_answer_where_one_field_is_asked_for(text: str, label: str) -> None:
    reading = LABEL.read(text)
    assert (reading.step, reading.values) == ("repaired", {"sentiment": label})


@pytest.mark.parametrize(
    "text",
    [
        "The sentiment is positive.",
        "positive or negative",
        "not positive",
        "posit",
        "positive" * 2,
        "pоsitive",
        "neutral",
        "[]",
        '"positive',
        "{positive}",
    ],
)
def test_no_label_is_fished_out_of_prose(text: str) -> None:
    reading = LABEL.read(text)
    assert (reading.values is None) == (text != '"positive'), reading
    assert reading.step == ("invalid" if reading.values is None else "repaired")


def test_a_number_or_truth_value_alone_is_an_answer_too() -> None:
    assert AnswerSpec.from_fields({"stars": "integer"}).read("4").values == {"stars": 4}
    assert AnswerSpec.from_fields({"score": "number"}).read("0.5").values == {"score": 0.5}
    assert AnswerSpec.from_fields({"spam": "boolean"}).read("True").values == {"spam": True}
    assert AnswerSpec.from_fields({"score": "number"}).read("about 5").values is None


def test_free_text_alone_is_never_taken_for_a_field() -> None:
    assert AnswerSpec.from_fields({"summary": "string"}).read("I cannot help with that.").step == "invalid"


def test_labels_that_differ_in_case_alone_are_not_confused() -> None:
    spec = AnswerSpec.from_fields({"grade": ["a", "A", "b"]})
    assert spec.read('{"grade": "A"}').values == {"grade": "A"}
    assert spec.read('{"grade": "A."}').values == {"grade": "A"}
    assert spec.read('{"grade": "B"}').values == {"grade": "b"}
    both = AnswerSpec.from_fields({"word": ["us", "US"]})
    assert both.read('{"word": "Us"}').step == "invalid"


def test_punctuation_that_is_part_of_a_label_stays() -> None:
    spec = AnswerSpec.from_fields({"grade": ["A", "A+", "A-", "C#", "Yes!", "(none)"]})
    for given, label in {"a+": "A+", "A-": "A-", "c#": "C#", "yes!": "Yes!", "(None)": "(none)", "(a)": "A"}.items():
        assert spec.read(json.dumps({"grade": given})).values == {"grade": label}
    assert spec.read('{"grade": "none"}').step == "invalid"


def test_labels_keep_their_own_letters_whatever_the_case() -> None:
    spec = AnswerSpec.from_fields({"size": ["groß", "klein", "été"]})
    assert spec.read('{"size": "GROSS"}').values == {"size": "groß"}
    assert spec.read('{"size": "ÉTÉ"}').values == {"size": "été"}
    assert spec.read('{"size": "e\u0301te\u0301"}').values == {"size": "été"}, "one letter, written in two"
    assert spec.read('{"size": "\u212alein"}').step == "invalid", "the Kelvin sign is no k"


def test_labels_that_are_numbers_are_known_both_ways() -> None:
    texts = AnswerSpec.from_fields({"stars": ["1", "2", "3"]})
    assert texts.read('{"stars": 2}').values == {"stars": "2"}
    assert texts.read('{"stars": 4}').step == "invalid"
    numbers = AnswerSpec.from_fields({"stars": [1, 2, 3]})
    assert numbers.read('{"stars": "2"}').values == {"stars": 2}
    assert numbers.read('{"stars": true}').step == "invalid"
    halves = AnswerSpec.from_fields({"stars": [0.5, 1.5]})
    assert halves.read('{"stars": "1.5"}').values == {"stars": 1.5}


def test_labels_in_lists_are_repaired_one_by_one() -> None:
    spec = AnswerSpec.from_fields({"topics": {"list": ["price", "quality"]}})
    assert spec.read('{"topics": ["Price", "QUALITY."]}').values == {"topics": ["price", "quality"]}
    assert spec.read('{"topics": ["price", "service"]}').problems == (
        "topics[1]: 'service' is not one of ['price', 'quality']",
    )


def test_a_null_that_is_allowed_is_kept() -> None:
    spec = AnswerSpec.from_fields({"mood": ["good", "bad", None], "score": {"type": ["number", "null"]}})
    assert spec.read('{"mood": null, "score": null}').values == {"mood": None, "score": None}
    assert spec.read("{'mood': None, 'score': '0.5'}").values == {"mood": None, "score": 0.5}


def test_an_integer_past_64_bits_is_invalid() -> None:
    spec = AnswerSpec.from_fields({"views": "integer"})
    assert spec.read(f'{{"views": {2**63 - 1}}}').values == {"views": 2**63 - 1}
    assert "64-bit" in spec.read(f'{{"views": {2**63}}}').problems[0]
    assert "64-bit" in spec.read('{"views": 1e300}').problems[0]


def test_the_problems_of_a_long_answer_stay_short() -> None:
    reading = SPEC.read(but(sentiment=json.dumps("x" * 50_000), stars="99", confidence='"?"', recommend="0"))
    assert len(reading.problems) == 4
    assert all(len(problem) <= 300 for problem in reading.problems)


def test_there_are_enough_malformed_answers() -> None:
    assert len({text for _, text, _ in [*REPAIRED, *INVALID]}) >= 100


@pytest.mark.parametrize(
    ("slip", "least"),
    [
        ("fence", 6),
        ("prose", 4),
        ("half a|cut within|breaks off|never end", 6),
        ("capital", 3),
        ("nobody asked for", 2),
        ("quotes within quotes|apostrophe", 4),
        ("NaN|nfinity", 3),
        ("twice", 4),
        ("look-alike|long s|full-width|zero-width|combining|Arabic", 6),
        ("text for|as text|for true|for a number", 6),
    ],
)
def test_every_kind_of_slip_is_among_them(slip: str, least: int) -> None:
    names = [name for name, _, _ in [*AS_IS, *REPAIRED, *INVALID]]
    assert sum(re.search(slip, name) is not None for name in names) >= least
