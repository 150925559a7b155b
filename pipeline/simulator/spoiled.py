"""Bodies as faulty gateways send them: errors in several dialects, spoiled completions, bytes that hurt."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import orjson

_HUGE_BYTES = 20_000_000
_BOMB_BYTES = 200_000_000
_BOMB_PIECES = 50
_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_DEPTH = 2000

ODD_USAGE: Mapping[str, Any] = {"prompt_tokens": "many", "completion_tokens": -5, "total_tokens": 12.5}

Completion = dict[str, Any]


def openai_error(message: str, kind: str, code: str | int | None = None) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def gateway_error(message: str, status: int) -> bytes:
    """GPTProto's own shape: the type is the status as text, and there is no code."""
    return orjson.dumps({"error": {"message": message, "type": str(status)}})


def html_page(title: str) -> bytes:
    return f"<html><head><title>{title}</title></head>\n<body><h1>{title}</h1></body></html>\n".encode()


def _choice(completion: Completion, **changes: Any) -> Completion:
    return {**completion, "choices": [{**completion["choices"][0], **changes}]}


def _message(completion: Completion, **changes: Any) -> Completion:
    return _choice(completion, message={**completion["choices"][0]["message"], **changes})


def empty_choices(completion: Completion) -> Completion:
    return {**completion, "choices": []}


def no_choices(completion: Completion) -> Completion:
    return {key: value for key, value in completion.items() if key != "choices"}


def no_message(completion: Completion) -> Completion:
    choice = {key: value for key, value in completion["choices"][0].items() if key != "message"}
    return {**completion, "choices": [choice]}


def content(value: str | None) -> Callable[[Completion], Completion]:
    return lambda completion: _message(completion, content=value)


def parts_content(completion: Completion) -> Completion:
    text = completion["choices"][0]["message"]["content"]
    half = len(text) // 2
    parts = [{"type": "text", "text": text[:half]}, {"type": "text", "text": text[half:]}]
    return _message(completion, content=parts)


def refusal(completion: Completion) -> Completion:
    return _message(completion, content=None, refusal="The simulator declines to answer this.")


def finish(reason: str, *, keep: bool) -> Callable[[Completion], Completion]:
    """Half the words stay, or none."""

    def reshape(completion: Completion) -> Completion:
        text = completion["choices"][0]["message"]["content"]
        return _choice(_message(completion, content=text[: (len(text) + 1) // 2] if keep else ""), finish_reason=reason)

    return reshape


def tool_calls(completion: Completion) -> Completion:
    call = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    return _choice(_message(completion, content=None, tool_calls=[call]), finish_reason="tool_calls")


def no_usage(completion: Completion) -> Completion:
    return {key: value for key, value in completion.items() if key != "usage"}


def usage(value: Any) -> Callable[[Completion], Completion]:
    return lambda completion: {**completion, "usage": value}


def aliased_usage(completion: Completion) -> Completion:
    told = completion["usage"]
    aliased = {
        "input_tokens": told["prompt_tokens"],
        "output_tokens": told["completion_tokens"],
        "total_tokens": told["total_tokens"],
        "input_tokens_details": told.get("prompt_tokens_details"),
        "output_tokens_details": told.get("completion_tokens_details"),
    }
    return {**completion, "usage": aliased}


def other_model(completion: Completion) -> Completion:
    return {**completion, "model": f"{completion['model']}@main"}


def same_id(completion: Completion) -> Completion:
    return {**completion, "id": "chatcmpl-0"}


Events = list[bytes]
"""A completion as server-sent events, ``[DONE]`` at the end."""


def comments(events: Events) -> Events:
    return [piece for event in events for piece in (b": PING\n\n", b"\n", event)]


def accent(events: Events) -> Events:
    """CR LF, no blank after the colon, and each object over two lines of data."""
    return [
        event.replace(b"data: ", b"data:").replace(b",", b",\ndata:", 1).replace(b"\n", b"\r\n") for event in events
    ]


def without_done(events: Events) -> Events:
    return events[:-1]


def half(events: Events) -> Events:
    """The first words: at least one, and never the last event that says why it ends."""
    return events[: max(2, len(events) // 2)]


def error_inside(events: Events) -> Events:
    return [*half(events), b"data: " + openai_error("upstream error", "server_error", 500) + b"\n\n"]


def into_content(what: bytes) -> Callable[[bytes], bytes]:
    """Puts raw bytes at the beginning of the content."""
    return lambda body: body.replace(b'"content":"', b'"content":"' + what, 1)


def _beside(body: bytes, member: bytes) -> bytes:
    """One more member at the end of the object."""
    return body[:-1] + b"," + member + b"}" if body.endswith(b"}") else body


def nan(body: bytes) -> bytes:
    return _beside(body, b'"score":NaN')


def deep(body: bytes) -> bytes:
    return _beside(body, b'"nested":' + b"[" * _DEPTH + b"]" * _DEPTH)


def duplicate_keys(body: bytes) -> bytes:
    return _beside(body, b'"object":"chat.completion"')


def trailing(body: bytes) -> bytes:
    return body + b"\nupstream closed"


def bom(body: bytes) -> bytes:
    return b"\xef\xbb\xbf" + body


def huge(body: bytes) -> bytes:
    return b" " * _HUGE_BYTES + body


def half_gzip(body: bytes) -> bytes:
    packed = gzip.compress(body)
    return packed[: len(packed) // 2]


@cache
def _packed_blanks() -> tuple[bytes, int]:
    """The beginning of a gzip file that holds the blanks, and their checksum."""
    blanks = b" " * (_BOMB_BYTES // _BOMB_PIECES)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    # After a full flush the stream knows nothing of what came before, so the packed piece can be repeated.
    piece = packer.compress(blanks) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(_BOMB_PIECES):
        checksum = zlib.crc32(blanks, checksum)
    return _GZIP_HEAD + piece * _BOMB_PIECES, checksum


def bomb(body: bytes) -> bytes:
    blanks, checksum = _packed_blanks()
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = blanks + packer.compress(body) + packer.flush()
    return packed + struct.pack("<II", zlib.crc32(body, checksum), _BOMB_BYTES + len(body))
