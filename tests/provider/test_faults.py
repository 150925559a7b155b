"""What each known error body means. Bodies are those that gateways publish or were seen to send."""

from __future__ import annotations

import json
import ssl
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import (
    AnswerUnusable,
    Overloaded,
    ProviderError,
    RateLimited,
    RowRejected,
    RunBlocked,
    TransientError,
)
from pipeline.provider import faults
from pipeline.records import Billed

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


def judge(status: int, body: Any, headers: dict[str, str] | None = None) -> ProviderError | None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        parsed, good = json.loads(raw), True
    except ValueError:
        parsed, good = None, False
    return faults.judge(status, headers or {}, raw, parsed, good, now=lambda: NOW)


def error(message: str = "", **rest: Any) -> dict[str, Any]:
    return {"error": {"message": message, **rest}}


def found(status: int, body: Any, headers: dict[str, str] | None = None) -> tuple[type[ProviderError], str, Billed]:
    judged = judge(status, body, headers)
    assert judged is not None
    return type(judged), judged.kind, judged.billed


NO, MAYBE, YES = Billed.NO, Billed.MAYBE, Billed.YES
SATURATED = "当前分组上游负载已饱和，请稍后再试 (request id: 20250101)"
GUIDELINES = "Your input may not meet the guidelines, please adjust and try again"
GOOGLE_QUOTA = "You exceeded your current quota. Please retry in 17.5s."

PUBLISHED = [
    # GPTProto's own table
    (401, error("Invalid signature", type="401"), RunBlocked, "unauthorized", NO),
    (403, error("Invalid Token", type="403"), RunBlocked, "unauthorized", NO),
    (403, error("Insufficient balance", type="403"), RunBlocked, "balance", NO),
    (503, error("Insufficient balance", type="503"), RunBlocked, "balance", NO),
    (500, error("Internal server error", type="500"), TransientError, "server_error", MAYBE),
    (503, error(GUIDELINES, type="503"), RowRejected, "content_policy", NO),
    (400, error(GUIDELINES, type="400"), RowRejected, "content_policy", NO),
    (404, error("operation not found"), RowRejected, "not_found", NO),
    (429, error("too many requests"), RateLimited, "rate_limited", NO),
    # its other shapes
    (401, error("bad", type="invalid_request_error", code="invalid_api_key"), RunBlocked, "unauthorized", NO),
    (403, error("no", type="permission_error", code="insufficient_permissions"), RunBlocked, "forbidden", NO),
    (429, error("slow", type="rate_limit_error", code="rate_limit_exceeded"), RateLimited, "rate_limited", NO),
    (400, error("bad", type="invalid_request_error", code="invalid_parameters"), RowRejected, "bad_request", NO),
    (401, {"code": 401, "message": "Token cannot be empty", "type": "error"}, RunBlocked, "unauthorized", NO),
    (200, {"code": 401, "message": "Token cannot be empty", "type": "error"}, RunBlocked, "unauthorized", NO),
    (401, error("bad", code=401), RunBlocked, "unauthorized", NO),
    (429, error("upstream provider error or channel unavailable", code=429), RateLimited, "rate_limited", NO),
    (200, {"code": "error", "data": None, "message": "task failed"}, TransientError, "server_error", MAYBE),
    # the gateway family
    (401, error("该令牌额度已用尽 (request id: 1)", type="new_api_error"), RunBlocked, "quota", NO),
    (401, error("无效的令牌", type="new_api_error", code=""), RunBlocked, "unauthorized", NO),
    (403, error("x", type="new_api_error", code="insufficient_user_quota"), RunBlocked, "quota", NO),
    (429, error("x", type="new_api_error", code="insufficient_user_quota"), RunBlocked, "quota", NO),
    (403, error("预扣费额度失败, 用户剩余额度: 0.1", code=None), RunBlocked, "quota", NO),
    (403, error("x", code="pre_consume_token_quota_failed"), RunBlocked, "quota", NO),
    (500, error("x", code="quota_not_enough"), RunBlocked, "quota", NO),
    (403, error("用户已被封禁"), RunBlocked, "forbidden", NO),
    (400, error("x", code="sensitive_words_detected"), RowRejected, "content_policy", NO),
    (503, error("x", code="prompt_blocked"), RowRejected, "content_policy", NO),
    (500, error("用户敏感词检测失败: 敏感词"), RowRejected, "content_policy", NO),
    (503, error("当前分组 default 下对于模型 gpt-9 无可用渠道"), RowRejected, "model_not_found", NO),
    (503, error("No available channel for model gpt-9", code="x"), RowRejected, "model_not_found", NO),
    (404, error("x", code="model_not_found"), RowRejected, "model_not_found", NO),
    (404, error("Invalid URL (POST /v1/chat/completion)"), RowRejected, "not_found", NO),
    (413, error("x", code="read_request_body_failed"), RowRejected, "too_large", NO),
    (500, error("x", code="bad_request_body"), RowRejected, "bad_request", NO),
    (500, error("x", type="new_api_panic"), TransientError, "server_error", MAYBE),
    (500, error("x", code="do_request_failed", type=None), TransientError, "server_error", MAYBE),
    (502, error("", code="bad_response_status_code", param=502), TransientError, "bad_gateway", MAYBE),
    (429, error(SATURATED, type="requests", code="rate_limit_exceeded"), RateLimited, "rate_limited", NO),
    (500, error(SATURATED), Overloaded, "overloaded", NO),
    (429, error("您已达到请求数限制：1分钟内最多请求60次"), RateLimited, "rate_limited", NO),
    (429, b"", RateLimited, "rate_limited", NO),
    (200, error("No candidates returned", type="server_error", code=500), TransientError, "no_candidates", MAYBE),
    (500, error("x", code="429"), RateLimited, "rate_limited", NO),
    # seen at real servers
    (429, error("Rate limit exceeded", type="throttling_error", code="429"), RateLimited, "rate_limited", NO),
    (429, error("x", type="insufficient_quota", code="insufficient_quota"), RunBlocked, "quota", NO),
    (429, error("You exceeded your current quota, please check your plan"), RunBlocked, "quota", NO),
    (429, [error(GOOGLE_QUOTA, status="RESOURCE_EXHAUSTED", code=429)], RateLimited, "rate_limited", NO),
    (
        404,
        {"object": "error", "message": "The model `x` does not exist.", "code": 404},
        RowRejected,
        "model_not_found",
        NO,
    ),
    (404, error("The model `x` does not exist.", type="NotFoundError", code=404), RowRejected, "model_not_found", NO),
    (400, error("litellm.BadRequestError: Invalid model name passed in model=x"), RowRejected, "model_not_found", NO),
    (404, {"detail": "Not Found"}, RowRejected, "not_found", NO),
    (405, {"detail": "Method Not Allowed"}, RowRejected, "method_not_allowed", NO),
    (422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, RowRejected, "unprocessable", NO),
    (400, {"error": "text"}, RowRejected, "bad_request", NO),
    (200, {"error": "Rate limit reached"}, RateLimited, "rate_limited", NO),
    (200, {"error": "something"}, TransientError, "server_error", MAYBE),
    (400, {"error": {"error": {"message": "bad", "code": 400}}}, RowRejected, "bad_request", NO),
    (400, error("No connected db.", type="no_db_connection", code="400"), RunBlocked, "unauthorized", NO),
    (408, error("x", type="invalid_request_error"), TransientError, "request_timeout", MAYBE),
    (400, error("x", code="context_length_exceeded"), RowRejected, "context_length", NO),
    (400, error("litellm.ContextWindowExceededError: too long"), RowRejected, "context_length", NO),
    (400, error("x maximum context length is 2048", param="input_tokens"), RowRejected, "context_length", NO),
    (429, error("Request too large for gpt-4 on tokens per min", code="x"), RowRejected, "too_large", NO),
    (400, error("Your credit balance is too low to access the API"), RunBlocked, "balance", NO),
    (529, error("Overloaded", type="overloaded_error"), Overloaded, "overloaded", NO),
    (500, b"Internal Server Error", TransientError, "server_error", MAYBE),
    (413, b"<html><head><title>413 Request Entity Too Large</title></head></html>", RowRejected, "too_large", NO),
    (503, b"<html><title>503 guidelines and safety</title></html>", Overloaded, "overloaded", NO),
    (504, b"<html></html>", TransientError, "gateway_timeout", MAYBE),
    (524, b"<html></html>", TransientError, "gateway_timeout", MAYBE),
    (520, b"", TransientError, "server_error", MAYBE),
    (402, b"", RunBlocked, "balance", NO),
    (403, b"<html>who are you</html>", RunBlocked, "forbidden", NO),
    (407, b"", RunBlocked, "proxy", NO),
    (425, b"", TransientError, "too_early", NO),
    (409, b"", TransientError, "conflict", MAYBE),
    (418, b"", RowRejected, "bad_request", NO),
    (451, b"", RowRejected, "bad_request", NO),
]


@pytest.mark.parametrize(("status", "body", "route", "kind", "billed"), PUBLISHED)
def test_every_error_body_known_has_its_route(
    status: int, body: Any, route: type[ProviderError], kind: str, billed: Billed
) -> None:
    assert found(status, body) == (route, kind, billed)


GOOD = {"id": "1", "choices": [{"message": {"content": "yes"}}]}


@pytest.mark.parametrize(
    "body",
    [
        GOOD,
        {**GOOD, "error": None},
        {**GOOD, "error": ""},
        {**GOOD, "error": {}},
        {**GOOD, "error": {"code": 0, "message": ""}},
        {**GOOD, "code": 500, "message": "beside choices this means nothing"},
        {"code": 0, "message": "ok", "data": {}},
        {"code": 200, "message": "success", "data": {}},
        {"code": "success", "message": "", "data": "id"},
        {"choices": []},  # for the exchange to judge
    ],
)
def test_a_reply_without_an_error_is_good(body: Any) -> None:
    assert judge(200, body) is None


def test_an_error_inside_a_choice_is_an_error() -> None:
    body = {"choices": [{"message": {"content": ""}, "error": {"code": 502, "message": "upstream died"}}]}
    assert found(200, body) == (TransientError, "bad_gateway", MAYBE)


@pytest.mark.parametrize(
    ("message", "status"),
    [("Model names are case-sensitive", 400), ("safety_identifier is not known", 400), ("See our guidelines", 429)],
)
def test_policy_words_in_other_company_are_no_policy(message: str, status: int) -> None:
    assert found(status, error(message))[1] != "content_policy"


def test_words_far_back_in_a_message_are_a_quotation() -> None:
    assert found(400, error("bad value: " + "x" * 500 + " insufficient balance"))[1] == "bad_request"


@pytest.mark.parametrize("status", [401, 402])
def test_an_unauthorized_run_stops_whatever_the_words(status: int) -> None:
    assert found(status, error("content policy", code="content_filter"))[0] is RunBlocked


@pytest.mark.fault("H05")
@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_endpoint_that_forbids_a_retry_is_obeyed(status: int) -> None:
    assert found(status, b"", {"x-should-retry": "false"})[0] is RowRejected
    assert issubclass(found(status, b"", {"x-should-retry": "true"})[0], TransientError)


@pytest.mark.parametrize(
    ("body", "route", "kind"),
    [
        (b"", AnswerUnusable, "empty_body"),
        (b" \r\n", AnswerUnusable, "empty_body"),
        (b'{"choices":[{"mess', AnswerUnusable, "bad_json"),
        (b'{"a":1} trailing', AnswerUnusable, "bad_json"),
        (b"null", AnswerUnusable, "not_an_object"),
        (b"[]", AnswerUnusable, "not_an_object"),
        (b"17", AnswerUnusable, "not_an_object"),
        (b'"text"', AnswerUnusable, "not_an_object"),
        (b"\xff\xfe\x00garbage", AnswerUnusable, "not_json"),
        (b"data: {}\n\ndata: [DONE]\n\n", AnswerUnusable, "stream_reply"),
        (b"<!doctype html><title>Just a moment...</title>", TransientError, "html_reply"),
        (b"upstream connect error", TransientError, "text_reply"),
        ("ответ".encode() * 400, TransientError, "text_reply"),
    ],
)
def test_a_success_that_is_no_json_object(body: bytes, route: type[ProviderError], kind: str) -> None:
    judged = judge(200, body)
    assert (type(judged), judged and judged.kind) == (route, kind)
    assert judged is not None
    assert judged.billed is (YES if route is AnswerUnusable else MAYBE)
    assert judged.raw == body.decode("utf-8", "replace")[:2000]


@pytest.mark.parametrize("status", [100, 101, 204, 205, 206, 600, 999])
def test_a_status_that_is_no_answer_is_paid_for_and_unusable(status: int) -> None:
    assert found(status, GOOD) == (AnswerUnusable, "unexpected_status", YES)


@pytest.mark.parametrize("status", [300, 301, 302, 307, 308])
def test_a_redirect_stops_the_run_and_names_the_address_without_its_query(status: int) -> None:
    judged = judge(status, b"", {"location": "https://other.example/v1?token=secret"})
    assert isinstance(judged, RunBlocked)
    assert judged.kind == "redirect"
    assert "https://other.example/v1" in str(judged)
    assert "secret" not in str(judged)


def test_a_message_says_what_was_seen_and_what_to_do() -> None:
    judged = judge(403, error("Insufficient balance (request id: 123)", type="403"), {"x-oneapi-request-id": "r1"})
    assert str(judged) == (
        "HTTP 403: Insufficient balance; top up the account (or raise its limit), then run the same command again"
    )
    assert judged is not None
    assert (judged.status, judged.request_id) == (403, "r1")


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1000000000"}, 1e9),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7),
        ({"llm_provider-retry-after": "60"}, 60),
        ({"retry-after": "", "llm_provider-retry-after": "3"}, 3),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50"}, 30),
        ({"retry-after": "Tue, 14 Nov 2023 22:00:00 GMT"}, 0),
        ({"retry-after": "Tue, 14 Nov 2023 23:13:50 +0100"}, 30),
        *(
            ({"retry-after": bad}, None)
            for bad in ("", "soon", "-3", "nan", "inf", "1e9", "1_0", "٣", "0x1", "9" * 400)
        ),
        ({"retry-after": "Tue, 99 Nov 99999 22:13:50 GMT"}, None),
    ],
)
@pytest.mark.fault("H01", "H02", "H03", "H04", "H05")
def test_the_wait_an_endpoint_asks_for(headers: dict[str, str], wait: float | None) -> None:
    assert faults.retry_after(headers, lambda: NOW) == wait


@given(st.text())
def test_no_retry_after_raises_or_is_negative(value: str) -> None:
    wait = faults.retry_after({"retry-after": value}, lambda: NOW)
    assert wait is None or wait >= 0


@pytest.mark.parametrize(
    ("message", "wait"),
    [
        ("Please try again in 20s.", 20),
        ("Please try again in 250ms", 0.25),
        ("retry in 2 minutes", 120),
        ("soon", None),
    ],
)
def test_a_wait_named_only_in_the_words_is_read(message: str, wait: float | None) -> None:
    judged = judge(429, error(message))
    assert judged is not None
    assert judged.retry_after_s == wait


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\r\nb\tc", "a b c"),
        ("bad (request id: 2025x)", "bad"),
        ("坏（request id：2025x）", "坏"),
        ("Incorrect API key provided: sk-abc***wxyz.", "Incorrect API key provided: [key]"),
        ("got Bearer abcdef123", "got [key]"),
        ("\x1b[31mred\x1b[0m \x1b]0;title\x07\x00\x9b", "red"),
        ("a task-force took the disk-drive", "a task-force took the disk-drive"),
        ("\u202egnp.exe\ud800", "gnp.exe\ufffd"),
    ],
)
def test_what_is_shown_is_one_clean_line_without_keys(text: str, shown: str) -> None:
    assert faults.clean(text) == shown


def test_what_is_shown_is_capped() -> None:
    assert faults.clean("x" * 10_000_000, 10) == "x" * 9 + "…"


@given(st.integers(100, 999), st.binary(max_size=60), st.dictionaries(st.sampled_from(["retry-after"]), st.text()))
def test_any_bytes_with_any_status_are_a_good_reply_or_a_provider_error(
    status: int, body: bytes, headers: dict[str, str]
) -> None:
    judged = judge(status, body, headers)
    assert judged is None or isinstance(judged, ProviderError)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
NAMES = st.sampled_from(["error", "code", "message", "type", "status", "detail", "choices", "msg"])
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4))


@given(st.integers(200, 599), JSON)
def test_any_json_with_any_status_is_a_good_reply_or_a_provider_error(status: int, body: Any) -> None:
    judged = faults.judge(status, {}, b"{}", body, True, now=lambda: NOW)
    assert judged is None or isinstance(judged, ProviderError)


def test_an_unforeseen_exception_is_in_doubt_and_its_text_stays_out() -> None:
    error = faults.from_exception(RuntimeError("Authorization: Bearer abc"), address="https://host")
    assert (type(error), error.kind, error.billed) == (TransientError, "client_fault", MAYBE)
    assert "abc" not in str(error)


def test_a_tls_error_inside_a_reply_means_a_broken_reply() -> None:
    error = faults.from_exception(ssl.SSLError(1, "bad record mac"), address="https://host", status=200, body=b'{"a')
    assert (type(error), error.kind, error.billed, error.raw) == (AnswerUnusable, "truncated_body", YES, '{"a')


def test_a_broken_body_under_an_error_status_is_that_error() -> None:
    error = faults.from_exception(OSError(), address="https://host", status=429, headers={"retry-after": "3"})
    assert (type(error), error.retry_after_s) == (RateLimited, 3)
