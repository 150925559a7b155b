"""What is said about answers: to the model beforehand, to the model afterwards, and in the error column."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import orjson
from jsonschema import ValidationError

_LONGEST = 300  # characters of a problem: an enum of 500 labels or a page of text must not fill the error column
_MOST_PROBLEMS = 5
_QUOTED = 2_000  # characters of an answer that is sent back
_SURROGATES = re.compile("[\ud800-\udfff]")


class NotAnAnswer(ValueError):
    """This text does not hold the answer that was asked for."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(clip(problem) for problem in problems)


def clip(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else f"{text[: longest - 24]} ... ({len(text)} characters)"


def utf8(text: str) -> str:
    """Half a surrogate pair is no character, and neither Parquet nor the wire can carry it."""
    return _SURROGATES.sub("�", text)


def in_words(errors: Iterable[ValidationError]) -> tuple[str, ...]:
    found = sorted(map(_telling, islice(errors, 4 * _MOST_PROBLEMS)), key=lambda error: str(error.absolute_path))
    said = dict.fromkeys(_said(error) for error in found)
    return tuple(islice(said, _MOST_PROBLEMS))


def _telling(error: ValidationError) -> ValidationError:
    """Of "fits none of these" the reason why it does not fit the one that is meant."""
    while error.context and error.validator in ("anyOf", "oneOf"):
        error = min(error.context, key=lambda one: (one.validator == "type", one.validator_value == "null"))
    return error


def _said(error: ValidationError) -> str:
    where = error.json_path.removeprefix("$").removeprefix(".")
    return clip(utf8(f"{where}: {error.message}" if where else error.message))


def instructions(schema: Mapping[str, Any]) -> str:
    return (
        "Answer with one JSON object and nothing else: no prose before or after it, no code fence. "
        "It must fit this JSON Schema:\n" + orjson.dumps(schema).decode()
    )


def re_ask(text: str, problems: Sequence[str]) -> str:
    """The user message that sends an invalid answer back. It quotes the answer, so it stands without it."""
    answer = utf8(clip(text, _QUOTED))
    listed = "\n".join(f"- {problem}" for problem in problems)
    return (
        f"Your answer cannot be used:\n{listed}\n\nYour answer was:\n<<<\n{answer}\n>>>\n\n"
        "Answer the question again, with one JSON object that has all of the fields and fits, and nothing else: "
        "no prose before or after it, no code fence."
    )
