"""The tables of faults: words, statuses and exceptions, each with its route, its kind and what it may have cost.

For :mod:`pipeline.provider.faults` and nobody else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.errors import Overloaded, ProviderError, RateLimited, RowRejected, RunBlocked, TransientError
from pipeline.records import Billed


@dataclass(frozen=True, slots=True)
class Verdict:
    route: type[ProviderError]
    kind: str
    billed: Billed = Billed.NO
    hint: str = ""  # what to do about it, for people


@dataclass(frozen=True, slots=True)
class Rule:
    """Applies when the error carries one of ``codes``, or its message one of ``phrases``."""

    verdict: Verdict
    codes: frozenset[str] = frozenset()
    phrases: re.Pattern[str] | None = None  # searched in the lower-cased message
    deaf: frozenset[int] = frozenset()  # statuses under which the phrases mean something else


def _codes(words: str) -> frozenset[str]:
    return frozenset(words.split())


_TOP_UP = "top up the account (or raise its limit), then run the same command again"
_UNAUTHORIZED = Verdict(RunBlocked, "unauthorized", hint="check the key that endpoint.api_key_env names")
_BALANCE = Verdict(RunBlocked, "balance", hint=_TOP_UP)
_FORBIDDEN = Verdict(
    RunBlocked, "forbidden", hint="the key may not use this model, group or address; see the account's settings"
)
_LIMITED = Verdict(RateLimited, "rate_limited")
_OVERLOADED = Verdict(Overloaded, "overloaded")
_GATEWAY_TIMEOUT = Verdict(TransientError, "gateway_timeout", Billed.MAYBE)
BAD_REQUEST = Verdict(RowRejected, "bad_request")
SERVER_ERROR = Verdict(TransientError, "server_error", Billed.MAYBE)
REDIRECT = Verdict(
    RunBlocked, "redirect", hint="redirects are not followed; set endpoint.base_url to the final address"
)

RULES = (
    Rule(
        Verdict(RunBlocked, "quota", hint=_TOP_UP),
        _codes(
            "insufficient_quota insufficient_user_quota pre_consume_token_quota_failed quota_not_enough "
            "billing_hard_limit_reached billing_not_active"
        ),
        # "exceeded your current quota" is an empty account at OpenAI and a limit per minute at Google
        re.compile(
            r"insufficient[ _](user[ _])?quota|quota (is |has been )?(not enough|insufficient|exhausted|used up)"
            r"|not enough quota|exceeded your current quota(?!.*(per.?(minute|second|hour|day)|(retry|try again) in))"
            r"|billing hard limit|额度不足|额度已用|额度用尽|预扣费额度失败",
            re.DOTALL,
        ),
    ),
    Rule(
        _BALANCE,
        _codes("insufficient_balance insufficient_credits insufficient_funds payment_required credit_balance_too_low"),
        re.compile(
            r"insufficient (account )?(balance|credit|funds)|(balance|credits?) (is |are )?"
            r"(not enough|insufficient|too low|exhausted|used up)|not enough (balance|credit)|out of credit"
            r"|余额不足|欠费"
        ),
    ),
    Rule(
        Verdict(RowRejected, "content_policy", hint="the endpoint refuses this content; change the row's text"),
        _codes(
            "content_policy_violation content_policy content_filter prompt_blocked sensitive_words_detected "
            "responsibleaipolicyviolation moderation_blocked data_inspection_failed contentpolicyviolationerror"
        ),
        re.compile(
            r"guideline|content.{0,12}polic|usage polic|safety(?!_)|(?<!case.)sensitive|prompt_blocked"
            r"|inappropriate content|flagged (as|by|for)|敏感|违规|内容安全"
        ),
        frozenset({401, 402, 413, 429}),
    ),
    Rule(
        _UNAUTHORIZED,
        _codes("invalid_api_key authentication_error unauthenticated unauthorized token_expired no_db_connection"),
        re.compile(
            r"^invalid (signature|token)|token cannot be empty|(invalid|incorrect|expired) api.?key|api.?key not valid"
            r"|api.?key (is )?expired|无效的令牌|令牌已过期|令牌状态不可用|未提供令牌"
        ),
    ),
    Rule(
        _FORBIDDEN,
        _codes("permission_error permission_denied insufficient_permissions access_denied account_deactivated"),
        re.compile(r"user (has been|is) banned|用户已被(封禁|禁用)|无权(访问|使用)"),
    ),
    Rule(
        Verdict(RowRejected, "model_not_found", hint="check model.name; this key or group may not have it"),
        _codes("model_not_found"),
        re.compile(
            r"\bmodel\b.{0,120}(does not exist|not found|not exist)|invalid model name|no (available )?channel"
            r"|channel not found|无可用渠道|模型不存在",
            re.DOTALL,
        ),
        frozenset({403, 429}),
    ),
    Rule(
        Verdict(RowRejected, "context_length", hint="the row is longer than the model's context"),
        _codes("context_length_exceeded contextwindowexceedederror string_above_max_length"),
        re.compile(r"context.?window|context.?length|maximum context|prompt is too long|too many input tokens"),
        frozenset({401, 402, 403, 429}),
    ),
    Rule(
        Verdict(RowRejected, "too_large", hint="the row needs more tokens than the endpoint ever lets through"),
        phrases=re.compile(r"^request too large"),
    ),
    Rule(
        # Gemini behind a gateway, with 200 or 500: nothing came out; may be a silent policy block
        Verdict(TransientError, "no_candidates", Billed.MAYBE),
        phrases=re.compile(r"no candidates returned"),
    ),
    Rule(
        _LIMITED,
        _codes("rate_limit_exceeded rate_limit_error throttling_error too_many_requests resource_exhausted"),
        re.compile(r"rate.?limit|too many requests|请求数限制|请求过于频繁|频率"),
        frozenset({400, 401, 402, 403, 404, 413, 422}),
    ),
    Rule(
        _OVERLOADED,
        _codes("overloaded_error overloaded server_overloaded engine_overloaded"),
        re.compile(r"overloaded|saturated|server is busy|饱和|繁忙"),
        frozenset({400, 401, 402, 403, 404, 413, 422, 429}),
    ),
)
"""Asked in this order; the first that applies decides."""

INVALID = _codes(
    "invalid_request_error invalid_request bad_request_body convert_request_failed invalid_parameters "
    "invalid_argument badrequesterror"
)
"""Words of a request that stays wrong, believed where the status says nothing (200) or is known to lie (500)."""

STATUSES: dict[int, Verdict] = {
    400: BAD_REQUEST,
    401: _UNAUTHORIZED,
    402: _BALANCE,
    403: _FORBIDDEN,
    404: Verdict(RowRejected, "not_found", hint="check endpoint.base_url and model.name"),
    405: Verdict(RowRejected, "method_not_allowed", hint="check endpoint.base_url"),
    407: Verdict(RunBlocked, "proxy", hint="the proxy asks for a login"),
    408: Verdict(TransientError, "request_timeout", Billed.MAYBE),
    409: Verdict(TransientError, "conflict", Billed.MAYBE),
    413: Verdict(RowRejected, "too_large"),
    415: Verdict(RowRejected, "unsupported_media_type"),
    422: Verdict(RowRejected, "unprocessable"),
    425: Verdict(TransientError, "too_early"),
    429: _LIMITED,
    499: _GATEWAY_TIMEOUT,  # nginx: the client, here the gateway, hung up
    501: Verdict(RowRejected, "not_implemented"),
    502: Verdict(TransientError, "bad_gateway", Billed.MAYBE),
    503: _OVERLOADED,
    504: _GATEWAY_TIMEOUT,
    522: _GATEWAY_TIMEOUT,
    524: _GATEWAY_TIMEOUT,
    529: _OVERLOADED,
}

_TIMEOUT = (
    Verdict(TransientError, "timeout", Billed.MAYBE, "the work may be done and billed; see endpoint.timeout_s.total"),
    "no complete reply from {address} in time",
)
_CUT = Verdict(TransientError, "stream_cut", Billed.MAYBE)
STREAM_CUTS: dict[str, tuple[Verdict, str]] = {
    "ended": (_CUT, "the stream ended without a finish_reason"),
    "unreadable": (_CUT, "an event of the stream is no JSON"),
    "broken": (_CUT, "the stream broke off"),
    "stalled": (
        Verdict(TransientError, "stalled", Billed.MAYBE, "the work may be done and billed"),
        "the stream was silent for longer than endpoint.timeout_s.idle",
    ),
    "timeout": (_TIMEOUT[0], "the stream was not complete in time"),
}
"""How a stream may end before its answer is whole, and what it means where no word of the answer had come."""

_BAD_URL = (Verdict(RunBlocked, "bad_url", hint="check endpoint.base_url"), "{address} is no address to send to")
# Both carry status 400, which the library made up: nothing of the kind came from the server.
_BAD_HTTP = (
    Verdict(TransientError, "bad_http", Billed.MAYBE),
    "{address} answered with something that is not HTTP, or with headers beyond all bounds",
)
_TLS = (Verdict(TransientError, "tls"), "no TLS handshake with {address}")

EXCEPTIONS: dict[str, tuple[Verdict, str]] = {
    "ClientConnectorDNSError": (Verdict(TransientError, "dns"), "the name of {address} cannot be resolved"),
    "ClientConnectorCertificateError": (
        Verdict(RunBlocked, "certificate", hint="it is not accepted unverified; mend it or endpoint.base_url"),
        "the certificate of {address} is not valid for it",
    ),
    "ClientSSLError": _TLS,
    "ClientProxyConnectionError": (Verdict(TransientError, "proxy"), "the proxy cannot be reached"),
    "ClientHttpProxyError": (Verdict(TransientError, "proxy"), "the proxy did not open a way to {address}"),
    "ClientConnectorError": (Verdict(TransientError, "connect"), "no connection to {address}"),
    "ConnectionTimeoutError": (
        Verdict(TransientError, "connect_timeout"),
        "no connection to {address} in time (endpoint.timeout_s.connect)",
    ),
    "ServerTimeoutError": _TIMEOUT,
    "TimeoutError": _TIMEOUT,
    "ClientConnectionResetError": (
        Verdict(TransientError, "disconnected"),
        "the connection to {address} was closed before the request was out",
    ),
    "ServerDisconnectedError": (
        Verdict(TransientError, "disconnected", Billed.MAYBE),
        "{address} took the request and hung up without a reply",
    ),
    "ClientConnectionError": (
        Verdict(TransientError, "disconnected", Billed.MAYBE),
        "the connection to {address} broke before a reply",
    ),
    "OSError": (
        Verdict(TransientError, "disconnected", Billed.MAYBE),
        "the connection to {address} broke before a reply",
    ),
    "ClientResponseError": _BAD_HTTP,
    "HttpProcessingError": _BAD_HTTP,
    "InvalidURL": _BAD_URL,
    "NonHttpUrlClientError": _BAD_URL,
    "BaseException": (
        Verdict(TransientError, "client_fault", Billed.MAYBE),
        "the exchange with {address} failed in an unforeseen way",
    ),
}
"""By the name of the class, most derived first. Only what fails while connecting is surely not sent."""
