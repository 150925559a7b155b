"""``POST /chat/completions``: the dialogue that most of the world's gateways speak, each with an accent of its own.

One call per prompt, never streamed. What comes back is read as broadly as it is written: a completion is refused only
when nothing in it can be an answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import orjson

from pipeline.errors import AnswerUnusable, RowRejected, SpecError
from pipeline.provider.endpoints._json import canonical, excerpt
from pipeline.records import (
    ApiCall,
    ApiReply,
    Billed,
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
_OURS = frozenset({"model", "messages"})
_PLAIN = Terms()
_THINK = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)

_FINISHES = {
    **dict.fromkeys(
        ("length", "max_tokens", "max_output_tokens", "max_completion_tokens", "model_length"), Status.TRUNCATED
    ),
    **dict.fromkeys(
        (
            *("content_filter", "content_filtered", "content-filter", "safety", "recitation", "blocklist", "spii"),
            *("prohibited_content", "image_safety", "sensitive", "guardrail_intervened", "language"),
        ),
        Status.FILTERED,
    ),
    "refusal": Status.REFUSAL,
}
_BROKEN = frozenset({"error", "network_error", "insufficient_system_resource", "malformed_function_call"})
"""Finish reasons of an answer that the endpoint itself gave up."""


def dialogue(model: Model, form: Form | None = None, terms: Terms = _PLAIN) -> Dialogue:
    """One exchange per prompt. SpecError when the model's parameters cannot be written as JSON.

    With a ``form`` the answer is asked for in its shape, and read in it: an invalid one is sent back with what is wrong
    with it, ``form.repair`` times.
    """
    if form is not None:
        return _typed_dialogue(model, form)
    encode = _encoder(model)

    def exchange(prompt: Prompt) -> Exchange:
        body, question = encode(prompt.messages)
        reply = yield ApiCall("POST", _PATH, body, question)
        return _completion(reply)

    return exchange


def _typed_dialogue(model: Model, form: Form) -> Dialogue:
    if "response_format" in model.params:
        raise SpecError("model.response_format stands beside answer; the answer block makes it, remove it")
    encoders: dict[str, Callable[[Sequence[Message]], tuple[bytes, bytes]]] = {}
    plain = _encoder(model)
    # The form is part of the question; how strongly the endpoint is asked for it is not.
    shape = b"\n" + canonical(form.schema)

    def call(messages: Sequence[Message], question: bytes = b"") -> tuple[ApiCall, str]:
        mode = form.mode
        if mode not in encoders:
            response_format = form.response_format()
            extra = {} if response_format is None else {"response_format": response_format}
            encoders[mode] = _encoder(Model(model.name, {**model.params, **extra}))
        body, _ = encoders[mode](_instructed(messages, form.instructions()))
        return ApiCall("POST", _PATH, body, question), mode

    def ask(messages: Sequence[Message], question: bytes = b"") -> Generator[ApiCall, ApiReply, ApiReply]:
        while True:
            api_call, mode = call(messages, question)
            try:
                return (yield api_call)
            except RowRejected as error:
                if error.kind not in _FORM_REFUSED or not form.weaken(mode):
                    raise

    def exchange(prompt: Prompt) -> Exchange:
        messages = list(prompt.messages)
        reply = yield from ask(messages, plain(messages)[1] + shape)
        completion = _completion(reply)
        for turn in range(form.repair + 1):
            if completion.status is not Status.OK or completion.text is None:
                return completion
            values, step, problems = form.read(completion.text)
            if values is not None:
                return replace(completion, fields=values, step="re_asked" if turn else step)
            if turn < form.repair:
                asked = [*messages, {"role": "user", "content": form.re_ask(completion.text, problems)}]
                completion = _completion((yield from ask(asked)))
        return replace(completion, status=Status.INVALID_ANSWER, step="invalid", problems="; ".join(problems))

    return exchange


_FORM_REFUSED = frozenset({"bad_request", "unprocessable", "unsupported_media_type", "not_implemented"})
"""Kinds of refusal that may mean the form and not the row."""


def _instructed(messages: Sequence[Message], words: str | None) -> Sequence[Message]:
    """The words at the end of the system message; as one of its own where there is none."""
    if words is None:
        return messages
    if messages and messages[0]["role"] in ("system", "developer"):
        first = {**messages[0], "content": f"{messages[0]['content']}\n\n{words}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": words}, *messages]


def _encoder(model: Model) -> Callable[[Sequence[Message]], tuple[bytes, bytes]]:
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
    question_end, body_end = after + b"}", after + b',"stream":false}'

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


def _completion(reply: ApiReply) -> Completion:
    json = reply.json
    choices = json.get("choices")
    if not isinstance(choices, list) or not choices:
        raise _unusable(reply, "empty_choices", "the reply has no choices")
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        if not isinstance(choice, dict) or not isinstance(choice.get("text"), str):
            raise _unusable(reply, "no_message", "the reply's first choice has no message")
        message = {"content": choice["text"]}  # the older completions dialect
    text, refusal, reasoning = _read(message)
    finish = choice.get("finish_reason")
    finish = finish if isinstance(finish, str) else None
    status = _status(finish, text, refusal)
    if status is None:
        raise _nothing(reply, message, finish)
    return Completion(
        text=text,
        status=status,
        finish_reason=finish,
        model=_text(json.get("model")),
        request_id=_request_id(reply),
        refusal=refusal,
        reasoning=reasoning,
    )


def _read(message: dict[str, Any]) -> tuple[str | None, str | None, str | None]:
    """Text, refusal and reasoning of a message. None and the empty text stay apart."""
    content = message.get("content")
    refusal = _text(message.get("refusal"))
    reasoning = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    if isinstance(content, dict):
        content = [content]
    images = _images(message.get("images"))
    if isinstance(content, list):
        text = _joined([part if (image := _image(part)) is None else image for part in content], "text")
        refusal = refusal or _joined(content, "refusal")
        reasoning = reasoning or _joined(content, "thinking")
    else:
        text = content if isinstance(content, str) else None
    if images:  # some gateways put them beside the content
        text = "\n\n".join([*([text] if text else []), *images])
    if text is not None and reasoning is None and "<think>" in text[:200] and (thought := _THINK.match(text)):
        text, reasoning = text[thought.end() :], thought[1].strip() or None
    return text, refusal, reasoning


def _images(beside: Any) -> list[str]:
    return [image for part in beside if (image := _image(part)) is not None] if isinstance(beside, list) else []


def _image(part: Any) -> str | None:
    """A picture among the parts of a content as markdown has it, its address or data URL inside."""
    held = part.get("image_url") if isinstance(part, dict) else None
    address = held.get("url") if isinstance(held, dict) else held
    return f"![image]({address})" if isinstance(address, str) and address else None


def _joined(parts: list[Any], name: str) -> str | None:
    """The parts that carry ``name`` as text, in one; None when there are none."""
    found = [
        part if isinstance(part, str) else part[name]
        for part in parts
        if (isinstance(part, str) and name == "text") or (isinstance(part, dict) and isinstance(part.get(name), str))
    ]
    return "".join(found) if found else None


def _status(finish: str | None, text: str | None, refusal: str | None) -> Status | None:
    """None when the completion cannot be an answer."""
    word = finish.strip().lower() if finish else ""
    blank = not text or text.isspace()
    if word in _BROKEN:
        return None
    if blank and refusal:
        return Status.REFUSAL
    flagged = _FINISHES.get(word)
    return flagged or (None if blank else Status.OK)


def _nothing(reply: ApiReply, message: dict[str, Any], finish: str | None) -> AnswerUnusable:
    if finish and finish.strip().lower() in _BROKEN:
        return _unusable(reply, "finish_error", f"the endpoint broke the answer off (finish_reason {finish!r})")
    if message.get("tool_calls") or message.get("function_call"):
        return _unusable(reply, "tool_calls", "the model called a tool in place of answering; remove `tools`")
    content = message.get("content")
    if content is not None and not isinstance(content, (str, list, dict)):
        return _unusable(reply, "bad_content", f"the content is a {type(content).__name__}, not text")
    return _unusable(reply, "empty_content", f"the content is empty (finish_reason {finish!r})")


def _unusable(reply: ApiReply, kind: str, message: str) -> AnswerUnusable:
    error = AnswerUnusable(
        message,
        kind=kind,
        billed=Billed.YES,
        status=reply.status,
        usage=reply.usage,
        raw=excerpt(reply),
        request_id=_request_id(reply),
        latency_s=reply.latency_s,
    )
    error.attempts = reply.attempts
    return error


def _request_id(reply: ApiReply) -> str | None:
    headers = reply.headers
    return headers.get("x-oneapi-request-id") or headers.get("x-request-id") or _text(reply.json.get("id"))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
