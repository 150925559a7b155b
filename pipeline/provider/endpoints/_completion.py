"""What a chat reply says: its text, refusal and reasoning, and the verdict on them.

Read as broadly as it is written: a completion is refused only when nothing in it can be an answer. Shared by the kinds
that speak chat.
"""

from __future__ import annotations

import re
from typing import Any

from pipeline.errors import AnswerUnusable
from pipeline.provider.endpoints._json import excerpt
from pipeline.records import EMPTY, OK, STREAM_CUT, ApiReply, Billed, Completion, Status

_THINK = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)

_INSIDE_A_VALUE = ("{", "[", "```")  # a closing tag further on is part of the answer then

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


def completion_of(reply: ApiReply) -> Completion:
    json = reply.json
    choices = json.get("choices")
    if not isinstance(choices, list) or not choices:
        raise unusable(reply, "empty_choices", "the reply has no choices")
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        if not isinstance(choice, dict) or not isinstance(choice.get("text"), str):
            raise unusable(reply, "no_message", "the reply's first choice has no message")
        message = {"content": choice["text"]}  # the older completions dialect
    text, refusal, reasoning = _read(message)
    finish = choice.get("finish_reason")
    finish = finish if isinstance(finish, str) else None
    status = _status(finish, text, refusal)
    cut = _text(json.get(STREAM_CUT))
    if cut is not None and status is OK:
        status = Status.TRUNCATED
    if status is EMPTY and (odd := _odd(message)):
        raise unusable(reply, *odd)
    if status is None:
        raise unusable(reply, "finish_error", f"the endpoint broke the answer off (finish_reason {finish!r})")
    return Completion(
        text=text,
        status=status,
        finish_reason=finish,
        model=_text(json.get("model")),
        request_id=_request_id(reply),
        refusal=refusal,
        reasoning=reasoning,
        problems=cut,
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
    if text is not None and "think>" in text:
        text, thoughts = _without_thoughts(text)
        reasoning = reasoning or thoughts
    return text, refusal, reasoning


def _without_thoughts(text: str) -> tuple[str, str | None]:
    """The answer, and what the model thought aloud before it; some endpoints swallow the tag that opens it."""
    thoughts: list[str] = []
    while thought := _THINK.match(text):
        thoughts.append(thought[1].strip())
        text = text[thought.end() :]
    begin = text.lstrip()
    if begin.startswith("<think>"):  # it broke off while the model was still thinking
        return "", "\n\n".join([*thoughts, begin.removeprefix("<think>").strip()]) or None
    if not thoughts and not begin.startswith(_INSIDE_A_VALUE):
        before, end, behind = text.partition("</think>")
        if end and "<think>" not in before:
            return behind.lstrip(), before.strip() or None
    return text, "\n\n".join(filter(None, thoughts)) or None


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
    """None when the endpoint itself gave the answer up."""
    word = finish.strip().lower() if finish else ""
    blank = not text or text.isspace()
    if word in _BROKEN:
        return None
    if blank and refusal:
        return Status.REFUSAL
    return _FINISHES.get(word) or (EMPTY if blank else OK)


def _odd(message: dict[str, Any]) -> tuple[str, str] | None:
    """Kind and words of what stands in a message in the place of an answer; None when there is nothing."""
    if message.get("tool_calls") or message.get("function_call"):
        return "tool_calls", "the model called a tool in place of answering; remove `tools`"
    content = message.get("content")
    if content is not None and not isinstance(content, (str, list, dict)):
        return "bad_content", f"the content is a {type(content).__name__}, not text"
    return None


def unusable(reply: ApiReply, kind: str, message: str) -> AnswerUnusable:
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
