"""What a bad reply or a broken connection means. The only room that reads an error message or a status.

Gateways are careless with statuses, so words come first, then the shape of the body, then the status. Every fault gets
a route (the error's class), a stable ``kind``, and what it may have cost:

- ``Billed.NO``: no complete request reached a model, or it was refused before one saw it. Try again by time.
- ``Billed.MAYBE``: the request was sent and no complete answer came back. Trying again may pay twice.
- ``Billed.YES``: the headers of an answer arrived. It is paid for, usable or not.

Exceptions are known by the names of their classes, the most derived first, so that this room needs no HTTP library
and the order of ``except`` clauses decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import AnswerUnusable, ProviderError, RowRejected, RunBlocked, TransientError
from pipeline.provider._said import (
    RAW_CHARS,
    Said,
    clean,
    error_in,
    excerpt,
    page_text,
    retry_after,
    said,
    wait_in_words,
)
from pipeline.provider._verdicts import (
    BAD_REQUEST,
    EXCEPTIONS,
    INVALID,
    REDIRECT,
    RULES,
    SERVER_ERROR,
    STATUSES,
    STREAM_CUTS,
    Rule,
    Verdict,
)
from pipeline.records import Billed

__all__ = ["clean", "error_in", "excerpt", "from_exception", "judge", "retry_after"]

_WORDS_CHARS = 400  # phrases further back are the prompt, or a help text, quoted
_GOOD = frozenset({200, 201, 202, 203})
_NONE: Mapping[str, str] = {}


def judge(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    json: Any,
    parsed: bool,
    *,
    now: Callable[[], float] = time.time,
    begun: bool = False,
) -> ProviderError | None:
    """None for a good reply: status 2xx, a JSON object, no error inside.

    ``json`` counts only when ``parsed``; names in ``headers`` are in lower case; ``now`` is the wall clock. ``begun``:
    words of an answer had come before the error, so that a model was at work and may be paid for it.
    """
    if status in _GOOD:
        found = error_in(json) if parsed else None
        if found is None:
            return None if parsed and type(json) is dict else _unusable(status, headers, body, parsed)
        words = said(found)
        verdict = _by_words(words, words.status or 200) or _by_status(words.status or 500)
    elif status < 300 or status > 599:
        return _paid(status, headers, body, "unexpected_status", f"HTTP {status} is no answer to this request")
    elif status < 400:
        words, verdict = Said(headers.get("location", "").split("?")[0]), REDIRECT
    else:
        words = _spoken(body, json, parsed)
        effective = 429 if words.status == 429 and status >= 500 else status
        verdict = _by_words(words, effective) or _by_status(effective)
    error = _ruled(verdict, words, status, headers, body, now)
    if begun and error.billed is Billed.NO:
        error.billed = Billed.MAYBE
    return error


def _spoken(body: bytes, json: Any, parsed: bool) -> Said:
    if parsed and json:
        return said(error_in(json) or json)
    return Said(page_text(body), html=body[:200].lstrip().startswith(b"<"))


def _by_words(words: Said, status: int) -> Verdict | None:
    for rule in RULES:
        if _applies(rule, words, status):
            # 401 and 402 stop the run whatever the words; these may only say better why.
            return rule.verdict if status not in (401, 402) or rule.verdict.route is RunBlocked else None
    return BAD_REQUEST if status in (200, 500) and words.codes & INVALID else None


def _applies(rule: Rule, words: Said, status: int) -> bool:
    if words.codes & rule.codes:
        return True
    # The page of an edge server speaks of safety and guidelines, too, but not about this row.
    if rule.phrases is None or words.html or status in rule.deaf:
        return False
    return rule.phrases.search(words.message[:_WORDS_CHARS].lower()) is not None


def _by_status(status: int) -> Verdict:
    return STATUSES.get(status) or (BAD_REQUEST if status < 500 else SERVER_ERROR)


def _ruled(
    verdict: Verdict, words: Said, status: int, headers: Mapping[str, str], body: bytes, now: Callable[[], float]
) -> ProviderError:
    transient = issubclass(verdict.route, TransientError)
    if transient and headers.get("x-should-retry", "").strip().lower() == "false":
        transient = False
        verdict = Verdict(RowRejected, verdict.kind, verdict.billed, "the endpoint forbids a retry")
    wait = retry_after(headers, now)
    if wait is None and transient:
        wait = wait_in_words(words.message)
    where = "an error inside HTTP 200" if status in _GOOD else f"HTTP {status}"
    message = clean(words.message) or verdict.kind.replace("_", " ")
    return verdict.route(
        f"{where}: {message}" + (f"; {verdict.hint}" if verdict.hint else ""),
        kind=verdict.kind,
        billed=verdict.billed,
        status=status,
        raw=excerpt(body),
        request_id=_request_id(headers),
        retry_after_s=wait,
    )


def _unusable(status: int, headers: Mapping[str, str], body: bytes, parsed: bool) -> ProviderError:
    """A status that says success around something that is no JSON object."""
    seen = clean(page_text(body), 200)
    start = body[:200].removeprefix(b"\xef\xbb\xbf").lstrip()
    if parsed:
        return _paid(status, headers, body, "not_an_object", f"the reply is JSON, but no object: {seen}")
    if not body.strip(b"\xef\xbb\xbf \t\r\n"):
        return _paid(status, headers, body, "empty_body", f"HTTP {status} with an empty body")
    if start.startswith((b"data:", b"event:")):
        return _paid(status, headers, body, "stream_reply", f"the reply is a stream, and none was asked for: {seen}")
    if start.startswith((b"{", b"[", b'"', b"NaN", b"Infinity", b"-")) or start[:1].isdigit():
        return _paid(status, headers, body, "bad_json", f"the reply is broken JSON: {seen}")
    if not _is_text(body):
        return _paid(status, headers, body, "not_json", f"the reply is neither JSON nor text: {seen}")
    # Words of an edge server that stood in for the model: whether one was asked nobody knows.
    return TransientError(
        f"HTTP {status} with a page in place of JSON: {seen}",
        kind="html_reply" if start.startswith(b"<") else "text_reply",
        billed=Billed.MAYBE,
        status=status,
        raw=excerpt(body),
        request_id=_request_id(headers),
    )


def _is_text(body: bytes) -> bool:
    head = body[:RAW_CHARS]
    try:
        head.decode()
    except UnicodeDecodeError as exc:
        return exc.start >= RAW_CHARS - 3  # a character cut by the excerpt
    return b"\0" not in head


def _paid(status: int, headers: Mapping[str, str], body: bytes, kind: str, message: str) -> AnswerUnusable:
    return AnswerUnusable(
        message, kind=kind, billed=Billed.YES, status=status, raw=excerpt(body), request_id=_request_id(headers)
    )


def too_big(status: int, headers: Mapping[str, str], body: bytes, limit: int) -> ProviderError:
    """A body that passed ``limit`` bytes, unpacked, and was cut there."""
    if status >= 300:
        return judge(status, headers, body, None, False) or _paid(status, headers, body, "body_too_big", "")
    message = f"the reply is larger than {limit:,} bytes; ask for less (max_tokens)"
    return _paid(status, headers, body, "body_too_big", message)


def from_exception(
    exc: BaseException,
    *,
    address: str,
    status: int = 0,
    headers: Mapping[str, str] = _NONE,
    body: bytes = b"",
) -> ProviderError:
    """What an exception of the HTTP library, of asyncio or of the system means.

    ``address`` is scheme, host and port; ``status``, ``headers`` and ``body`` are what had arrived before it (status 0:
    nothing). Nothing of the exception's own text but an error number's name goes into the message: it may quote the
    request. Callers raise what they get outside of the ``except`` clause, so that it drags nothing along.
    """
    verdict, sentence = _known(exc)
    if status >= 300 and (judged := judge(status, headers, body, None, False)):
        return judged
    if status and verdict.kind != "timeout":
        message = f"the reply of {address} broke off after {len(body):,} bytes"
        return _paid(status, headers, body, "truncated_body", message)
    reason = _reason(exc)
    message = sentence.format(address=address) + (f" ({reason})" if reason else "")
    if verdict.kind == "connect_timeout" and address.startswith("https:"):
        message += "; does that port speak TLS?"
    return verdict.route(
        message + (f"; {verdict.hint}" if verdict.hint else ""),
        kind=verdict.kind,
        billed=verdict.billed,
        status=status or None,
        raw=excerpt(body) if body else None,
        request_id=_request_id(headers),
    )


def cut_stream(
    exc: BaseException | None, *, stalled: bool, unreadable: bool, status: int, headers: Mapping[str, str]
) -> ProviderError:
    """A stream that was cut before its answer was whole. Raised where no word of the answer had come; else its message
    is what the kept words are marked with. ``exc`` is None when the other side ended it in good order."""
    if exc is None:
        how = "unreadable" if unreadable else "ended"
    else:
        how = "stalled" if stalled else "timeout" if _known(exc)[0].kind == "timeout" else "broken"
    verdict, sentence = STREAM_CUTS[how]
    return verdict.route(
        sentence + (f"; {verdict.hint}" if verdict.hint else ""),
        kind=verdict.kind,
        billed=verdict.billed,
        status=status,
        request_id=_request_id(headers),
    )


_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"})


def _known(exc: BaseException) -> tuple[Verdict, str]:
    known = next(EXCEPTIONS[c.__name__] for c in type(exc).__mro__ if c.__name__ in EXCEPTIONS)
    verdict, sentence = known
    if verdict.kind == "tls" and getattr(_system_error(exc), "reason", None) in _NOT_TLS:
        return Verdict(RunBlocked, "tls", hint="is endpoint.base_url really https?"), sentence
    if verdict.kind == "proxy" and getattr(exc, "status", None) == 407:
        return STATUSES[407], "the proxy did not open a way to {address}"
    if verdict.kind == "disconnected" and "not write request body" in str(exc)[:200]:
        return EXCEPTIONS["ClientConnectionResetError"]
    return known


def _system_error(exc: BaseException) -> object:
    return getattr(exc, "os_error", None) or getattr(exc, "certificate_error", None) or exc


def _reason(exc: BaseException) -> str:
    """The system's words for it; they quote no request."""
    found = _system_error(exc)
    words = getattr(found, "verify_message", None) or getattr(found, "reason", None) or getattr(found, "strerror", None)
    return clean(words, 120) if isinstance(words, str) and "not write request body" not in words else ""


def _request_id(headers: Mapping[str, str]) -> str | None:
    return headers.get("x-oneapi-request-id") or headers.get("x-request-id")
