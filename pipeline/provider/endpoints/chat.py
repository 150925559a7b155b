"""``POST /chat/completions``: the dialogue that most of the world's gateways speak, each with an accent of its own.

One call per prompt; a streamed reply arrives here as the whole it adds up to. Further calls only where the job asks for
them: an invalid answer is sent back, a cut one asked for again with more room, several samples are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import orjson

from pipeline.errors import RowRejected, SpecError
from pipeline.provider.endpoints import _samples
from pipeline.provider.endpoints._completion import completion_of, unusable
from pipeline.provider.endpoints._json import canonical
from pipeline.provider.endpoints._parts import Spoken, speak
from pipeline.records import (
    MOST_GROWTH,
    ApiCall,
    ApiReply,
    Completion,
    Dialogue,
    Exchange,
    Form,
    Message,
    Model,
    Prompt,
    Status,
    Terms,
)

_PATH = "/chat/completions"
_TRANSPORT = frozenset({"stream", "stream_options"})  # how the answer travels, not what is asked
_WHOLE = b',"stream":false}'
_STREAMED = b',"stream":true,"stream_options":{"include_usage":true}}'
_OURS = frozenset({"model", "messages"})
_CAPS = ("max_tokens", "max_completion_tokens")
_PLAIN = Terms()
_FORM_REFUSED = frozenset({"bad_request", "unprocessable", "unsupported_media_type", "not_implemented"})
"""Kinds of refusal that may mean the form and not the row."""

_Turn = Generator[ApiCall, ApiReply, tuple[Completion, ApiReply]]
_Encode = Callable[[Sequence[Message]], tuple[bytes, bytes]]


def dialogue(model: Model, form: Form | None = None, terms: Terms = _PLAIN) -> Dialogue:
    """One exchange per prompt. SpecError when the model's parameters cannot be written as JSON.

    With a ``form`` the answer is asked for in its shape, and read in it: an invalid one is sent back with what is wrong
    with it, ``form.repair`` times. ``terms`` say what becomes of an answer that is not plainly ok.
    """
    asking = _Asking(model, form, terms)
    if form is None and terms.samples == 1 and terms.truncated != "retry_with_more_tokens" and terms.empty != "retry":
        return asking.at_once
    return asking.by_turns


class _Asking:
    """The calls of one job's exchanges, and what is made of their replies."""

    def __init__(self, model: Model, form: Form | None, terms: Terms) -> None:
        if form is not None and "response_format" in model.params:
            raise SpecError("model.response_format stands beside answer; the answer block makes it, remove it")
        self._model = model
        self._form = form
        self._terms = terms
        self._plain = _encoder(model, terms.stream)
        self._encoders: dict[tuple[str, int, int], _Encode] = {}
        # The form is part of the question; how strongly the endpoint is asked for it is not.
        self._shape = b"" if form is None else b"\n" + canonical(form.schema)
        if terms.samples > 1:
            self._shape += b"\n%d samples" % terms.samples

    # -- exchanges -------------------------------------------------------------------------------------------------

    def at_once(self, prompt: Prompt) -> Exchange:
        spoken = speak(prompt)
        body, question = self._plain(spoken.messages)
        if spoken.attachments:
            question = self._plain(spoken.asked)[1]
        call = self._call(spoken, body, question)
        del prompt, spoken, body  # of the attachments nothing but the call itself is kept while it is under way
        reply = yield call
        return self.ruled(completion_of(reply), reply)

    def by_turns(self, prompt: Prompt) -> Exchange:
        spoken = speak(prompt)
        del prompt  # its attachments are in the messages
        question = self._plain(spoken.asked)[1] + self._shape
        if self._terms.samples == 1:
            return self.ruled(*(yield from self._answer(spoken, question, 0)))
        drawn = yield from _samples.draw(self._terms.samples, lambda turn: self._answer(spoken, question, turn))
        return _samples.settled(drawn) or self.ruled(*_samples.commonest(drawn))

    def ruled(self, completion: Completion, reply: ApiReply) -> Completion:
        """The answer under the job's verdicts. Raises AnswerUnusable for an empty one that fails."""
        status = completion.status
        if status is Status.OK:
            return completion
        if getattr(self._terms, status) not in ("fail", "retry"):
            return completion
        if status is Status.EMPTY:
            raise unusable(reply, "empty_content", f"the content is empty (finish_reason {completion.finish_reason!r})")
        if status is Status.INVALID_ANSWER:
            return completion._replace(kind=status)
        why = f"{_WHY[status]} (on.{status}: fail)"
        return completion._replace(status=Status.FAILED, kind=status, problems=completion.problems or why)

    # -- turns -----------------------------------------------------------------------------------------------------

    def _answer(self, spoken: Spoken, question: bytes, sample: int) -> _Turn:
        """One answer, read in the form where there is one."""
        completion, reply = yield from self._enough(spoken, spoken.messages, question, sample)
        form = self._form
        if form is None:
            return completion, reply
        for turn in range(form.repair + 1):
            if completion.status is not Status.OK or completion.text is None:
                return completion, reply
            values, step, problems = form.read(completion.text)
            if values is not None:
                return completion._replace(fields=values, step="re_asked" if turn else step), reply
            if turn < form.repair:
                asked = [*spoken.messages, {"role": "user", "content": form.re_ask(completion.text, problems)}]
                completion, reply = yield from self._enough(spoken, asked, b"", sample)
        invalid = completion._replace(status=Status.INVALID_ANSWER, step="invalid", problems="; ".join(problems))
        return invalid, reply

    def _enough(self, spoken: Spoken, messages: Sequence[Message], question: bytes, sample: int) -> _Turn:
        """Asks again where the terms say so: with more room for a cut answer, once more for an empty one."""
        growth = 1
        completion, reply = yield from self._once(spoken, messages, question, growth, sample)
        while self._is_too_short(completion) and growth < MOST_GROWTH:
            growth *= 2
            completion, reply = yield from self._once(spoken, messages, b"", growth, sample)
        if completion.status is Status.EMPTY and self._terms.empty == "retry":
            completion, reply = yield from self._once(spoken, messages, b"", growth, sample)
        return completion, reply

    def _is_too_short(self, completion: Completion) -> bool:
        """Cut by the cap, that is; a stream that broke off (``problems`` says so) would break off again."""
        more = self._terms.truncated == "retry_with_more_tokens"
        return more and completion.status is Status.TRUNCATED and completion.problems is None

    def _once(self, spoken: Spoken, messages: Sequence[Message], question: bytes, growth: int, sample: int) -> _Turn:
        form = self._form
        while True:
            mode = "" if form is None else form.mode
            said = messages if form is None else _instructed(messages, form.instructions())
            body, _ = self._encode(mode, growth, sample)(said)
            try:
                reply = yield self._call(spoken, body, question)
            except RowRejected as error:
                if form is None or error.kind not in _FORM_REFUSED or not form.weaken(mode):
                    raise
            else:
                return completion_of(reply), reply

    # -- calls -----------------------------------------------------------------------------------------------------

    def _call(self, spoken: Spoken, body: bytes, question: bytes) -> ApiCall:
        return ApiCall(
            "POST",
            _PATH,
            body,
            question,
            stream=self._terms.stream,
            attachments=spoken.attachments,
            attached_bytes=spoken.bytes,
        )

    def _encode(self, mode: str, growth: int, sample: int) -> _Encode:
        params = dict(self._model.params)
        seed = params.get("seed")
        if type(seed) is not int:
            sample = 0  # equal requests: what makes the answers differ is the model's own chance
        if (mode, growth, sample) not in self._encoders:
            response_format = None if self._form is None else self._form.response_format()
            if response_format is not None:
                params["response_format"] = response_format
            if type(seed) is int:
                params["seed"] = seed + sample
            for cap in _CAPS:
                if growth > 1 and type(params.get(cap)) is int:
                    params[cap] *= growth
            self._encoders[mode, growth, sample] = _encoder(Model(self._model.name, params), self._terms.stream)
        return self._encoders[mode, growth, sample]


_WHY = {
    Status.TRUNCATED: "the answer was cut by the output limit",
    Status.FILTERED: "a content filter cut in",
    Status.REFUSAL: "the model declined to answer",
}


def _instructed(messages: Sequence[Message], words: str | None) -> Sequence[Message]:
    """The words at the end of the system message; as one of its own where there is none."""
    if words is None:
        return messages
    if messages and messages[0]["role"] in ("system", "developer"):
        first = {**messages[0], "content": f"{messages[0]['content']}\n\n{words}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": words}, *messages]


def _encoder(model: Model, stream: bool = False) -> Callable[[Sequence[Message]], tuple[bytes, bytes]]:
    """From messages to body and question. All but the messages is written once, for a million rows."""
    for name in sorted(_OURS & model.params.keys()):
        raise SpecError(f"model.{name} is no parameter; the job says it elsewhere (model.name, prompt)")
    fields = {"model": model.name, **{k: v for k, v in model.params.items() if k not in _TRANSPORT}}
    try:
        written = [(name, canonical({name: value})[1:-1]) for name, value in sorted(fields.items())]
    except (ValueError, TypeError) as exc:
        raise SpecError(f"model: a parameter cannot be sent: {exc}") from None
    before = b"{" + b"".join(pair + b"," for name, pair in written if name < "messages") + b'"messages":'
    after = b"".join(b"," + pair for name, pair in written if name > "messages")
    question_end, body_end = after + b"}", after + (_STREAMED if stream else _WHOLE)

    def encode(messages: Sequence[Message]) -> tuple[bytes, bytes]:
        start = before + _messages(messages)
        return start + body_end, start + question_end

    return encode


def _messages(messages: Sequence[Message]) -> bytes:
    try:
        # Plain texts are the rule, and orjson writes them canonically as they stand.
        if all(type(message) is dict and all(type(v) is str for v in message.values()) for message in messages):
            return orjson.dumps(messages, option=orjson.OPT_SORT_KEYS)
        return canonical(messages)
    except (ValueError, TypeError) as exc:
        raise RowRejected(
            f"the prompt cannot be written as JSON ({exc}); mend the row's text", kind="invalid_input"
        ) from None
