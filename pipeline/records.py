"""What travels through the house: frozen records, and the two function types that are its joints.

A row without an outcome is pending. That sentence is the whole of resume.

What is made anew for every request is a tuple with names: it costs a fifth of a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

Value = str | int | float | bool | None
"""A cell of the input as a template sees it."""

Message = Mapping[str, Any]
"""One role and its content inside a chat request: ``{"role": ..., "content": ...}``."""


class Billed(StrEnum):
    """What we must assume about the bill of one attempt."""

    NO = "no"  # not sent, or refused before a model saw it
    MAYBE = "maybe"  # sent, and no complete answer came back
    YES = "yes"  # an answer came back, usable or not


class Status(StrEnum):
    """How a row stands, as the ``status`` column says it."""

    OK = "ok"
    TRUNCATED = "truncated"  # cut by the output limit (finish_reason length)
    FILTERED = "filtered"  # cut or withheld by a content filter
    REFUSAL = "refusal"  # the model declined in the refusal field; the words are in ``error``
    EMPTY = "empty"  # nothing in it, and the job keeps that
    INVALID_ANSWER = "invalid_answer"  # paid for, but not what the job asked for
    INVALID_INPUT = "invalid_input"  # not sent, not paid
    FAILED = "failed"
    PENDING = "pending"


OK: Final = Status.OK
EMPTY: Final = Status.EMPTY
YES: Final = Billed.YES
"""Asked for at every row. A member asked of its enum takes 60 ns, twenty times as long as a name."""


class Row(NamedTuple):
    """One line of the input. ``fields`` holds only the columns that the job's templates and attachments use."""

    ordinal: int  # position in the input, from 0
    id: str | None  # the id column as text; None when the job names no id column
    fields: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A picture, a document or a sound that goes with a prompt: by address, or with its content."""

    form: str  # the content part it becomes: image_url, file, file_url, input_audio
    media_type: str | None  # as its content says; None for an address, behind which nobody has looked
    name: str  # of the file, for parts that carry one
    url: str | None = None  # http(s) address, passed on and never fetched
    content: bytes | None = None  # else the bytes themselves
    sha256: str | None = None  # of the content, in hexadecimal digits: stands for it in a row's key
    detail: str | None = None  # how closely an image is looked at


class Prompt(NamedTuple):
    """A row rendered to words, and what is attached to its last user message."""

    messages: Sequence[Message]
    attachments: Sequence[Attachment] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """The language model asked, and the further keys of the request body as they stand."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a job takes its answers, beside the question itself.

    The verdicts say what becomes of an answer that is not plainly ok: ``keep`` it with its status, ``fail`` the row
    (paid, its text kept), or ask once more at a price.
    """

    stream: bool = False  # replies come as server-sent events
    samples: int = 1  # independent answers a row
    truncated: str = "keep"  # keep, retry_with_more_tokens, fail
    filtered: str = "keep"  # keep, fail
    refusal: str = "keep"  # keep, fail
    empty: str = "fail"  # keep, retry, fail
    invalid_answer: str = "fail"  # keep, fail


MOST_GROWTH = 4
"""So many times the job's cap on output tokens ``retry_with_more_tokens`` goes up to, by doubling."""


class Usage(NamedTuple):
    """Tokens as the provider counted them. None means not reported, which is not 0."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None

    def plus(self, other: Usage) -> Usage:
        return Usage(*map(_plus, self, other))


NO_USAGE = Usage()


def _plus(a: int | None, b: int | None) -> int | None:
    if a is None:
        return b
    return a if b is None else a + b


ATTACHMENT_WEIGHT = 4_000
"""One attachment in bytes of text, until replies teach better: about the 1,000 tokens of a picture."""


class ApiCall(NamedTuple):
    """One HTTP request, still without address, key or time."""

    method: str
    path: str  # appended to the endpoint's base_url
    body: bytes = b""  # the JSON body as it goes over the wire
    question: bytes = b""  # the same body in canonical form and without transport fields: what a row's key hashes
    row: str = ""  # key of the row it is sent for, 32 hexadecimal digits; set by ``ask``
    stream: bool = False  # the reply comes as server-sent events; the client makes one object of them
    attachments: int = 0  # how many go with it
    attached_bytes: int = 0  # bytes of the body that are their content in base64, and no text
    ear: Ear | None = None  # set by ``ask``

    def for_row(self, key: str, ear: Ear | None = None) -> ApiCall:
        # By place, which costs half of _replace.
        return ApiCall(*self[:4], key, *self[5:8], ear)

    @property
    def text_bytes(self) -> int:
        return len(self.body) - self.attached_bytes

    @property
    def weight(self) -> int:
        """Bytes of text that would be about as many tokens. What an attachment costs is not in its size."""
        return len(self.body) - self.attached_bytes + self.attachments * ATTACHMENT_WEIGHT


class Ear(Protocol):
    """Who waits for the reply to a call, and hears of it before anyone settles accounts: what is paid for is written
    down first."""

    def sent(self) -> None:
        """One more attempt goes out."""

    def heard(self, reply: ApiReply) -> None:
        """A good reply is there. Raises nothing: what is wrong with it is told to whoever asked."""


class ApiReply(NamedTuple):
    """One good HTTP answer: status 2xx, a JSON object, no error inside. Everything else is a ``ProviderError``."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    json: Any
    usage: Usage
    latency_s: float
    attempts: int = 1  # attempts this call took, the good one included
    late: bool = False  # a stream that the time-out cut off; what had come is kept


STREAM_CUT = "stream_cut"
"""Member of a reply's JSON that tells, in words, what cut its stream before the answer was whole. Put there by us."""


class Votes(NamedTuple):
    """Several samples of one row."""

    samples: Sequence[str | None]  # their texts, in the order of asking; None where there is none
    agreement: Mapping[str, float]  # by field ("" without fields): the share of samples that gave the value taken


class Completion(NamedTuple):
    """What the model said."""

    text: str | None
    status: Status
    finish_reason: str | None = None  # as the provider spelt it
    model: str | None = None  # as the reply named it
    request_id: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    fields: Mapping[str, Any] | None = None  # the typed answer, where the job asks for one
    step: str | None = None  # how it was read: as_is, repaired, re_asked
    problems: str | None = None  # why there is no typed answer, or no whole one
    kind: str | None = None  # of the failure that the job makes of it; None: it is an answer
    votes: Votes | None = None

    def typed(self, fields: Mapping[str, Any], step: str) -> Completion:
        # By place, which costs a third of _replace.
        return Completion(*self[:7], fields, step, *self[9:])


class Outcome(NamedTuple):
    """How a row ended."""

    key: str  # 32 hexadecimal digits
    row: Row
    status: Status
    text: str | None = None
    kind: str | None = None  # kind of failure, None for an answer
    error: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    request_id: str | None = None
    http_status: int | None = None
    usage: Usage = NO_USAGE
    billed: Billed = Billed.NO
    attempts: int = 0
    latency_s: float | None = None
    reasoning: str | None = None
    raw: str | None = None  # excerpt of an unusable reply
    permanent: bool = False  # a failure that a plain rerun does not try again
    fields: Mapping[str, Any] | None = None
    step: str | None = None
    earlier: Usage = NO_USAGE  # of the row's replies before the last, which are in the ledger on their own
    earlier_replies: int = 0  # ... and how many these were
    votes: Votes | None = None
    renewed: bool = False  # asked although the row had an answer, which had expired: this one counts instead

    @property
    def answered(self) -> bool:
        """Whether the row has its answer (perhaps a flagged one) and needs no further request."""
        return self.kind is None


class Form(Protocol):
    """A typed answer that a job asks for: how to ask for it, and how to read what comes back."""

    @property
    def schema(self) -> Mapping[str, Any]: ...

    @property
    def repair(self) -> int:
        """How often an invalid answer is sent back with what is wrong with it."""

    @property
    def mode(self) -> str:
        """How strongly the endpoint is asked now; changes when it refuses (``weaken``)."""

    def response_format(self) -> Mapping[str, Any] | None: ...

    def instructions(self) -> str | None:
        """Words for the end of the system message."""

    def weaken(self, mode: str) -> bool:
        """The endpoint refused to be asked in this mode. False: there is no weaker one."""

    def read(self, text: str) -> tuple[Mapping[str, Any] | None, str, Sequence[str]]:
        """Values (None: no answer), the step it took, and the problems in words."""

    def re_ask(self, text: str, problems: Sequence[str]) -> str: ...


Send = Callable[[ApiCall], Awaitable[ApiReply]]
"""The client is one; ledger, limiter and retry each wrap one."""

Exchange = Generator[ApiCall, ApiReply, Completion]
"""The dialogue that turns one prompt into one completion."""

Dialogue = Callable[[Prompt], Exchange]
"""What a kind of endpoint makes out of a model: one exchange per prompt."""
