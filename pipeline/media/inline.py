"""Data URLs in a text: found, decoded, and replaced by the path under which their bytes are kept.

What is no data URL to the letter stays as it is: broken base64 (a cut answer), one that is shortened by dots or too
short to be anything, a type that is no media (fonts and style sheets in an answer about web pages). So putting the
bytes back where the paths stand gives the text again, character for character.

A text may be megabytes of one picture: all that walks over it here is a search in C.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from pipeline.media.kinds import HEAD_BYTES, Kind, kind_of

_SCHEME: Final = "data:"
_MARK: Final = ";base64,"
_HEAD: Final = re.compile(
    r"data:([a-zA-Z0-9][a-zA-Z0-9.+-]{0,60}/[a-zA-Z0-9.+-]{1,80})?(?:;[a-zA-Z0-9_.+-]{1,40}=[^;,\s\"'()<>]{0,100}){0,4};base64,"
)
_SHORTENED: Final = ("...", "\u2026")
_LEAST_BYTES: Final = 16
_BEHIND: Final = re.compile(r"[^A-Za-z0-9+/=]")


class Piece(NamedTuple):
    """The bytes of one data URL."""

    name: str  # of its file
    kind: Kind
    data: bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A text without its data URLs, and what they held."""

    text: str
    pieces: tuple[Piece, ...]


def file_name(key: str, place: str, sha256: str, kind: Kind) -> str:
    """``key``: the row's, 32 hexadecimal digits. ``place``: which one of the row's."""
    return f"{key}-{place}-{sha256[:8]}.{kind.ext}"


def may_hold_pieces(text: str) -> bool:
    """A quick look; True may be wrong."""
    return _MARK in text


def take(key: str, text: str, folder: str) -> Taken:
    """Every data URL in ``text`` replaced by ``folder/name``. The same text gives the same names, always."""
    out: list[str] = []
    pieces: list[Piece] = []
    done = 0
    for start, end, kind, data in _found(text):
        sha256 = hashlib.sha256(data).hexdigest()
        name = file_name(key, str(len(pieces) + 1), sha256, kind)
        pieces.append(Piece(name, kind, data, sha256))
        out += (text[done:start], f"{folder}/{name}")
        done = end
    return Taken("".join([*out, text[done:]]), tuple(pieces)) if pieces else Taken(text, ())


def _found(text: str) -> Iterator[tuple[int, int, Kind, bytes]]:
    """Where each data URL begins and ends, its kind and its bytes."""
    at = text.find(_SCHEME)
    while at >= 0:
        head = _HEAD.match(text, at) if at == 0 or not text[at - 1].isalnum() else None
        end = at + len(_SCHEME)
        if head is not None:
            behind = _BEHIND.search(text, head.end())
            end = behind.start() if behind else len(text)
            data = None if text.startswith(_SHORTENED, end) else _decoded(text[head.end() : end])
            kind = kind_of(data[:HEAD_BYTES], head[1]) if data and len(data) >= _LEAST_BYTES else None
            if kind is not None and data is not None:
                yield at, end, kind, data
        at = text.find(_SCHEME, end)


def _decoded(payload: str) -> bytes | None:
    """None for what is not base64 as an encoder writes it."""
    try:
        data = base64.b64decode(payload, validate=True)
        canonical = base64.b64encode(base64.b64decode(payload[-4:])).decode() == payload[-4:]
    except (binascii.Error, ValueError):
        return None
    return data if canonical else None
