"""The catalogue of what can go wrong on purpose: one line for every fault that a gateway was seen or said to have.

A fault refuses (a fixed reply, nothing billed) or spoils an answer that was made and billed. ``FAULTS`` says which.
"""

from __future__ import annotations

import gzip
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import accumulate
from typing import Any

from pipeline.simulator import spoiled


class Manner(Enum):
    """How a reply goes over the wire."""

    WHOLE = "whole"
    HANG = "never, until the client leaves"
    RESET = "not at all: RST"
    CLOSE = "not at all: FIN"
    TRUNCATED = "half of what Content-Length promised"
    UNTIL_CLOSE = "half, with nothing that tells the length"
    DRIP = "a few bytes at a time"
    STALL = "all of it, and then neither more nor an end until the client leaves"
    GARBAGE = "not HTTP at all"


@dataclass(frozen=True, slots=True)
class Fault:
    about: str
    billed: bool
    status: int = 200  # 0: no reply is begun
    body: bytes | None = None  # instead of the answer
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    reshape: Callable[[dict[str, Any]], Any] | None = None  # what is sent instead of the completion
    rewrite: Callable[[bytes], bytes] | None = None  # what is sent instead of its bytes
    restream: Callable[[list[bytes]], list[bytes]] | None = None  # what is sent instead of a stream's events
    manner: Manner = Manner.WHOLE
    slow: bool = False  # takes ``Settings.slow_s``
    echo: bool = False  # repeats the Authorization header in its message
    kind: str = ""  # its name in FAULTS


def _no(status: int, body: bytes, about: str, content_type: str = "application/json", **more: Any) -> Fault:
    return Fault(about, False, status, body, content_type, **more)


def _shaped(reshape: Callable[[dict[str, Any]], Any], about: str) -> Fault:
    return Fault(about, True, reshape=reshape)


def _bytes(rewrite: Callable[[bytes], bytes], about: str, **more: Any) -> Fault:
    return Fault(about, True, rewrite=rewrite, **more)


def _stream(restream: Callable[[list[bytes]], list[bytes]], about: str, **more: Any) -> Fault:
    """Spoils replies that are streamed; a whole one is a good answer."""
    return Fault(f"{about}; whole replies are good", True, restream=restream, **more)


_HTML = "text/html"
_openai, _gateway, _html = spoiled.openai_error, spoiled.gateway_error, spoiled.html_page
_BUSY = "Rate limit reached for requests"
_SATURATED = "当前分组上游负载已饱和，请稍后再试"
_GUIDELINES = "The input may not meet the guidelines, please adjust it and try again"
_QUOTA = _openai("You exceeded your current quota, check your plan", "insufficient_quota", "insufficient_quota")
_SLOW_504 = _html("504 Gateway Time-out")

_TABLE = {
    # Refused at the door: 429
    "rate_limited": _no(429, _openai(_BUSY, "requests", "rate_limit_exceeded"), "429 without any header"),
    "rate_limited_empty": _no(429, b"", "429 with an empty body, as the gateway's IP limiter sends", "text/plain"),
    "rate_limited_wait": _no(
        429, _openai(_BUSY, "requests", "rate_limit_exceeded"), "429 with Retry-After: 1", headers={"Retry-After": "1"}
    ),
    "rate_limited_absurd": _no(
        429, _openai(_BUSY, "requests"), "429 with Retry-After: 1000000000", headers={"Retry-After": "1000000000"}
    ),
    "saturated": _no(
        429, _openai(_SATURATED, "requests", "rate_limit_exceeded"), "429, upstream saturated, in Chinese"
    ),
    "quota": _no(429, _QUOTA, "429 that means an empty account: insufficient_quota"),
    # Refused: the account
    "unauthorized": _no(401, _gateway("Invalid signature", 401), "401, the key is not accepted"),
    "payment_required": _no(402, _gateway("Payment required", 402), "402"),
    "balance": _no(403, _gateway("Insufficient balance", 403), "403, the account is empty"),
    "echo_key": Fault("500 whose message repeats the Authorization header", False, 500, echo=True),
    # Refused: the request
    "bad_request": _no(400, _openai("Invalid value in the request", "invalid_request_error"), "400"),
    "not_found": _no(404, _html("404 Not Found"), "404 with a page of HTML", _HTML),
    "model_not_found": _no(
        503, _openai("No available channel for this model", "new_api_error", "model_not_found"), "503, no such model"
    ),
    "conflict": _no(409, _openai("Conflict", "conflict"), "409"),
    "too_large": _no(413, _html("413 Request Entity Too Large"), "413 with a page of HTML", _HTML),
    "unprocessable": _no(422, b'{"detail":[{"loc":["body"],"msg":"invalid"}]}', "422 in FastAPI's shape"),
    "content_policy": _no(503, _gateway(_GUIDELINES, 503), "503 that means content policy, not an outage"),
    # Refused: the server
    "request_timeout": _no(408, _openai("Request timed out", "invalid_request_error"), "408"),
    "too_early": _no(425, _openai("Too early", "server_error"), "425"),
    "server_error": _no(500, _gateway("Internal server error", 500), "500 with JSON"),
    "server_error_text": _no(500, b"Internal Server Error", "500 with plain text", "text/plain"),
    "bad_gateway": _no(502, _html("502 Bad Gateway"), "502 with a page of HTML", _HTML),
    "unavailable": _no(503, _gateway("Service temporarily unavailable", 503), "503 with JSON"),
    "overloaded": _no(529, _openai("Overloaded", "overloaded_error"), "529"),
    "gateway_timeout": _no(504, _SLOW_504, "504 after a long wait, not billed", _HTML, slow=True),
    "gateway_timeout_billed": Fault("504 after a long wait, billed", True, 504, _SLOW_504, _HTML, slow=True),
    "cdn_524": _no(524, _html("524: A timeout occurred"), "524 of a CDN after a long wait", _HTML, slow=True),
    "redirect": _no(307, b"", "307 to another path", headers={"Location": "/elsewhere/v1/chat/completions"}),
    "no_content": _no(204, b"", "204"),
    # The connection
    "hang": Fault("never answers; the client has to leave", False, 0, manner=Manner.HANG),
    "reset_before": Fault("connection reset before any header, no work done", False, 0, manner=Manner.RESET),
    "reset_after": Fault("connection reset before any header, work done and billed", True, 0, manner=Manner.RESET),
    "close_before": Fault("connection closed before any header, no work done", False, 0, manner=Manner.CLOSE),
    "truncated": Fault("half the body, then closed; Content-Length promised more", True, manner=Manner.TRUNCATED),
    "cut_until_close": Fault("half the body, with nothing that tells so", True, manner=Manner.UNTIL_CLOSE),
    "slow_body": Fault("a few bytes at a time, but all of them", True, manner=Manner.DRIP),
    "garbage": Fault("bytes that are not HTTP", False, 0, manner=Manner.GARBAGE),
    "big_header": _no(
        502, _html("502 Bad Gateway"), "a header longer than clients read", _HTML, headers={"x-padding": "x" * 65536}
    ),
    # 200, and no completion in it
    "html_200": _no(200, _html("Checking your browser"), "200 with a page of HTML, as of an edge proxy", _HTML),
    "error_200": _no(200, _openai("No candidates returned", "server_error", 500), "200 with an error object"),
    "error_string_200": _no(200, b'{"error":"upstream error"}', "200 with an error that is a string"),
    "flat_error_200": _no(200, b'{"code":500,"message":"upstream error","type":"error"}', "200 with code and message"),
    "empty_200": Fault("200 with no body", True, body=b""),
    "not_json_200": Fault("200 that says JSON and is not", True, body=b'{"id":"chatcmpl-1","choices":[{"ind'),
    "null_200": Fault("200 with the body null", True, body=b"null"),
    # 200, and something missing in it
    "empty_choices": _shaped(spoiled.empty_choices, "choices is []"),
    "no_choices": _shaped(spoiled.no_choices, "choices is missing"),
    "no_message": _shaped(spoiled.no_message, "the choice has no message"),
    "null_content": _shaped(spoiled.content(None), "content is null"),
    "empty_content": _shaped(spoiled.content(""), "content is an empty string"),
    "parts_content": _shaped(spoiled.parts_content, "content is a list of parts; a good answer"),
    "refusal": _shaped(spoiled.refusal, "content null, and words in refusal"),
    "content_filter": _shaped(spoiled.finish("content_filter", keep=False), "withheld: finish_reason content_filter"),
    "length": _shaped(spoiled.finish("length", keep=True), "cut: finish_reason length"),
    "odd_finish": _shaped(spoiled.finish("MAX_TOKENS", keep=True), "finish_reason in a vendor's own word"),
    "tool_calls": _shaped(spoiled.tool_calls, "calls a tool that nobody offered"),
    "no_usage": _shaped(spoiled.no_usage, "usage is missing; a good answer"),
    "null_usage": _shaped(spoiled.usage(None), "usage is null; a good answer"),
    "odd_usage": _shaped(spoiled.usage(spoiled.ODD_USAGE), "usage with words and negative numbers; a good answer"),
    "input_output_usage": _shaped(spoiled.aliased_usage, "usage spelt input_tokens, output_tokens; a good answer"),
    "other_model": _shaped(spoiled.other_model, "names another model than was asked; a good answer"),
    "same_id": _shaped(spoiled.same_id, "the id of other answers too; a good answer"),
    # 200, and bytes that hurt
    "huge_body": _bytes(spoiled.huge, "20 MB of blanks within the JSON"),
    "gzip": _bytes(gzip.compress, "gzip, unasked; a good answer", headers={"Content-Encoding": "gzip"}),
    "gzip_cut": _bytes(spoiled.half_gzip, "gzip, cut, Content-Length right", headers={"Content-Encoding": "gzip"}),
    "gzip_bomb": _bytes(spoiled.bomb, "gzip, 200 MB of blanks in 200 kB", headers={"Content-Encoding": "gzip"}),
    "invalid_utf8": _bytes(spoiled.into_content(b"\xff\xfe"), "bytes in content that are not UTF-8"),
    "nan_json": _bytes(spoiled.nan, "NaN in the JSON"),
    "lone_surrogate": _bytes(spoiled.into_content(b"\\ud83d"), "half an emoji, escaped, in content"),
    "nul_chars": _bytes(spoiled.into_content(b"\\u0000\\u0007"), "NUL and BEL in content; a good answer"),
    "deep_json": _bytes(spoiled.deep, "2,000 lists within each other beside the answer"),
    "duplicate_keys": _bytes(spoiled.duplicate_keys, "the same key twice; a good answer"),
    "trailing_garbage": _bytes(spoiled.trailing, "words after the end of the JSON"),
    "wrong_content_type": Fault("says text/plain; a good answer", True, content_type="text/plain"),
    "bom": _bytes(spoiled.bom, "a byte order mark in front; a good answer"),
    # Streams
    "stream_comments": _stream(spoiled.comments, "stream with comments and blank lines between events; a good answer"),
    "stream_accent": _stream(spoiled.accent, "stream with CR LF, no blank after data:, split objects; a good answer"),
    "stream_no_done": _stream(spoiled.without_done, "stream that ends without [DONE]; a good answer"),
    "stream_cut": _stream(spoiled.half, "half a stream, ended in good order"),
    "stream_error": _stream(spoiled.error_inside, "half a stream, then an event with an error"),
    "stream_stall": _stream(spoiled.half, "half a stream, then silence", manner=Manner.STALL),
}

FAULTS: Mapping[str, Fault] = {kind: replace(fault, kind=kind) for kind, fault in _TABLE.items()}

_STOPS_A_RUN = ("quota", "unauthorized", "payment_required", "balance", "echo_key", "redirect", "model_not_found")
_ENDLESS_OR_HEAVY = ("hang", "rate_limited_absurd", "huge_body", "gzip_bomb", "big_header")
_STREAMS = tuple(kind for kind, fault in FAULTS.items() if fault.restream is not None)

GROUPS: Mapping[str, Sequence[str]] = {
    "mixed": (
        *("rate_limited", "rate_limited_empty", "too_early", "request_timeout", "server_error", "bad_gateway"),
        *("unavailable", "overloaded", "reset_before", "reset_after", "truncated", "html_200", "error_200"),
        *("not_json_200", "empty_choices", "null_content"),
    ),
    "any": tuple(kind for kind in FAULTS if kind not in (*_STOPS_A_RUN, *_ENDLESS_OR_HEAVY, *_STREAMS)),
    "streams": _STREAMS,
}
"""Names that spread their share evenly: ``mixed`` over passing and unusable ones, ``streams`` over those of streams,
``any`` over all others but those that stop a run, never end or are very heavy."""


class Shares:
    """Which share of the requests gets which fault."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        spread: list[tuple[str, float]] = []
        for name, share in shares.items():
            kinds = GROUPS.get(name, (name,))
            spread += [(kind, share / len(kinds)) for kind in kinds]
        self._kinds = [kind for kind, _ in spread]
        self._upto = list(accumulate(share for _, share in spread))

    def fault(self, fraction: float) -> Fault | None:
        """``fraction`` lies in 0..1 and decides."""
        if not self._upto or fraction >= self._upto[-1]:
            return None
        return FAULTS[self._kinds[bisect_right(self._upto, fraction)]]
