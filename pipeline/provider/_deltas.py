"""The pieces of one streamed completion, put together as if it had come whole. For :mod:`pipeline.provider.stream`.

Read as broadly as gateways write: deltas, whole messages in their place, texts of the older dialect; content as text or
as parts; usage on any chunk, in one piece or in several. Only the choice numbered 0 is kept: no other is ever read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TEXTS = frozenset({"content", "refusal", "reasoning_content", "reasoning"})  # said in pieces that belong together
_TEXT_PART = frozenset({"type", "text", "index"})
_USAGES = ("usage", "usageMetadata")


class Deltas:
    """Takes chunks in their order; ``completion`` is what they add up to."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._usage: dict[str, dict[str, Any]] = {}
        self._choice = False  # a choice was seen
        self._message: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {}
        self._parts: list[Any] = []  # content parts that are not text, and the texts before each
        self._tools: dict[Any, dict[str, Any]] = {}
        self._by_deltas = False
        self.finish_reason: str | None = None

    @property
    def said(self) -> bool:
        """Words of an answer (or of a refusal) are there; thoughts are not the answer."""
        return bool(self._parts) or any(
            piece and not piece.isspace() for name in ("content", "refusal") for piece in self._texts.get(name, ())
        )

    def add(self, chunk: Mapping[str, Any]) -> None:
        for name, value in chunk.items():
            if name in _USAGES:
                self._count(name, value)
            elif name not in ("choices", "object") and value:
                self._head.setdefault(name, value)
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and not _is_another(choice.get("index")):
                self._choice = True
                self._add_choice(choice, whole=chunk.get("object") == "chat.completion")

    def completion(self) -> dict[str, Any]:
        choice = {"index": 0, "message": self._whole_message(), "finish_reason": self.finish_reason}
        return {**self._head, "object": "chat.completion", "choices": [choice] if self._choice else [], **self._usage}

    def _count(self, name: str, counters: Any) -> None:
        """Counters only grow: what a later chunk leaves out, or at 0, stays as it was told before."""
        if isinstance(counters, dict):
            told = self._usage.setdefault(name, {})
            told.update({key: value for key, value in counters.items() if value or key not in told})

    def _add_choice(self, choice: Mapping[str, Any], *, whole: bool) -> None:
        delta, message = choice.get("delta"), choice.get("message")
        if isinstance(delta, dict) and delta:
            self._by_deltas = self._by_deltas or bool(delta.get("content"))
            self._merge(delta)
        elif isinstance(message, dict):
            self._take_message(message, whole=whole)
        elif isinstance(choice.get("text"), str):
            self._say("content", choice["text"])
        finish = choice.get("finish_reason")
        if isinstance(finish, str) and finish:
            self.finish_reason = finish
        self._count("usage", choice.get("usage"))

    def _take_message(self, message: Mapping[str, Any], *, whole: bool) -> None:
        """Beside deltas, or where it repeats what was said, a message is the whole once more; else it is a piece."""
        said, content = "".join(self._texts.get("content", ())), message.get("content")
        if content and (self._by_deltas or (whole and isinstance(content, str) and content.startswith(said))):
            self._texts.clear()
            self._parts.clear()
            self._tools.clear()
        self._merge(message)

    def _merge(self, delta: Mapping[str, Any]) -> None:
        for name, value in delta.items():
            if name == "tool_calls" and isinstance(value, list):
                for place, call in enumerate(value):
                    self._add_tool(call, place)
            elif name == "content" and isinstance(value, list | dict):
                self._add_parts(value if isinstance(value, list) else [value])
            elif name in _TEXTS and isinstance(value, str):
                self._say(name, value)
            elif name == "function_call" and isinstance(value, dict):
                self._message[name] = _called(self._message.get(name), value)
            elif isinstance(value, list) and isinstance(self._message.get(name), list):
                self._message[name] = self._message[name] + value
            elif value is not None:
                self._message[name] = value

    def _say(self, name: str, text: str) -> None:
        self._texts.setdefault(name, []).append(text)

    def _add_parts(self, parts: list[Any]) -> None:
        for part in parts:
            if isinstance(part, dict) and isinstance(part.get("text"), str) and part.keys() <= _TEXT_PART:
                part = part["text"]
            if isinstance(part, str):
                self._say("content", part)
            else:
                self._close_text()
                self._parts.append(part)

    def _close_text(self) -> None:
        """The text so far as a part of its own: another kind of part follows it."""
        if text := "".join(self._texts.pop("content", ())):
            self._parts.append({"type": "text", "text": text})

    def _add_tool(self, call: Any, place: int) -> None:
        if isinstance(call, dict):
            index = call.get("index") if type(call.get("index")) is int else place
            known = self._tools.setdefault(index, {})
            function = call.get("function")
            if isinstance(function, dict):
                known["function"] = _called(known.get("function"), function)
            for name, value in call.items():
                if name not in ("index", "function") and value:
                    known.setdefault(name, value)

    def _whole_message(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None, **self._message}
        if self._parts:
            self._close_text()
            message["content"] = list(self._parts)
        for name, pieces in self._texts.items():
            message[name] = "".join(pieces)
        if self._tools:
            message["tool_calls"] = [self._tools[index] for index in sorted(self._tools)]
        # A stream opens with an empty text whatever follows; a whole reply has null beside a refusal or a call.
        if message["content"] == "" and (self._tools or message.get("refusal") or message.get("function_call")):
            message["content"] = None
        return message


def _is_another(index: Any) -> bool:
    return type(index) is int and index != 0


def _called(known: Any, piece: Mapping[str, Any]) -> dict[str, Any]:
    """A function call with one more piece of its arguments."""
    called = dict(known) if isinstance(known, dict) else {}
    arguments = piece.get("arguments")
    if isinstance(arguments, str):
        called["arguments"] = called.get("arguments", "") + arguments
    for name, value in piece.items():
        if name != "arguments" and value:
            called.setdefault(name, value)
    return called
