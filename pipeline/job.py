"""A job: the spec's words made into working parts, and the names of what it asks.

Two fingerprints name a job. ``question`` covers all that decides what is asked about a row (kind of endpoint, model,
parameters, messages, the id column); ``input`` covers the rows. Endpoint address, key, limits, prices, comments and
white space are in neither, so changing them costs nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import orjson

from pipeline.attachments import Attach, Wanted
from pipeline.errors import InputError, PipelineError, RowRejected, SpecError, Unattachable
from pipeline.ledger import Prices
from pipeline.prompts import InvalidRow, Templates, fields_as_json
from pipeline.records import MOST_GROWTH, ApiCall, Dialogue, Exchange, Form, Model, Prompt, Row, Terms
from pipeline.spec import JobSpec
from pipeline.spec.age import age_s
from pipeline.spec.endpoint import is_loopback
from pipeline.storage.attachments import Shelf
from pipeline.storage.output import (
    SAMPLES,
    STEP,
    Media,
    added_names,
    agreement_names,
    refuse_clashes,
    refuse_own_tables,
)
from pipeline.storage.source import Selection, Source

if TYPE_CHECKING:
    from pipeline.answers import AnswerForm

_QUESTION_FORMAT = 1
_ID_DIGITS = 8
UNSENDABLE = (InvalidRow, RowRejected, Unattachable)
"""What makes a row ``invalid_input``: not sent, not paid."""


class Ready(NamedTuple):
    """A row rendered and opened: its exchange stands at its first call. ``invalid`` says why there is none."""

    question: bytes  # what the row's key hashes
    exchange: Exchange | None = None
    call: ApiCall | None = None
    invalid: str | None = None


class Job:
    """All of a job that can be made without sending. Raises SpecError and InputError."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.templates = Templates([(message.role, message.content) for message in spec.prompt.messages])
        self.shelf, self.attach = _attach(spec)
        self.model = Model(spec.model.name, spec.model.params)
        self.form = _form(spec)
        self._refuse_no_room_to_grow()
        self.dialogue = dialogue_of(spec.endpoint.kind)(self.model, self.form, terms_of(spec))
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
        self.source.check(self.used)
        self._refuse_field_names()
        self._refuse_unknown_gold()
        added = added_names(spec.output.prefix, self.fields, spec.samples, self.media, dedupe=spec.dedupe)
        refuse_clashes(list(self.source.schema), added)
        refuse_own_tables(self.source.files, spec.output.path)
        self.prices = prices_of(spec)
        self.prefix = spec.output.prefix
        self.folder = spec.output.path
        self._refuse_unkept_budget()

    @property
    def expire_s(self) -> int | None:
        """The age at which an answer has expired; None when the spec names none."""
        return None if self.spec.expire is None else age_s(self.spec.expire)

    @property
    def max_output_tokens(self) -> int | None:
        """The most tokens that the answers to one call may have; None when the spec sets no cap."""
        params = self.model.params
        caps = [params[name] for name in ("max_completion_tokens", "max_tokens") if type(params.get(name)) is int]
        choices = params.get("n")
        return max(caps) * (choices if type(choices) is int and choices > 1 else 1) if caps else None

    @property
    def most_output_tokens(self) -> int | None:
        """The same, where a cut answer is asked for again with more room."""
        cap = self.max_output_tokens
        grows = self.spec.on.truncated == "retry_with_more_tokens"
        return cap * MOST_GROWTH if grows and cap is not None else cap

    def _refuse_no_room_to_grow(self) -> None:
        if self.spec.on.truncated == "retry_with_more_tokens" and self.max_output_tokens is None:
            raise SpecError(
                "on.truncated: retry_with_more_tokens needs model.max_tokens (or max_completion_tokens): it asks again "
                "with twice and four times that"
            )

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
        if (budget.usd is not None or budget.tokens is not None) and self.spec.prompt.attachments:
            self._refuse_unbounded_attachments()

    def _refuse_unbounded_attachments(self) -> None:
        if self.spec.attachments.max_tokens is None:
            raise SpecError(
                "budget needs attachments.max_tokens, the most prompt tokens that one attachment costs: its size does "
                "not tell (a picture may cost 300 or 3,000, a page of a PDF 300, a minute of sound 2,000)"
            )

    @property
    def fields(self) -> dict[str, str | tuple[str, str]]:
        """Typed columns of the answer and their kinds; none without an ``answer`` block."""
        return {} if self.form is None else {part.name: part.column for part in self.form.spec.fields}

    @property
    def media(self) -> Media | None:
        """How tables show media; None without a ``media`` block."""
        return None if self.spec.media is None else Media(self.spec.media.download)

    @property
    def downloads(self) -> bool:
        """Links in answers are fetched."""
        return self.media is not None and self.media.download

    def _refuse_field_names(self) -> None:
        votes = [SAMPLES, *agreement_names(self.fields)] if self.spec.samples > 1 else []
        ours = added_names("", media=self.media, dedupe=self.spec.dedupe)
        taken = {STEP, *votes, *ours} & self.fields.keys()
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
        """The columns that a row needs."""
        return tuple(dict.fromkeys([*self.templates.columns, *self.attach.columns]))

    def fingerprint(self, now_ns: Callable[[], int] = time.time_ns) -> str:
        """Of the input: its rows, and the state of the local files that they name. Empty when that is not known."""
        rows = self.source.fingerprint()
        if not rows or self.shelf is None or not self.attach.reads_files:
            return rows
        files = self.shelf.stamp(self._paths(), now_ns())
        return files and hashlib.sha256(f"{rows} {files}".encode()).hexdigest()

    def _paths(self) -> Iterator[str]:
        for batch in self.source.rows(self.attach.columns):
            for row in batch:
                yield from self.attach.paths(row.fields)

    @property
    def question(self) -> str:
        """Fingerprint of what is asked about a row; its end names the id column alone (see ``same_ids``)."""
        return self.question_if(dedupe=self.spec.dedupe)

    def question_if(self, *, dedupe: bool) -> str:
        """The question, whether equal rows share one answer or not."""
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
            *([["samples", spec.samples]] if spec.samples > 1 else []),
            *([["dedupe"]] if dedupe else []),
            *([["attachments", *self.attach.question]] if spec.prompt.attachments else []),
        ]
        whole = hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()
        return whole[:-_ID_DIGITS] + hashlib.sha256(orjson.dumps(spec.input.id)).hexdigest()[:_ID_DIGITS]

    def ready(self, row: Row) -> Ready:
        """Render a row and open its exchange; an invalid row comes back with the reason."""
        try:
            prompt = self.prompt(row)
        except UNSENDABLE as exc:
            return self.unsendable(row, exc)
        return self.opened(row, prompt)

    def asked(self, row: Row) -> bytes:
        """The question that ``ready`` would give, without writing out what is attached."""
        try:
            prompt = self.prompt(row)
        except UNSENDABLE as exc:
            return self.unsendable(row, exc).question
        if prompt.attachments:
            prompt = prompt._replace(attachments=[replace(one, content=None) for one in prompt.attachments])
        return self.opened(row, prompt).question

    def prompt(self, row: Row) -> Prompt:
        """The part that may wait for a disk; safe in a thread. Raises one of UNSENDABLE, and StorageError."""
        prompt = self.templates.render(row)
        attached = self.attach.of(row.fields)
        return prompt._replace(attachments=attached) if attached else prompt

    def opened(self, row: Row, prompt: Prompt) -> Ready:
        try:
            exchange = self.dialogue(prompt)
            call = next(exchange)
        except UNSENDABLE as exc:
            return self.unsendable(row, exc)
        return Ready(call.question, exchange, call)

    def unsendable(self, row: Row, reason: PipelineError) -> Ready:
        fields = orjson.dumps(["invalid", fields_as_json(row.fields)], default=str)
        return Ready(fields, invalid=str(reason))


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


def terms_of(spec: JobSpec) -> Terms:
    on = spec.on
    return Terms(
        stream=spec.endpoint.stream,
        samples=spec.samples,
        truncated=on.truncated,
        filtered=on.filtered,
        refusal=on.refusal,
        empty=on.empty,
        invalid_answer=on.invalid_answer,
    )


def dialogue_of(kind: str) -> Callable[[Model, Form | None, Terms], Dialogue]:
    """The dialogue maker of a kind of endpoint: the file of that name. Raises SpecError for an unknown kind."""
    try:
        module = importlib.import_module(f"pipeline.provider.endpoints.{kind}")
    except ModuleNotFoundError:
        raise SpecError(f"endpoint.kind: there is no kind {kind!r}; there is: chat") from None
    maker: Callable[[Model, Form | None, Terms], Dialogue] = module.dialogue
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


def _attach(spec: JobSpec) -> tuple[Shelf | None, Attach]:
    """Raises SpecError for a root that is not there, and a fixed attachment that cannot go."""
    block = spec.attachments
    max_bytes = int(block.max_mb * 1_000_000)
    shelf = Shelf(block.root, max_bytes) if block.root is not None and spec.prompt.attachments else None
    wanted = [
        Wanted(one.column, one.file, one.url, one.form, one.optional, one.detail) for one in spec.prompt.attachments
    ]
    return shelf, Attach(wanted, None if shelf is None else shelf.read, max_bytes)


def prices_of(spec: JobSpec) -> Prices:
    if spec.prices is None:
        return Prices()
    prices = spec.prices
    return Prices(prices.input, prices.output, prices.cached_input, prices.per_request)
