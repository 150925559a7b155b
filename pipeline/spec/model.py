"""The job spec as types. What is loaded is whole and plain: no room after this one sees a short form or a default.

The descriptions are what ``pipeline schema`` tells an editor; the validators say in one clause what is wrong, and
``load`` puts path and line before it.
"""

from __future__ import annotations

import codecs
import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pipeline.spec.age import Age
from pipeline.spec.attach import AttachmentsBlock, AttachmentSpec
from pipeline.spec.block import Block, Positive, Price, Share, Words
from pipeline.spec.endpoint import EndpointSpec

USER_MISSING: Final = "user_missing"


def _job_name(name: str) -> str:
    if "/" in name or "\\" in name or name.startswith(".") or not name.isprintable() or len(name) > 100:
        raise ValueError("must be fit for a folder's name: no slashes, no leading dot, at most 100 characters")
    return name


JobName = Annotated[Words, AfterValidator(_job_name)]


def _encoding(name: str) -> str:
    try:
        known = bool(re.fullmatch(r"[A-Za-z0-9_-]+", name)) and codecs.lookup(name)._is_text_encoding
    except LookupError:
        known = False
    if not known:
        raise ValueError("is no known text encoding; write for example utf-8, latin-1, cp1252")
    return name


class InputSpec(Block):
    paths: Annotated[tuple[Words, ...], Field(strict=False, min_length=1)] = Field(
        alias="path", description="The input table: a file, a glob, a URL such as s3://..., or a list of these."
    )
    format: Literal["csv", "tsv", "parquet", "jsonl", "ndjson"] | None = Field(
        default=None, description="How to read the files; by their suffix when not given."
    )
    id: Words | None = Field(default=None, description="Column that names a row; without it its content does.")
    where: Words | None = Field(default=None, description='SQL condition on the columns, such as "stars is not null".')
    limit: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Take the first N rows only.")
    encoding: Annotated[Words, AfterValidator(_encoding)] | None = Field(
        default=None, description="Text encoding of CSV files; UTF-8 when not given."
    )


class MessageSpec(Block):
    role: Literal["system", "developer", "user", "assistant"] = Field(description="Who speaks.")
    content: Words = Field(description="A jinja2 template over the row's columns.")


class PromptSpec(Block):
    """``messages`` is always filled: ``system`` and ``user`` are its short form."""

    system: Words | None = Field(default=None, description="Template of the system message.")
    user: Words | None = Field(default=None, description="Template of the user message, such as {{ text }}.")
    attachments: Annotated[tuple[AttachmentSpec, ...], Field(strict=False)] = Field(
        default=(), description="Images, PDFs, audio that go with the last user message: columns, or blocks."
    )
    messages: Annotated[tuple[MessageSpec, ...], Field(strict=False)] = Field(
        default=(), validate_default=True, description="The whole conversation, instead of system and user."
    )

    @field_validator("messages")
    @classmethod
    def _fill(cls, messages: tuple[MessageSpec, ...], info: ValidationInfo) -> tuple[MessageSpec, ...]:
        if not {"system", "user"} <= info.data.keys():
            return messages  # one of the two is refused already
        system, user = info.data["system"], info.data["user"]
        if messages and (system or user):
            raise ValueError("stands beside system or user; give either messages or these")
        if messages:
            return messages
        if user is None:
            raise PydanticCustomError(USER_MISSING, "is missing")
        asked = MessageSpec(role="user", content=user)
        return (asked,) if system is None else (MessageSpec(role="system", content=system), asked)

    @model_validator(mode="after")
    def _attachable(self) -> PromptSpec:
        if self.attachments and self.messages and all(message.role != "user" for message in self.messages):
            raise ValueError("has attachments and no user message; they go with the last one, add it")
        return self


class ModelSpec(Block):
    """``params`` are the further keys of the block, which go into the request body as they stand."""

    name: Words = Field(description="The model's name as the endpoint spells it, such as gemini-2.5-flash.")
    params: dict[str, Any] = Field(default_factory=dict)


class LimitsSpec(Block):
    requests_per_minute: Positive | None = Field(
        default=None, description="Requests per minute that the endpoint allows; null: found out while running."
    )
    tokens_per_minute: Positive | None = Field(
        default=None, description="Tokens per minute, input and output together; null: found out while running."
    )
    input_tokens_per_minute: Positive | None = Field(default=None, description="Input tokens per minute.")
    output_tokens_per_minute: Positive | None = Field(default=None, description="Output tokens per minute.")
    concurrency: int = Field(default=64, ge=1, le=10_000, description="Rows in flight at most.")
    share: bool = Field(
        default=True, description="Share the limits with jobs that run beside this one with the same address and key."
    )


class RetrySpec(Block):
    max_attempts: int = Field(default=6, ge=1, le=1_000, description="Attempts per request, the first one included.")
    max_wait_s: Positive = Field(default=60.0, description="Longest backoff between two attempts, in seconds.")
    max_in_doubt: int = Field(
        default=1, ge=0, le=1_000, description="Further attempts after one that may have been billed."
    )


class PricesSpec(Block):
    """USD per 1M tokens, USD per request. What is None is unknown, which is not 0."""

    input: Price | None = Field(default=None, description="USD per 1M input tokens.")
    output: Price | None = Field(default=None, description="USD per 1M output tokens.")
    cached_input: Price | None = Field(default=None, description="USD per 1M input tokens read from a cache.")
    per_request: Price | None = Field(default=None, description="USD per request.")

    @model_validator(mode="after")
    def _whole(self) -> PricesSpec:
        if (self.input is None) != (self.output is None):
            raise ValueError("must have input and output together, or per_request alone")
        if self.input is None and self.cached_input is not None:
            raise ValueError("must have input and output when cached_input is given")
        if self.input is None and self.per_request is None:
            raise ValueError("must have input and output (USD per 1M tokens), or per_request")
        return self


class BudgetSpec(Block):
    usd: Positive | None = Field(default=None, description="Most money to spend, in USD.")
    tokens: Annotated[int, Field(gt=0)] | None = Field(default=None, description="Most tokens to spend.")


class AnswerBlock(Block):
    """``fields`` and ``form`` (the key ``schema``) are held to their rules by the answers room."""

    fields: dict[str, Any] | None = Field(
        default=None,
        description="Columns by name: [a, b], string, number, integer, boolean, {list: string}, or a JSON Schema.",
    )
    form: dict[str, Any] | None = Field(
        default=None, alias="schema", description="A JSON Schema of type object, instead of fields."
    )
    mode: Literal["auto", "schema", "json", "text"] = Field(
        default="auto", description="How the endpoint is asked: it enforces the schema, JSON, or is told in words."
    )
    repair: int = Field(default=1, ge=0, le=10, description="How often an invalid answer is sent back with the error.")

    @model_validator(mode="after")
    def _one_of_two(self) -> AnswerBlock:
        if (self.fields is None) == (self.form is None):
            raise ValueError("must have either fields or schema")
        return self


class OnSpec(Block):
    """What becomes of an answer that is not plainly ok."""

    truncated: Literal["keep", "retry_with_more_tokens", "fail"] = Field(
        default="keep",
        description="Cut by the output limit; more tokens: asked again with twice and four times the cap.",
    )
    filtered: Literal["keep", "fail"] = Field(default="keep", description="A content filter cut in.")
    refusal: Literal["keep", "fail"] = Field(default="keep", description="The model declined to answer.")
    empty: Literal["fail", "keep", "retry"] = Field(default="fail", description="Nothing in it; retry: once more.")
    invalid_answer: Literal["fail", "keep"] = Field(
        default="fail", description="Not what the answer block asks for; kept, its fields are null."
    )


class EvaluateSpec(Block):
    gold: Words = Field(description="Input column with the right labels.")
    field: Words | None = Field(
        default=None, description="Field of the answer that is held against it; the whole response when not given."
    )


class AlarmSpec(Block):
    """Shares of rows, from 0 to 1. What is passed makes the finished run exit with 3."""

    label_share_change: Share | None = Field(
        default=None, description="Most by which a label's share among the ok rows may change since the run before."
    )
    flip_rate: Share | None = Field(
        default=None, description="Most rows, as a share, whose label may be another one than in the run before."
    )
    failure_rate: Share | None = Field(default=None, description="Most rows, as a share, that may fail.")


class NotifySpec(Block):
    command: Annotated[tuple[Words, ...], Field(strict=False, min_length=1)] = Field(
        description="What is run when a run has ended, with summary.json on stdin: words, or a line for /bin/sh."
    )
    when: Literal["always", "trouble"] = Field(
        default="always", description="always, or only when the exit code is not 0."
    )


class MediaSpec(Block):
    download: bool = Field(
        default=False, description="Fetch what answers link to, from public addresses alone; else links stay links."
    )
    max_mb: Positive = Field(default=50.0, description="A larger file is not fetched, in megabytes.")


class OutputSpec(Block):
    path: Words = Field(description="Folder of the results; data/out/NAME when not given.")
    prefix: str = Field(default="", description="Stands before the name of each column that is added.")


class JobSpec(Block):
    """One job, complete."""

    name: JobName = Field(description="Name of the job; the file's name without its suffix when not given.")
    input: InputSpec = Field(description="Where the rows are.")
    prompt: PromptSpec = Field(description="What each row is made into.")
    attachments: AttachmentsBlock = Field(
        default_factory=AttachmentsBlock, description="Where local files of prompt.attachments are, and how large."
    )
    model: ModelSpec = Field(description="Who is asked; further keys (temperature ...) go into the request body.")
    endpoint: EndpointSpec = Field(default_factory=EndpointSpec, description="Where the model is asked.")
    answer: AnswerBlock | None = Field(default=None, description="Typed columns out of the reply.")
    on: OnSpec = Field(default_factory=OnSpec, description="What becomes of answers that are not plainly ok.")
    samples: int = Field(default=1, ge=1, le=100, description="Independent answers a row; most of them decide.")
    media: MediaSpec | None = Field(
        default=None, description="Save pictures, sound and video of the answers as files; true for the defaults."
    )
    dedupe: bool = Field(default=False, description="Ask equal requests once; the other rows share the answer.")
    evaluate: EvaluateSpec | None = Field(default=None, description="Hold the labels against gold labels.")
    alarm: AlarmSpec | None = Field(default=None, description="When a finished run is an alarm: exit 3.")
    limits: LimitsSpec = Field(default_factory=LimitsSpec, description="What the endpoint allows.")
    retry: RetrySpec = Field(default_factory=RetrySpec, description="How often and how patiently to try again.")
    budget: BudgetSpec = Field(default_factory=BudgetSpec, description="What the job may cost.")
    expire: Age | None = Field(
        default=None, description="Age at which an answer has expired, such as 30d; asked again on --refresh-expired."
    )
    prices: PricesSpec | None = Field(default=None, description="What tokens or requests cost; unknown stays unknown.")
    notify: NotifySpec | None = Field(default=None, description="Whom to tell that a run has ended.")
    output: OutputSpec = Field(description="Where the results go.")
