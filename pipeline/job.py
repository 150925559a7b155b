"""A job: the spec's words made into working parts, and the names of what it asks.

Two fingerprints name a job. ``question`` covers all that decides what is asked about a row (kind of endpoint, model,
parameters, messages, the id column); ``input`` covers the rows. Endpoint address, key, limits, prices, comments and
white space are in neither, so changing them costs nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson

from pipeline.errors import InputError, RowRejected, SpecError
from pipeline.ledger import Prices
from pipeline.prompts import InvalidRow, Templates, fields_as_json
from pipeline.records import ApiCall, Dialogue, Exchange, Form, Model, Prompt, Row
from pipeline.spec import JobSpec
from pipeline.spec.endpoint import is_loopback
from pipeline.storage.output import STEP, added_names, refuse_clashes, refuse_own_tables
from pipeline.storage.source import Selection, Source

if TYPE_CHECKING:
    from pipeline.answers import AnswerForm

_QUESTION_FORMAT = 1
_ID_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Ready:
    """A row rendered and opened: its exchange stands at its first call. ``invalid`` says why there is none."""

    row: Row
    question: bytes  # what the row's key hashes
    exchange: Exchange | None = None
    call: ApiCall | None = None
    invalid: str | None = None


class Job:
    """All of a job that can be made without sending. Raises SpecError and InputError."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.templates = Templates([(message.role, message.content) for message in spec.prompt.messages])
        self.model = Model(spec.model.name, spec.model.params)
        self.form = _form(spec)
        self.dialogue = dialogue_of(spec.endpoint.kind)(self.model, self.form)
        self.source = Source(
            Selection(
                paths=tuple(spec.input.paths),
                format=spec.input.format,
                id=spec.input.id,
                where=spec.input.where,
                limit=spec.input.limit,
                encoding=spec.input.encoding,
            )
        )
        self.source.check(self.templates.columns)
        self._refuse_field_names()
        self._refuse_unknown_gold()
        refuse_clashes(list(self.source.schema), added_names(spec.output.prefix, self.fields))
        refuse_own_tables(self.source.files, spec.output.path)
        self.prices = _prices(spec)
        self.prefix = spec.output.prefix
        self.folder = spec.output.path
        self._refuse_unkept_budget()

    @property
    def max_output_tokens(self) -> int | None:
        """The most tokens that the answers to one call may have; None when the spec sets no cap."""
        params = self.model.params
        caps = [params[name] for name in ("max_completion_tokens", "max_tokens") if type(params.get(name)) is int]
        choices = params.get("n")
        return max(caps) * (choices if type(choices) is int and choices > 1 else 1) if caps else None

    def _refuse_unkept_budget(self) -> None:
        budget = self.spec.budget
        if budget.usd is not None and not self.prices.known:
            raise SpecError(
                "budget.usd needs prices (input and output, or per_request): no one can keep to an unknown price"
            )
        if (budget.usd is not None or budget.tokens is not None) and self.max_output_tokens is None:
            raise SpecError(
                "budget needs model.max_tokens (or max_completion_tokens): without it one answer may cost anything"
            )

    @property
    def fields(self) -> dict[str, str | tuple[str, str]]:
        """Typed columns of the answer and their kinds; none without an ``answer`` block."""
        return {} if self.form is None else {part.name: part.column for part in self.form.spec.fields}

    def _refuse_field_names(self) -> None:
        taken = {STEP, *added_names("")} & self.fields.keys()
        if taken:
            raise SpecError(f"answer: {', '.join(sorted(taken))} is a column of ours already; name the field otherwise")

    def _refuse_unknown_gold(self) -> None:
        asked = self.spec.evaluate
        if asked is None:
            return
        if asked.gold not in self.source.schema:
            raise InputError(
                f"evaluate.gold: the input has no column {asked.gold!r}; it has {', '.join(self.source.schema)}"
            )
        if asked.field is not None and asked.field not in self.fields:
            there = f"there are: {', '.join(self.fields)}" if self.fields else "there is no answer block"
            raise SpecError(f"evaluate.field: {asked.field!r} is no field of the answer; {there}")
        if asked.field is not None and isinstance(self.fields[asked.field], tuple):
            raise SpecError(f"evaluate.field: {asked.field!r} is a list; only one value a row can be held against gold")

    @property
    def used(self) -> Sequence[str]:
        return self.templates.columns

    @property
    def question(self) -> str:
        """Fingerprint of what is asked about a row; its end names the id column alone (see ``same_ids``)."""
        spec = self.spec
        messages = [[message.role, message.content] for message in spec.prompt.messages]
        asked = [
            _QUESTION_FORMAT,
            spec.endpoint.kind,
            self.model.name,
            dict(self.model.params),
            messages,
            spec.input.id,
            *([] if self.form is None else [dict(self.form.schema)]),
        ]
        whole = hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()
        return whole[:-_ID_DIGITS] + hashlib.sha256(orjson.dumps(spec.input.id)).hexdigest()[:_ID_DIGITS]

    def ready(self, row: Row) -> Ready:
        """Render a row and open its exchange; an invalid row comes back with the reason."""
        try:
            exchange = self.dialogue(self.templates.render(row))
            call = next(exchange)
        except (InvalidRow, RowRejected) as exc:
            fields = orjson.dumps(["invalid", fields_as_json(row.fields)], default=str)
            return Ready(row, fields, invalid=str(exc))
        return Ready(row, call.question, exchange, call)

    def prompt(self, row: Row) -> Prompt:
        """Raises InvalidRow."""
        return self.templates.render(row)


def same_ids(question: str, other: str) -> bool:
    """Two questions name rows by the same column."""
    return question[-_ID_DIGITS:] == other[-_ID_DIGITS:]


def on_loopback(spec: JobSpec) -> bool:
    return is_loopback(urlsplit(spec.endpoint.base_url).hostname or "")


def rehearsed(spec: JobSpec, base_url: str) -> JobSpec:
    """The same job against the simulator at ``base_url``, into a folder of its own."""
    endpoint = spec.endpoint.model_copy(update={"base_url": base_url, "proxy": None, "headers": {}})
    output = spec.output.model_copy(update={"path": os.path.join(spec.output.path, "rehearsal")})
    # This simulator is nobody else's.
    limits = spec.limits.model_copy(update={"share": False})
    return spec.model_copy(update={"endpoint": endpoint, "output": output, "limits": limits})


def dialogue_of(kind: str) -> Callable[[Model, Form | None], Dialogue]:
    """The dialogue maker of a kind of endpoint: the file of that name. Raises SpecError for an unknown kind."""
    try:
        module = importlib.import_module(f"pipeline.provider.endpoints.{kind}")
    except ModuleNotFoundError:
        raise SpecError(f"endpoint.kind: there is no kind {kind!r}; there is: chat") from None
    maker: Callable[[Model, Form | None], Dialogue] = module.dialogue
    return maker


def _form(spec: JobSpec) -> AnswerForm | None:
    """Raises SpecError for an ``answer`` block that is no schema."""
    if spec.answer is None:
        return None
    # jsonschema takes a tenth of a second to load, which most jobs need not pay.
    answers = importlib.import_module("pipeline.answers")
    if spec.answer.fields is not None:
        asked = answers.AnswerSpec.from_fields(spec.answer.fields)
    else:
        asked = answers.AnswerSpec.from_schema(spec.answer.form or {})
    form: AnswerForm = answers.AnswerForm(
        asked, mode=spec.answer.mode, repair=spec.answer.repair, told=lambda text: None
    )
    return form


def _prices(spec: JobSpec) -> Prices:
    if spec.prices is None:
        return Prices()
    prices = spec.prices
    return Prices(prices.input, prices.output, prices.cached_input, prices.per_request)
