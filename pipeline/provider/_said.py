"""The texts of a bad reply: what its body says, how long it asks to wait, and how much of it may be shown.

For :mod:`pipeline.provider.faults` and nobody else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

RAW_CHARS = 2_000  # how much of an unusable reply is kept

_REQUEST_ID = re.compile(r"\s*[(（]\s*request[ _]?id\s*[:：][^)）]*[)）]", re.IGNORECASE)
_KEY = re.compile(r"(?i:\bbearer\s+)[^\s\"',;]+|\b(?:sk|rk|pk|gsk|xai|key)-[\w\-*.]{6,}|\bAIza[\w\-*]{10,}", re.ASCII)
_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)")
_UNSEEN = re.compile(r"[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")  # zero width, and text that runs backwards
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_NUMBER = re.compile(r"\+?\d{1,20}(?:\.\d*)?", re.ASCII)
_WAIT = re.compile(
    r"(?:try again|retry|reset\w*) (?:in|after) (\d{1,9}(?:\.\d+)?) ?(ms|s|sec|seconds?|m|min|minutes?)\b"
)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<(?:script|style)\b.*?</(?:script|style)>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_SUCCESS = frozenset({"", "none", "0", "1", "200", "success", "ok"})


def clean(text: str, limit: int = 500) -> str:
    """One line fit for a terminal: no control characters, no request id, nothing like a key, at most ``limit`` long."""
    text = _ANSI.sub("", text[: limit * 8])
    text = _KEY.sub("[key]", _REQUEST_ID.sub("", text))
    text = _SURROGATE.sub("\ufffd", _UNSEEN.sub("", _BLANKS.sub(" ", text))).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def excerpt(body: bytes) -> str:
    """The start of a body as it came, but for what looks like a key."""
    return _KEY.sub("[key]", body[: RAW_CHARS * 4].decode("utf-8", "replace"))[:RAW_CHARS]


def page_text(body: bytes) -> str:
    """The words of a body that is not JSON; of an HTML page, its title."""
    text = body[:20_000].decode("utf-8", "replace")
    if not text.lstrip("\ufeff \t\r\n").startswith("<"):
        return text
    title = _TITLE.search(text)
    return title[1] if title else _TAG.sub(" ", text)


def retry_after(headers: Mapping[str, str], now: Callable[[], float]) -> float | None:
    """Seconds the endpoint asks us to wait; None when it does not say, or says nonsense.

    ``now`` is the wall clock, against which a date is read. A date in the past is 0. An absurd wait is returned as it
    stands: what to make of it is the limiter's business.
    """
    if "retry-after-ms" in headers and (ms := _number(headers["retry-after-ms"])) is not None:
        return ms / 1000
    for name in ("retry-after", "llm_provider-retry-after"):
        value = headers.get(name)
        if value and (wait := _seconds(value, now)) is not None:
            return wait
    return None


def _seconds(value: str, now: Callable[[], float]) -> float | None:
    if (number := _number(value)) is not None:
        return number
    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:  # a date without a zone is GMT, as HTTP dates are
            date = date.replace(tzinfo=UTC)
        wait = date.timestamp() - now()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(0.0, wait) if math.isfinite(wait) else None


def _number(value: str) -> float | None:
    value = value.strip()
    return float(value) if _NUMBER.fullmatch(value) else None


def wait_in_words(message: str) -> float | None:
    """``Please try again in 20s``: some endpoints name the wait only there."""
    found = _WAIT.search(message[:2_000].lower())
    if found is None:
        return None
    unit = found[2]
    return float(found[1]) * (0.001 if unit == "ms" else 60.0 if unit.startswith("m") else 1.0)


@dataclass(frozen=True, slots=True)
class Said:
    """What the body of an error says."""

    message: str
    codes: frozenset[str] = frozenset()  # code, type and status of the error as text, lower-cased
    status: int = 0  # the HTTP status named inside the body; 0: none
    html: bool = False


def error_in(json: Any) -> Any:
    """The error that a JSON body carries, whatever the status; None when it carries none."""
    if type(json) is list:  # Gemini's OpenAI dialect wraps its error in a list of one
        return error_in(json[0]) if len(json) == 1 and type(json[0]) is dict and "error" in json[0] else None
    if type(json) is not dict:
        return None
    error = json.get("error")
    if error:
        return json if error is True else error if not isinstance(error, dict) or _means_it(error) else None
    choices = json.get("choices")
    if choices is None:
        return json if _flat(json) else None
    if type(choices) is list and choices and type(choices[0]) is dict:
        error = choices[0].get("error")
        return error if error and (not isinstance(error, dict) or _means_it(error)) else None
    return None


def _means_it(error: dict[Any, Any]) -> bool:
    """Whether an error object says anything: some gateways send an empty one beside a good answer."""
    return any(value for name, value in error.items() if name != "code" or _word(value) not in _SUCCESS)


def _flat(json: dict[Any, Any]) -> bool:
    """``{"code", "message"}`` without an answer: an error, unless the code says success."""
    code = json.get("code")
    message = json.get("message", json.get("msg"))
    return code is not None and isinstance(message, str) and _word(code) not in _SUCCESS


def said(error: Any) -> Said:
    """Reads an error object, a flat body, a FastAPI ``detail``, a plain text."""
    if not isinstance(error, dict):
        return Said(_text_of(error))
    inner = error.get("error")
    if isinstance(inner, dict) and inner:  # an error in an error
        return said({**{k: v for k, v in error.items() if k != "error"}, **inner})
    message = next((text for name in _MESSAGES if (text := _text_of(error.get(name)))), "")
    words = {_word(error.get(name)) for name in ("code", "type", "status", "reason")} - {"", "none", "error"}
    named = (error.get(name) for name in ("code", "status", "status_code", "type"))
    return Said(message, frozenset(words), next((s for value in named if (s := _as_status(value))), 0))


_MESSAGES = ("message", "msg", "detail", "error", "error_msg", "error_message", "errors")


def _text_of(value: Any, depth: int = 0) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth < 3:
        return "; ".join(text for part in value[:5] if (text := _text_of(part, depth + 1)))
    if isinstance(value, dict) and depth < 3:
        return next((text for name in _MESSAGES if (text := _text_of(value.get(name), depth + 1))), "")
    return ""


def _word(value: Any) -> str:
    return str(value).strip().lower()[:100] if isinstance(value, (str, int, float)) else ""


def _as_status(value: Any) -> int:
    word = _word(value)
    return int(word) if len(word) == 3 and word.isascii() and word.isdigit() and "400" <= word <= "599" else 0
