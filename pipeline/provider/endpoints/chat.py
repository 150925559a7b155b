"""``POST /chat/completions``: the dialogue that most of the world's gateways speak, each with an accent of its own.

One call per prompt; a streamed reply arrives here as the whole it adds up to. Further calls only where the job asks for
them: an invalid answer is sent back, a cut one asked for again with more room, several samples are drawn.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pipeline.errors import RowRejected, SpecError
from pipeline.provider.endpoints import _samples
from pipeline.provider.endpoints._completion import completion_of, unusable
from pipeline.provider.endpoints._json import canonical
from pipeline.provider.endpoints._parts import Spoken, speak
from pipeline.provider.endpoints._writing import Encoder, has_system, instructed, led, system_message, written
from pipeline.records import (
    EMPTY,
    MOST_GROWTH,
    OK,
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
_CAPS = ("max_tokens", "max_completion_tokens")
_PLAIN = Terms()
_FORM_REFUSED = frozenset({"bad_request", "unprocessable", "unsupported_media_type", "not_implemented"})
"""Kinds of refusal that may mean the form and not the row."""

_Turn = Generator[ApiCall, ApiReply, tuple[Completion, ApiReply]]


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
        self._plain = Encoder(model, stream=terms.stream)
        self._encoders: dict[tuple[str, int, int], Encoder] = {}
        self._instructions: dict[str, bytes] = {}  # written as a system message
        # The form is part of the question; how strongly the endpoint is asked for it is not.
        self._shape = b"" if form is None else b"\n" + canonical(form.schema)
        if terms.samples > 1:
            self._shape += b"\n%d samples" % terms.samples

    # -- exchanges -------------------------------------------------------------------------------------------------

    def at_once(self, prompt: Prompt) -> Exchange:
        spoken = speak(prompt)
        said = spoken.written or written(spoken.messages)
        question = self._plain.question(written(spoken.asked) if spoken.attachments else said)
        call = self._call(spoken, self._plain.body(said), question)
        del prompt, spoken, said  # of the attachments nothing but the call itself is kept while it is under way
        reply = yield call
        return self.ruled(completion_of(reply), reply)

    def by_turns(self, prompt: Prompt) -> Exchange:
        spoken = speak(prompt)
        del prompt  # its attachments are in the messages
        question = self._plain.question(spoken.written or written(spoken.asked)) + self._shape
        if self._terms.samples == 1:
            return self.ruled(*(yield from self._answer(spoken, question, 0)))
        drawn = yield from _samples.draw(self._terms.samples, lambda turn: self._answer(spoken, question, turn))
        return _samples.settled(drawn) or self.ruled(*_samples.commonest(drawn))

    def ruled(self, completion: Completion, reply: ApiReply) -> Completion:
        """The answer under the job's verdicts. Raises AnswerUnusable for an empty one that fails."""
        status = completion.status
        if status is OK:
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
            if completion.status is not OK or completion.text is None:
                return completion, reply
            values, step, problems = form.read(completion.text)
            if values is not None:
                return completion.typed(values, "re_asked" if turn else step), reply
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
        if completion.status is EMPTY and self._terms.empty == "retry":
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
            body = self._encoder(mode, growth, sample).body(self._said(spoken, messages))
            try:
                reply = yield self._call(spoken, body, question)
            except RowRejected as error:
                if form is None or error.kind not in _FORM_REFUSED or not form.weaken(mode):
                    raise
            else:
                return completion_of(reply), reply

    def _said(self, spoken: Spoken, messages: Sequence[Message]) -> bytes:
        """The messages, with the form's instructions where it has any to give."""
        words = None if self._form is None else self._form.instructions()
        if words is not None and has_system(messages):
            return written(instructed(messages, words))
        said = spoken.written if messages is spoken.messages else b""
        said = said or written(messages)
        if words is None:
            return said
        by = self._instructions.get(words)
        if by is None:
            by = self._instructions[words] = system_message(words)
        return led(by, said)

    # -- calls -----------------------------------------------------------------------------------------------------

    def _call(self, spoken: Spoken, body: bytes, question: bytes) -> ApiCall:
        return ApiCall(
            "POST",
            _PATH,
            body,
            question,
            stream=self._terms.stream,
            attachments=spoken.attachments,
            attached_bytes=spoken.attached_bytes,
        )

    def _encoder(self, mode: str, growth: int, sample: int) -> Encoder:
        seed = self._model.params.get("seed")
        if type(seed) is not int:
            sample = 0  # equal requests: what makes the answers differ is the model's own chance
        encoder = self._encoders.get((mode, growth, sample))
        if encoder is None:
            params = dict(self._model.params)
            response_format = None if self._form is None else self._form.response_format()
            if response_format is not None:
                params["response_format"] = response_format
            if type(seed) is int:
                params["seed"] = seed + sample
            for cap in _CAPS:
                if growth > 1 and type(params.get(cap)) is int:
                    params[cap] *= growth
            encoder = Encoder(Model(self._model.name, params), stream=self._terms.stream)
            self._encoders[mode, growth, sample] = encoder
        return encoder


_WHY = {
    Status.TRUNCATED: "the answer was cut by the output limit",
    Status.FILTERED: "a content filter cut in",
    Status.REFUSAL: "the model declined to answer",
}
