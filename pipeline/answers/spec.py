"""What a job asks for, compiled once; and the ladder that every answer climbs.

As it is: strict JSON that fits the schema. Repaired: what was meant is beyond doubt, and only the writing was wrong.
Invalid: everything else, with the reasons in words that the model can use when it is asked again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson
from jsonschema import Draft202012Validator

from pipeline.answers import swift, words
from pipeline.answers.columns import ColumnType, Typed, Unfit, column_of, plain, typed
from pipeline.answers.found import objects, without_fence, without_thoughts
from pipeline.answers.loose import BLANKS, is_sound, scan, sound, strictly
from pipeline.answers.mend import label_for, mend
from pipeline.answers.schema import AnswerSpecError, Problems, check, closed, is_strict, plain_json
from pipeline.answers.short import schema_of
from pipeline.answers.words import NotAnAnswer, clip, in_words

Mode = Literal["schema", "json", "text"]
"""How strongly the endpoint is asked: it enforces the schema, it enforces JSON, it is told in words."""

Step = Literal["as_is", "repaired", "invalid"]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the answer, and the column that keeps it."""

    name: str
    schema: Any  # a JSON Schema, which may also be ``true``
    column: ColumnType


class Reading(NamedTuple):
    """What a text said. ``values`` has every field, in the order of the spec; None when the text is no answer."""

    values: Mapping[str, Any] | None
    step: Step
    problems: tuple[str, ...] = ()


class AnswerSpec:
    """Both makers raise AnswerSpecError, with all problems at once; ``where`` names the block in its messages."""

    __slots__ = ("_optional", "_swift", "_typed", "_validator", "fields", "schema", "strict")

    def __init__(self, schema: dict[str, Any]) -> None:
        self._optional = tuple(n for n in schema["properties"] if n not in schema.get("required", schema["properties"]))
        schema = closed(schema)
        self.schema: Mapping[str, Any] = schema
        self.strict = is_strict(schema)
        self.fields = tuple(Field(n, part, column_of(part, schema)) for n, part in schema["properties"].items())
        self._typed = tuple((field.name, typed(field.column)) for field in self.fields)
        self._validator = Draft202012Validator(schema)
        self._swift = _swift(self.fields, schema)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], *, where: str = "answer.fields") -> AnswerSpec:
        """From names and short forms, see ``short``."""
        problems: Problems = []
        properties: dict[str, Any] = {}
        if not isinstance(fields, Mapping) or not fields:
            raise AnswerSpecError(where, [((), "names no field; write FIELD: [label, label] or FIELD: string")])
        for name, form in fields.items():
            before = len(problems)
            _check_name(name, problems)
            schema = schema_of(form, (str(name),), problems)
            if len(problems) == before:
                check(schema, (name,), problems, refs=False)
            properties[name] = schema
        if problems:
            raise AnswerSpecError(where, problems)
        return cls({"type": "object", "properties": properties})

    @classmethod
    def from_schema(cls, schema: Mapping[str, Any], *, where: str = "answer.schema") -> AnswerSpec:
        """From a JSON Schema whose top is an object that lists its properties."""
        problems: Problems = []
        if not isinstance(schema, Mapping):
            raise AnswerSpecError(where, [((), "is no mapping; write a JSON Schema with type: object and properties")])
        whole = plain_json(schema, (), problems)
        if not problems:
            check(whole, (), problems, refs=True)
        if not problems:
            _check_top(whole, problems)
        if problems:
            raise AnswerSpecError(where, problems)
        return cls(whole)

    def response_format(self, mode: Mode) -> Mapping[str, Any] | None:
        """The request field. ``strict`` is false for a schema that endpoints' strict mode is known to refuse."""
        if mode == "schema":
            inner = {"name": "answer", "strict": self.strict, "schema": self.schema}
            return {"type": "json_schema", "json_schema": inner}
        return {"type": "json_object"} if mode == "json" else None

    def instructions(self, mode: Mode) -> str | None:
        """What to add to the system message; None where the request itself carries the schema."""
        return None if mode == "schema" else words.instructions(self.schema)

    def read(self, text: str) -> Reading:
        """Never raises, whatever the text."""
        stripped = text.strip(BLANKS)
        try:
            value, end = scan(stripped, 0)
        except (StopIteration, ValueError, RecursionError):
            return self._climb(text)
        if end == len(stripped) and type(value) is dict and is_sound(stripped):
            values = self._quickly(value)
            if values is not None:
                return Reading(values, "as_is")
        return self._climb(text)

    def _climb(self, text: str) -> Reading:
        try:
            values = self._as_is(text)
            if values is not None:
                return Reading(values, "as_is")
            return Reading(self._repaired(text), "repaired")
        except NotAnAnswer as exc:
            return Reading(None, "invalid", exc.problems)
        except (ArithmeticError, RecursionError) as exc:  # jsonschema, on numbers past 1e308 or a schema in itself
            return Reading(None, "invalid", (f"the answer cannot be checked: {clip(str(exc))}",))

    def _as_is(self, text: str) -> dict[str, Any] | None:
        try:
            value = strictly(text)
            # Mending touches only what cannot fit, and asking it is a tenth of what asking jsonschema costs.
            if type(value) is dict and mend(sound(value), self.schema, self.schema) == value:
                return self._values(value)
        except ValueError:
            pass
        return None

    def _repaired(self, text: str) -> dict[str, Any]:
        found = objects(text)
        if not found:
            return self._bare(text)
        # An object without a single one of our fields is not meant as the answer.
        meant = [one for one in found if any(label_for(key, self.schema["properties"]) for key in one)]
        if len(found) > 1 and not meant:
            raise NotAnAnswer("the answer holds several JSON objects, none with the fields asked for")
        if len(found) == 1:
            return self._mended(found[0])
        return self._agreed(meant)

    def _agreed(self, meant: Sequence[dict[str, Any]]) -> dict[str, Any]:
        if len(meant) == 1:
            return self._mended(meant[0])
        try:
            all_values = [self._mended(one) for one in meant]
        except NotAnAnswer as exc:
            raise NotAnAnswer(f"the answer holds {len(meant)} objects; one was asked for", *exc.problems) from None
        if any(repr(values) != repr(all_values[0]) for values in all_values):
            raise NotAnAnswer(f"the answer is ambiguous: it holds {len(meant)} objects that differ; one was asked for")
        return all_values[0]

    def _bare(self, text: str) -> dict[str, Any]:
        """A label alone, where one field is asked for. Free text is never taken for a value: it may be anything."""
        word = without_fence(without_thoughts(text))
        if not word:
            raise NotAnAnswer("the answer is empty")
        field = self.fields[0]
        schema = plain(field.schema, self.schema)
        listed = isinstance(schema, Mapping) and ("enum" in schema or "const" in schema)
        if len(self.fields) == 1 and (listed or field.column in ("integer", "number", "boolean")):
            try:
                return self._mended({field.name: word})
            except NotAnAnswer:
                pass
        raise NotAnAnswer("the answer holds no JSON object")

    def _mended(self, value: dict[str, Any]) -> dict[str, Any]:
        return self._values(mend(sound(value), self.schema, self.schema))

    def _quickly(self, value: dict[str, Any]) -> dict[str, Any] | None:
        """None when it takes longer to say."""
        for name in self._optional:
            value.setdefault(name, None)
        if len(value) != len(self._swift):
            return None
        values = {}
        try:
            for name, fits, as_typed in self._swift:
                part = value[name]
                if not fits(part):
                    return None
                values[name] = part if as_typed is None or part is None else as_typed(part)
        except (KeyError, Unfit, RecursionError):
            return None
        return values

    def _values(self, value: dict[str, Any]) -> dict[str, Any]:
        """Held against the schema, then typed. NotAnAnswer in the validator's words."""
        if (quick := self._quickly(value)) is not None:
            return quick
        if problems := in_words(self._validator.iter_errors(value)):
            raise NotAnAnswer(*problems)
        values = {}
        for name, as_typed in self._typed:
            try:
                values[name] = value[name] if as_typed is None or value[name] is None else as_typed(value[name])
            except Unfit as exc:
                raise NotAnAnswer(f"{name}: {clip(repr(value[name]), 60)} {exc}") from None
        return values


_Swift = tuple[tuple[str, swift.Fits, Typed | None], ...]


def _swift(fields: Sequence[Field], root: Mapping[str, Any]) -> _Swift:
    """Empty when not every field has a quick test."""
    tests = [(field.name, swift.fits(field.schema, root), typed(field.column)) for field in fields]
    known = [(name, fits, as_typed) for name, fits, as_typed in tests if fits is not None]
    return tuple(known) if len(known) == len(tests) and swift.is_plain(root) else ()


def _check_name(name: Any, problems: Problems) -> None:
    if not isinstance(name, str):
        problems.append(((str(name),), "is a field name that is no text; put it in quotes"))
    elif not name.strip() or name != name.strip() or not name.isprintable():
        problems.append(((name,), "is no name for a column; use visible characters, and no blanks around them"))


def _check_top(schema: dict[str, Any], problems: Problems) -> None:
    if schema.get("type", "object") != "object":
        problems.append((("type",), f"is {clip(orjson.dumps(schema['type']).decode(), 60)}; an answer is an object"))
    properties = schema.get("properties")
    if not properties:
        problems.append((("properties",), "is missing or empty; each property becomes a column"))
        return
    for name in properties:
        named: Problems = []
        _check_name(name, named)
        problems += [(("properties", *path), words) for path, words in named]
    for name in schema.get("required", ()):
        if name not in properties:
            problems.append((("required",), f"names {name!r}, which is none of the properties"))
