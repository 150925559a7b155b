"""Attachments as content parts of a chat message: shared by the kinds that speak chat.

What is sent holds the content in base64; what a row's key hashes holds its SHA-256 and its type in that place. An
address stands in both. No address begins with ``sha256:``, so the two never look alike.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from pipeline.errors import RowRejected
from pipeline.provider.endpoints._writing import written
from pipeline.records import Attachment, Message, Prompt

_AUDIO_FORMATS = {"audio/mpeg": "mp3", "audio/mp4": "m4a"}


class Spoken(NamedTuple):
    """A prompt's messages, their last user message with its parts."""

    messages: Sequence[Message]  # as they are sent
    asked: Sequence[Message]  # as a row's key sees them
    attachments: int = 0
    attached_bytes: int = 0  # of their content as it is sent, in base64
    written: bytes = b""  # the messages, where nothing is attached


def speak(prompt: Prompt) -> Spoken:
    """Raises RowRejected when there is no user message to attach to, and for text that JSON cannot carry."""
    if not prompt.attachments:
        return Spoken(prompt.messages, prompt.messages, written=written(prompt.messages))
    messages = list(prompt.messages)
    last = next((at for at in reversed(range(len(messages))) if messages[at]["role"] == "user"), None)
    if last is None:
        raise RowRejected("there is no user message for the attachments to go with", kind="invalid_input")
    sent, asked, size = [], [], 0
    for attachment in prompt.attachments:
        address = attachment.url or f"sha256:{attachment.sha256};{attachment.media_type}"
        asked.append(_part(attachment, address))
        if attachment.content is None:
            sent.append(asked[-1])
            continue
        data = binascii.b2a_base64(attachment.content, newline=False)
        size += len(data)
        # Written by hand: base64 needs no escapes, so millions of characters need not be looked at one by one.
        head = b"" if attachment.form == "input_audio" else f"data:{attachment.media_type};base64,".encode()
        sent.append(_part(attachment, orjson.Fragment(b'"%b%b"' % (head, data))))
    return Spoken(_with(messages, last, sent), _with(messages, last, asked), len(prompt.attachments), size)


def _with(messages: Sequence[Message], at: int, parts: Sequence[Any]) -> list[Message]:
    content = messages[at]["content"]
    first = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    return [*messages[:at], {**messages[at], "content": [*first, *parts]}, *messages[at + 1 :]]


def _part(attachment: Attachment, data: Any) -> dict[str, Any]:
    match attachment.form:
        case "file":
            return {"type": "file", "file": {"filename": attachment.name, "file_data": data}}
        case "file_url":
            return {"type": "file_url", "file_url": {"url": data}}
        case "input_audio":
            kind = attachment.media_type or ""
            spelt = _AUDIO_FORMATS.get(kind, kind.partition("/")[2])
            return {"type": "input_audio", "input_audio": {"data": data, "format": spelt}}
        case _:
            detail = {} if attachment.detail is None else {"detail": attachment.detail}
            return {"type": "image_url", "image_url": {"url": data, **detail}}
