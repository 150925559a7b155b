"""What a chat request asks, checked as strictly as a gateway checks it."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w.+-]+=[^;,]*)*;base64,(.*)", re.DOTALL)
_SOUNDS = ("wav", "mp3", "flac", "ogg", "opus", "m4a", "aac", "webm", "pcm16")
# An image in low detail as OpenAI counts it, a page as Gemini counts it, a second of sound; made up in the main.
_PART_TOKENS = {"image_url": 85, "file": 258, "file_url": 258, "input_audio": 32}
_FORMATS = ("text", "json_object", "json_schema")


class Refused(Exception):
    """A reply that says no. ``headers`` may be empty."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = headers or {}


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


@dataclass(frozen=True, slots=True)
class Question:
    model: str
    messages: Sequence[Mapping[str, Any]]
    stream: bool
    stream_usage: bool
    max_tokens: int | None
    response_format: Mapping[str, Any] | None

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Role and text of each message."""
        return [(message["role"], _text(message.get("content"))) for message in self.messages]

    @property
    def prompt_tokens(self) -> int:
        return sum(3 + _content_tokens(message.get("content")) for message in self.messages)


def tokens_of(text: str) -> int:
    """A token is four bytes, the last one perhaps fewer."""
    return ((len(text) if text.isascii() else len(text.encode())) + 3) // 4


def parse(body: bytes) -> Question:
    """Raises Refused."""
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise _refused(f"the body is not JSON: {exc}", code="bad_request_body") from exc
    if not isinstance(asked, dict):
        raise _refused("the body must be a JSON object", code="bad_request_body")
    return Question(
        _model(asked.get("model")),
        _messages(asked.get("messages")),
        _typed(asked, "stream", bool, default=False),
        _stream_usage(asked),
        _max_tokens(asked),
        _response_format(asked),
    )


def _refused(message: str, param: str | None = None, code: str | None = None) -> Refused:
    return Refused(400, error_body(message, "invalid_request_error", code, param))


def _model(model: Any) -> str:
    if not isinstance(model, str) or not model:
        raise _refused("you must provide a model parameter", "model")
    return model


def _messages(messages: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise _refused("messages must be a list with at least one message", "messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _refused(f"messages[{index}] must be an object with a role", f"messages[{index}]")
        if not _is_content(message.get("content"), message):
            raise _refused(f"messages[{index}].content must be text or a list of parts", f"messages[{index}].content")
        if isinstance(message.get("content"), list):
            for place, part in enumerate(message["content"]):
                _check_part(part, f"messages[{index}].content[{place}]")
    return messages


def _check_part(part: Mapping[str, Any], where: str) -> None:
    kind, value = part["type"], part.get(part["type"])
    if kind == "text":
        if not isinstance(value, str):
            raise _refused(f"{where}.text must be text", where)
    elif kind == "image_url":
        # Doubao's samples have the plain address in place of the object.
        _check_source(value.get("url") if isinstance(value, dict) else value, f"{where}.image_url")
    elif kind in ("file", "file_url"):
        name = "file_data" if kind == "file" else "url"
        _check_source(value.get(name) if isinstance(value, dict) else None, f"{where}.{kind}.{name}")
    elif kind == "input_audio":
        if not isinstance(value, dict) or not _is_base64(value.get("data")):
            raise _refused(f"{where}.input_audio.data must be base64", where)
        if value.get("format") not in _SOUNDS:
            raise _refused(f"{where}.input_audio.format must be one of {', '.join(_SOUNDS)}", where)
    else:
        raise _refused(f"{where}.type must be one of text, {', '.join(_PART_TOKENS)}, not {kind!r}", where)


def _check_source(source: Any, where: str) -> None:
    """An address that could be fetched (it is not), or the content itself."""
    if isinstance(source, str):
        if _is_address(source):
            return
        if (data := _DATA_URL.fullmatch(source)) is not None and _is_base64(data[1]):
            return
    raise _refused(f"{where} must be an http(s) address or a data: URL in base64", where)


def _is_address(source: str) -> bool:
    try:
        parts = urlsplit(source)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _is_base64(data: Any) -> bool:
    try:
        return isinstance(data, str) and len(binascii.a2b_base64(data.encode("ascii"), strict_mode=True)) > 0
    except ValueError:  # binascii.Error, UnicodeEncodeError
        return False


def _is_content(content: Any, message: Mapping[str, Any]) -> bool:
    if isinstance(content, str):
        return True
    if isinstance(content, list):
        return all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in content)
    return content is None and message["role"] == "assistant"


def _typed(asked: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = asked.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _refused(f"{name} must be of type {kind.__name__}, not {type(value).__name__}", name)
    return value


def _stream_usage(asked: Mapping[str, Any]) -> bool:
    options = _typed(asked, "stream_options", dict, default={})
    return options.get("include_usage") is True


def _max_tokens(asked: Mapping[str, Any]) -> int | None:
    temperature = asked.get("temperature")
    if temperature is not None and (isinstance(temperature, bool) or not isinstance(temperature, int | float)):
        raise _refused(f"temperature must be a number, not {type(temperature).__name__}", "temperature")
    if temperature is not None and not 0 <= temperature <= 2:
        raise _refused(f"temperature must lie in 0..2, not {temperature}", "temperature")
    least: int | None = None
    for name in ("max_tokens", "max_completion_tokens"):
        value = _typed(asked, name, int)
        if value is not None and value < 1:
            raise _refused(f"{name} must be at least 1, not {value}", name)
        if value is not None:
            least = value if least is None else min(least, value)
    return least


def _response_format(asked: Mapping[str, Any]) -> Mapping[str, Any] | None:
    wanted: Mapping[str, Any] | None = _typed(asked, "response_format", dict)
    if wanted is None or wanted.get("type") == "text":
        return None
    if wanted.get("type") not in _FORMATS:
        raise _refused(f"response_format.type must be one of {', '.join(_FORMATS)}", "response_format.type")
    if wanted["type"] == "json_schema":
        named = wanted.get("json_schema")
        if not isinstance(named, dict) or not isinstance(named.get("schema"), dict):
            raise _refused("response_format.json_schema.schema must be an object", "response_format.json_schema")
    return wanted


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or () if isinstance(part.get("text"), str))


def _content_tokens(content: Any) -> int:
    if isinstance(content, str):
        return tokens_of(content)
    return sum(_PART_TOKENS.get(part["type"], 0) or tokens_of(part.get("text") or "") for part in content or ())
