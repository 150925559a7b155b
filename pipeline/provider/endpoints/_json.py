"""Canonical JSON, and the excerpt of a reply: shared by the kinds of endpoint.

Canonical means: equal questions have equal bytes. Keys sorted at every level, no blanks, UTF-8, a number that is
whole written as an integer (``0.0`` and ``0`` ask the same thing). A row's key in the checkpoint hashes these bytes, so
what is written here may never change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from pipeline.records import ApiReply

_WHOLE = 2**53  # beyond, a float no longer tells whole numbers apart
_RAW_CHARS = 2_000


def canonical(value: Any) -> bytes:
    """``value`` as canonical JSON. ValueError says what in it is not JSON, and where."""
    try:
        return orjson.dumps(_plain(value, ""), option=orjson.OPT_SORT_KEYS)
    except (TypeError, RecursionError) as exc:  # a lone surrogate, an integer beyond 64 bits, a table in itself
        raise ValueError(str(exc) or "nested too deeply") from None


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (str, bool, int, orjson.Fragment)):  # a fragment is canonical already
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where or 'the value'} is {value}, which JSON has no word for")
        return int(value) if value.is_integer() and abs(value) <= _WHOLE else value
    if isinstance(value, Mapping):
        plain = {_name(name): _plain(part, f"{where}.{name}".lstrip(".")) for name, part in value.items()}
        if len(plain) < len(value):
            raise ValueError(f"{where or 'the value'} has a key twice, once as text and once as a number")
        return plain
    if isinstance(value, (list, tuple)):
        return [_plain(part, f"{where}[{place}]") for place, part in enumerate(value)]
    raise ValueError(f"{where or 'the value'} is a {type(value).__name__}, which JSON has no word for")


def _name(name: Any) -> str:
    if isinstance(name, str):
        return name
    if isinstance(name, int) and not isinstance(name, bool):  # YAML reads the 50256 of logit_bias as a number
        return str(name)
    raise ValueError(f"{name!r} is not text and cannot be a key")


def excerpt(reply: ApiReply) -> str:
    """The start of a reply's body, for whoever must find out what was wrong with it."""
    return reply.body[: _RAW_CHARS * 4].decode("utf-8", "replace")[:_RAW_CHARS]
