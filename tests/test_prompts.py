from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SpecError
from pipeline.prompts import InvalidRow, Templates, fields_as_json
from pipeline.records import Row, Value


def rendered(template: str, **fields: Value) -> str:
    prompt = Templates([("user", template)]).render(Row(0, "id", fields))
    content: Any = prompt.messages[-1]["content"]
    assert isinstance(content, str)
    return content


def refused(template: str, **fields: Value) -> str:
    with pytest.raises(InvalidRow) as caught:
        rendered(template, **fields)
    return str(caught.value)


def test_values_stand_where_the_template_names_them() -> None:
    assert rendered("{{ title }}\n\n{{ text }}\n", title="T", text="x") == "T\n\nx\n"
    assert rendered("{{ n }} {{ f }} {{ b }}", n=7, f=0.1, b=True) == "7 0.1 True"


def test_columns_are_told_in_the_order_of_their_first_use() -> None:
    templates = Templates([("system", "{{ b }} {{ a }}"), ("user", "{{ c }}{{ a }}{% set d = 1 %}{{ d }}")])
    assert templates.columns == ("b", "a", "c")


@pytest.mark.parametrize(
    "template", ['{{ row["Review Text"] }}', "{% if text %}{{ row['Review Text'] | trim }}{% endif %}"]
)
def test_a_column_whose_name_is_no_word_is_written_by_its_name(template: str) -> None:
    templates = Templates([("user", template + "{{ row['2nd'] }}{{ text }}")])
    assert set(templates.columns) == {"Review Text", "2nd", "text"}
    fields: dict[str, Value] = {"Review Text": "{{ text }}", "2nd": 2, "text": "x"}
    assert templates.render(Row(0, None, fields)).messages[0]["content"] == "{{ text }}2x"
    with pytest.raises(InvalidRow, match="column '2nd' is null"):
        templates.render(Row(0, None, {**fields, "2nd": None}))


def test_a_column_may_be_called_row_and_a_template_may_make_a_row_of_its_own() -> None:
    assert rendered("{{ row }} {{ row['a b'] }} {{ row[0] }}", row="r", **{"a b": "x"}) == "r x r"
    made = Templates([("user", "{% for row in [{'a': 1}] %}{{ row['a'] }}{% endfor %}{{ text }}")])
    assert made.columns == ("text",)
    assert made.render(Row(0, None, {"text": "x"})).messages[0]["content"] == "1x"


def test_a_name_with_a_blank_is_refused_with_the_way_to_write_it() -> None:
    with pytest.raises(SpecError, match=re.escape('is written {{ row["its name"] }}')):
        Templates([("user", "{{ Review Text }}")])


def test_messages_keep_their_roles_and_their_order() -> None:
    templates = Templates([("system", "be brief"), ("user", "{{ q }}"), ("assistant", "A"), ("user", "and {{ q }}?")])
    messages = templates.render(Row(0, None, {"q": "why"})).messages
    assert [(message["role"], message["content"]) for message in messages] == [
        ("system", "be brief"),
        ("user", "why"),
        ("assistant", "A"),
        ("user", "and why?"),
    ]


def test_filters_loops_and_conditions_work() -> None:
    assert rendered("{% if n > 3 %}{{ text | upper | truncate(5) }}{% else %}-{% endif %}", n=4, text="ab") == "AB"
    assert rendered("{% for c in text %}{{ c }}.{% endfor %}", text="ab") == "a.b."


# -- S09: templates in the data


@pytest.mark.fault("S09")
@pytest.mark.parametrize(
    "value",
    ["{{ 7*7 }}", "{% for x in [1] %}x{% endfor %}", "{x.__class__}", "${HOME}", "{# gone #}", "%(x)s", "{{ secret }}"],
)
@pytest.mark.parametrize("template", ["{{ text }}", "{{ text | trim }}", "{% set t = text %}<{{ t }}>"])
def test_a_value_is_never_parsed_again(template: str, value: str) -> None:
    assert value in rendered(template, text=value, secret="s3cret")


@pytest.mark.fault("S09")
@given(st.text(min_size=1).filter(str.strip))
def test_any_text_arrives_as_it_is(value: str) -> None:
    assert rendered("<{{ text }}>", text=value) == f"<{value}>"


# -- S10: templates of the spec


@pytest.mark.fault("S10")
@pytest.mark.parametrize(
    "template",
    [
        "{{ text.__class__.__mro__ }}",
        "{{ text | attr('__class__') }}",
        "{{ text['__class__'] }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{{ ''.join.__self__ }}",
        "{{ [].append(1) }}{{ text }}",
        "{{ {}.update(a=1) }}{{ text }}",
        "{{ (text ~ '').__init__.__globals__ }}",
    ],
)
def test_a_template_reaches_nothing_but_plain_values(template: str) -> None:
    assert "the template fails on this row" in refused(template, text="x")


@pytest.mark.fault("S10")
@pytest.mark.parametrize("name", ["range", "cycler", "namespace", "lipsum", "dict", "joiner", "config", "environment"])
def test_nothing_is_there_but_the_columns(name: str) -> None:
    assert Templates([("user", "{{ " + name + " }}")]).columns == (name,)


@pytest.mark.fault("S10")
@pytest.mark.parametrize(
    "template", ["{% include '/etc/passwd' %}", "{% import 'x' as y %}", "{% extends t %}", "{% from 'a' import b %}"]
)
def test_a_template_cannot_read_another(template: str) -> None:
    with pytest.raises(SpecError, match="cannot include"):
        Templates([("user", template)])


@pytest.mark.fault("S10")
def test_a_macro_without_end_costs_one_row_and_not_the_run() -> None:
    assert "no end" in refused("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(text) }}", text="x")


@pytest.mark.fault("S10")
def test_nesting_that_python_cannot_follow_is_an_error_of_the_spec() -> None:
    with pytest.raises(SpecError, match="nested too deeply"):
        Templates([("user", "{% for a in text %}" * 25 + "x" + "{% endfor %}" * 25)])


@pytest.mark.fault("S10")
@pytest.mark.parametrize(
    "template", ["{{ text.title }}", "{{ text.format }}", "{{ self }}", "{{ text | map('upper') }}"]
)
def test_what_is_no_text_is_not_asked_about(template: str) -> None:
    # `{{ text.title }}` is a method: a million prompts said "<built-in method title of str object at 0x7f...>".
    assert "no text" in refused(template, text="x")


# -- S11: nothing where something should be


@pytest.mark.fault("S11")
@pytest.mark.parametrize("template", ["{{ text }}", "{{ text or 'x' }}", "{% if text %}x{% endif %} y"])
def test_a_null_in_a_used_column_is_no_prompt(template: str) -> None:
    assert refused(template, text=None) == "column 'text' is null"
    assert refused(template) == "column 'text' is null"


@pytest.mark.fault("S11")
def test_the_word_none_never_gets_into_a_prompt() -> None:
    assert "no text" in refused("{{ none }} {{ text }}", text="x")
    assert "no text" in refused("{{ text }}{{ none if text else 1 }}", text="x")


@pytest.mark.fault("S11")
def test_a_name_that_is_not_there_is_an_error_and_not_empty() -> None:
    assert "has no attribute" in refused("{{ text.nowhere }}", text="x")
    assert "has no element" in refused("{% set a = text[7] %}{{ a }}", text="x")
    assert rendered("{{ text }}{{ '!' if text == 'never' }}", text="x") == "x"  # what jinja2 promises of an if


@pytest.mark.fault("S11")
@pytest.mark.parametrize("value", ["", " ", "\n\t", "\u00a0\u3000"])
def test_a_blank_prompt_is_not_sent(value: str) -> None:
    assert refused("{{ text }}", text=value) == "the prompt is blank"


def test_a_system_message_alone_asks_nothing() -> None:
    templates = Templates([("system", "You are {{ who }}."), ("user", "{{ text }}")])
    with pytest.raises(InvalidRow, match="blank"):
        templates.render(Row(0, None, {"who": "a judge", "text": " "}))


# -- errors of the spec


@pytest.mark.parametrize("template", ["{{ text", "{% if %}", "{{ text | nofilter }}", "{% unknown %}", "{{ }}"])
def test_a_template_that_cannot_be_parsed_names_its_message_and_its_line(template: str) -> None:
    with pytest.raises(SpecError, match=re.escape("prompt.messages[1] (user): line 2 of the template")):
        Templates([("system", "fine"), ("user", "\n" + template)])


def test_a_fault_of_one_row_says_what_and_is_short() -> None:
    assert "TypeError" in refused("{{ n + text }}", n=1, text="x")
    assert "ZeroDivisionError" in refused("{{ 1 / n }}", n=0)
    assert len(refused("{{ n + text }}", n=1, text="x")) < 300


# -- names of invalid rows


@given(st.dictionaries(st.text("abc", min_size=1), st.one_of(st.none(), st.integers(), st.booleans(), st.text("xy"))))
def test_an_invalid_row_is_named_by_its_values_in_any_order(fields: dict[str, Value]) -> None:
    backwards = dict(reversed(fields.items()))
    assert orjson.dumps(fields_as_json(fields)) == orjson.dumps(fields_as_json(backwards))
