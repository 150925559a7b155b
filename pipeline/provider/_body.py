"""A body as JSON, judged by its bytes alone. For the client and the reader of streams."""

from __future__ import annotations

import json as stdlib_json
import math
import re
from typing import Any, NoReturn

import orjson

_SURROGATE = re.compile(r"[\ud800-\udfff]")


def parse(body: bytes) -> tuple[Any, bool]:
    """A body as JSON, and whether it is JSON at all. Never raises.

    Strict (no NaN, no Infinity, nothing behind the end), but for two things that cost nobody an answer: a byte order
    mark is skipped, and half a surrogate pair, which no table can store, becomes U+FFFD.
    """
    try:
        return orjson.loads(body), True
    except ValueError:
        json, parsed = parse_part(body)
    try:
        return well_formed(json), parsed
    except RecursionError:
        return None, False


def parse_part(body: bytes) -> tuple[Any, bool]:
    """As ``parse``, for a piece of an answer: half a surrogate pair stays, its other half may be in the next piece."""
    try:
        return orjson.loads(body), True
    except ValueError:
        if b"\\ud" not in body and b"\\uD" not in body and not body.startswith(b"\xef\xbb\xbf"):
            return None, False
    try:
        return stdlib_json.loads(body.decode("utf-8-sig"), parse_constant=_refuse, parse_float=_finite), True
    except (ValueError, RecursionError):
        return None, False


def well_formed(json: Any) -> Any:
    """The same with surrogate pairs joined; half a pair becomes U+FFFD. Raises RecursionError beyond all depth."""
    if isinstance(json, str):
        if not _SURROGATE.search(json):
            return json
        return _SURROGATE.sub("\ufffd", json.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    if isinstance(json, list):
        return [well_formed(part) for part in json]
    if isinstance(json, dict):
        return {well_formed(name): well_formed(value) for name, value in json.items()}
    return json


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _finite(word: str) -> float:
    number = float(word)
    return number if math.isfinite(number) else _refuse(word)
