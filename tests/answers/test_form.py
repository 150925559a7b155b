"""How the way of asking changes within a run, and when it does not."""

from __future__ import annotations

import pytest

from pipeline.answers import AnswerForm, AnswerSpec
from pipeline.answers.form import IGNORED_AFTER

SPEC = AnswerSpec.from_fields({"label": ["good", "bad"]})
GOOD = '{"label": "good"}'


class Told:
    def __init__(self, mode: str = "auto") -> None:
        self.lines: list[str] = []
        self.form = AnswerForm(SPEC, mode=mode, repair=1, told=self.lines.append)


def test_auto_begins_with_the_strongest_and_a_named_mode_is_that_mode() -> None:
    assert Told().form.mode == "schema"
    assert [Told(mode).form.mode for mode in ("schema", "json", "text")] == ["schema", "json", "text"]


def test_a_refusal_steps_down_once_and_is_told_once() -> None:
    told = Told()
    # Two rows were in flight in the same mode; the second one's refusal is old news.
    assert told.form.weaken("schema")
    assert told.form.weaken("schema")
    assert told.form.mode == "json"
    assert len(told.lines) == 1
    assert "refuses answer.mode schema" in told.lines[0]


def test_there_is_nothing_below_words() -> None:
    form = Told().form
    assert form.weaken("schema")
    assert form.weaken("json")
    assert form.mode == "text"
    assert not form.weaken("text")


def test_what_has_worked_stays() -> None:
    told = Told()
    told.form.read(GOOD)
    assert not told.form.weaken("schema")
    for _ in range(5 * IGNORED_AFTER):
        told.form.read("prose")
    assert told.form.mode == "schema"
    assert not told.lines


def test_an_endpoint_that_ignores_the_form_is_asked_more_plainly() -> None:
    told = Told()
    modes = []
    for _ in range(3 * IGNORED_AFTER):
        modes.append(str(told.form.mode))
        told.form.read("prose")
    assert modes == [mode for mode in ("schema", "json", "text") for _ in range(IGNORED_AFTER)]
    assert ["ignores" in line for line in told.lines] == [True, True]


@pytest.mark.parametrize("mode", ["schema", "json", "text"])
def test_a_named_mode_never_changes(mode: str) -> None:
    told = Told(mode)
    for _ in range(5 * IGNORED_AFTER):
        told.form.read("prose")
    assert not told.form.weaken(mode)
    assert told.form.mode == mode
    assert not told.lines


def test_an_invalid_reading_has_words_and_no_values() -> None:
    values, step, problems = Told().form.read('{"label": "great"}')
    assert values is None
    assert step == "invalid"
    assert problems
    assert "great" in Told().form.re_ask('{"label": "great"}', problems)
