"""The failure catalogue against the real client: what each fault is called, what it may have cost, what was sent.

Ids are those of the catalogue: N network, H status and headers, B body. The client never sends anything twice, so every
case ends with exactly one whole POST at the server, or none when the fault came before. Every error of the matrix is
also searched for the key.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
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
from pipeline.records import STREAM_CUT, ApiCall, ApiReply, Billed
from tests.provider.fault_server import (
    OK_BODY,
    Script,
    Wire,
    bomb,
    chunk,
    drip,
    echo,
    fin,
    hang,
    http,
    raw,
    reply,
    serving,
    then_hang,
    then_reset,
)
from tests.provider.senders import CAP, KEY, client

CALL = ApiCall("POST", "/chat/completions", b'{"model":"m"}', b"")

pytestmark = pytest.mark.usefixtures("way")
STREAM_CALL = ApiCall("POST", "/chat/completions", b'{"model":"m","stream":true}', b"", stream=True)
NO, MAYBE, YES = Billed.NO, Billed.MAYBE, Billed.YES


async def outcome(send: Callable[[ApiCall], Awaitable[ApiReply]], call: ApiCall = CALL) -> ApiReply | ProviderError:
    """The error as a caller sees it. In a frame of its own, so that its traceback holds no local of a test."""
    try:
        return await send(call)
    except ProviderError as error:
        return error


def assert_hides_the_key(error: ProviderError) -> None:
    trace = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    seen = [str(error), repr(error), repr(vars(error)), repr(error.args), trace]
    assert error.__context__ is None
    assert error.__cause__ is None
    assert not [text for text in seen if KEY in text or KEY[3:] in text]


@dataclass(frozen=True)
class Case:
    ids: str
    script: Script
    route: type[ProviderError] | None  # None: a good reply
    kind: str = ""
    billed: Billed = NO
    over: dict[str, Any] = field(default_factory=dict)
    call: ApiCall = CALL
    cut: str | None = None  # of a good reply: why its stream is not whole

    def __str__(self) -> str:
        return f"{self.ids}-{self.kind or 'good'}"


def said(message: str, **rest: Any) -> bytes:
    extra = "".join(f',"{name}":"{value}"' for name, value in rest.items())
    return f'{{"error":{{"message":"{message}"{extra}}}}}'.encode()


def status(ids: str, code: int, route: type[ProviderError], kind: str, billed: Billed, body: bytes = b"") -> Case:
    return Case(ids, reply(code, body), route, kind, billed)


def paid(ids: str, body: bytes, kind: str) -> Case:
    return Case(ids, reply(200, body), AnswerUnusable, kind, YES)


def limited(ids: str, **headers: str) -> Case:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Case(ids, reply(429, said("slow down"), fields), RateLimited, "rate_limited", NO)


def event(*words: str, finish: str | None = None) -> bytes:
    """A piece of a stream for each word."""
    end = f'"{finish}"' if finish else "null"
    chunks = (f'data: {{"choices":[{{"delta":{{"content":"{word}"}},"finish_reason":{end}}}]}}\n\n' for word in words)
    return "".join(chunks).encode()


def streams(data: bytes, *, ends: bool = True) -> bytes:
    """A 200 in chunks; without its end the connection is what ends it."""
    return http(chunk(data) + (chunk(b"") if ends else b""), "Transfer-Encoding: chunked")


def slowly(*pieces: bytes, every_s: float, first_s: float = 0) -> Script:
    """The pieces of a stream, with a wait before each."""

    async def script(wire: Wire) -> None:
        await wire.send(http(b"", "Transfer-Encoding: chunked"))
        for place, piece in enumerate(pieces):
            await asyncio.sleep(every_s if place else first_s)
            await wire.send(chunk(piece))
        await wire.closing.wait()

    return script


def streamed(
    ids: str, script: Script, route: type[ProviderError] | None, kind: str = "", billed: Billed = NO, **more: Any
) -> Case:
    return Case(ids, script, route, kind, billed, call=STREAM_CALL, **more)


WORDS = event("posi", "tive")
PING = b": PING\n\n"
DONE = b"data: [DONE]\n\n"
STALL = {"idle_s": 0.25}

PACKED = gzip.compress(OK_BODY)
HTML = b"<!doctype html><html><head><title>Attention required</title></head></html>"
SHORT = {"total_s": 0.25}

CASES = [
    Case("N05", then_reset(b""), TransientError, "disconnected", MAYBE),
    Case("N05", fin, TransientError, "disconnected", MAYBE),
    Case("N08", then_reset(http(OK_BODY[:60], length=len(OK_BODY))), AnswerUnusable, "truncated_body", YES),
    Case("N08", raw(http(OK_BODY[:60], length=len(OK_BODY))), AnswerUnusable, "truncated_body", YES),
    Case("N08", raw(http(chunk(OK_BODY[:60]), "Transfer-Encoding: chunked")), AnswerUnusable, "truncated_body", YES),
    Case("N17", raw(http(b"zz\r\n{", "Transfer-Encoding: chunked")), TransientError, "bad_http", MAYBE),
    Case("N09", raw(http(OK_BODY[:60])), AnswerUnusable, "bad_json", YES),
    Case("N09", raw(http(OK_BODY)), None),
    Case(
        "N10",
        raw(http(PACKED[:90], "Content-Encoding: gzip", length=90)),
        AnswerUnusable,
        "bad_json",
        YES,
    ),
    Case("N10", raw(http(b"no gzip", "Content-Encoding: gzip", length=7)), AnswerUnusable, "truncated_body", YES),
    Case("N10", raw(http(PACKED, "Content-Encoding: gzip", length=len(PACKED))), None),
    Case("N11", drip(http(OK_BODY, length=len(OK_BODY)), 0.02), TransientError, "timeout", MAYBE, SHORT),
    Case("N11 N12", then_hang(http(OK_BODY[:60], length=len(OK_BODY))), TransientError, "timeout", MAYBE, SHORT),
    Case("N12", then_hang(b"HTTP/1.1 429 Slow\r\nContent-Length: 9\r\n\r\n"), RateLimited, "rate_limited", NO, SHORT),
    Case("N12 N13", hang, TransientError, "timeout", MAYBE, SHORT),
    Case("N17", raw(b"\x16\x03\x01 garbage\r\n\r\n"), TransientError, "bad_http", MAYBE),
    Case("N17", raw(b"HTTP/1.1 200 OK\r\nX-Big: " + b"x" * 9_000 + b"\r\n\r\n"), TransientError, "bad_http", MAYBE),
    Case("N17", raw(b"HTTP/1.1 abc\r\n\r\n"), TransientError, "bad_http", MAYBE),
    limited("H01", Retry_After="7"),
    limited("H02", Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    limited("H03"),
    *(limited("H03", Retry_After=bad) for bad in ("", "soon", "-3", "nan", "inf")),
    limited("H04", Retry_After="1000000000"),
    limited("H05", retry_after_ms="250", Retry_After="9"),
    Case("H05", reply(503, b"", {"x-should-retry": "false"}), RowRejected, "overloaded", NO),
    Case("H06", reply(200, OK_BODY, {"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "-10"}), None),
    status("H07", 429, RunBlocked, "quota", NO, said("x", code="insufficient_quota")),
    status("H07", 429, RateLimited, "rate_limited", NO, said("当前分组上游负载已饱和")),
    status("H08", 408, TransientError, "request_timeout", MAYBE),
    status("H08", 409, TransientError, "conflict", MAYBE),
    status("H08", 425, TransientError, "too_early", NO),
    status("H09", 500, TransientError, "server_error", MAYBE),
    status("H09", 502, TransientError, "bad_gateway", MAYBE, HTML),
    status("H09", 504, TransientError, "gateway_timeout", MAYBE, HTML),
    *(status("H09", code, TransientError, "server_error", MAYBE, HTML) for code in (520, 521, 523)),
    *(status("H09", code, TransientError, "gateway_timeout", MAYBE, HTML) for code in (522, 524)),
    status("H10", 503, Overloaded, "overloaded", NO, said("busy")),
    status("H10", 529, Overloaded, "overloaded", NO),
    status("H10", 503, RowRejected, "content_policy", NO, said("may not meet the guidelines", type="503")),
    status("H11", 400, RowRejected, "bad_request", NO, said("bad")),
    status("H11", 404, RowRejected, "not_found", NO, b"404 page not found"),
    status("H11", 413, RowRejected, "too_large", NO, HTML),
    status("H11", 422, RowRejected, "unprocessable", NO, b'{"detail":[{"msg":"field required"}]}'),
    status("H12", 401, RunBlocked, "unauthorized", NO, said("Invalid signature", type="401")),
    status("H12", 402, RunBlocked, "balance", NO),
    status("H12", 403, RunBlocked, "balance", NO, said("Insufficient balance", type="403")),
    status("H12", 403, RunBlocked, "forbidden", NO),
    status("H14", 204, AnswerUnusable, "unexpected_status", YES),
    status("H14", 206, AnswerUnusable, "unexpected_status", YES, OK_BODY[:50]),
    Case("H14", raw(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"), AnswerUnusable, "unexpected_status", YES),
    Case("H14", raw(b"HTTP/1.1 103 Early Hints\r\n\r\n"), TransientError, "disconnected", MAYBE),
    Case("H14", raw(b"HTTP/1.1 103 Early Hints\r\n\r\n" + http(OK_BODY)), None),
    status("H15", 200, RateLimited, "rate_limited", NO, said("x", type="429")),
    status("H15", 200, RunBlocked, "unauthorized", NO, b'{"code":401,"message":"Token cannot be empty"}'),
    status("H15", 200, TransientError, "server_error", MAYBE, b'{"error":"something broke"}'),
    status("H15", 200, TransientError, "no_candidates", MAYBE, said("No candidates returned", code="500")),
    *(Case("H16", reply(200, OK_BODY, {"Content-Type": t}), None) for t in ("text/html", "", "x; charset=klingon")),
    Case("H16", raw(http(OK_BODY)), None),
    status("B01", 200, TransientError, "html_reply", MAYBE, HTML),
    status("B01", 200, TransientError, "text_reply", MAYBE, b"upstream request timeout"),
    paid("B02", b'{"a":"' + b"x" * CAP + b'"}', "body_too_big"),
    Case("B02", reply(429, b"x" * CAP * 3), RateLimited, "rate_limited", NO),
    Case("B03", raw(bomb(CAP * 500)), AnswerUnusable, "body_too_big", YES),
    paid("B04", OK_BODY[:-20], "bad_json"),
    paid("B04", OK_BODY + b"trailing", "bad_json"),
    paid("B04", b"", "empty_body"),
    *(paid("B04", body, "not_an_object") for body in (b"null", b"[]", b"17", b'"x"', b"true")),
    paid("B05", b'{"a":"\xff\xfe"}', "bad_json"),
    paid("B05", b"\xff\xfe\x00\x01", "not_json"),
    *(paid("B06", b'{"a":' + word + b"}", "bad_json") for word in (b"NaN", b"Infinity", b"-Infinity", b"1e999")),
    *(paid("B06", b'{"s":"\\ud800","a":' + word + b"}", "bad_json") for word in (b"NaN", b"1e999")),
    Case("B07", reply(200, b'{"choices":[{"message":{"content":"a\\ud800b"}}]}'), None),
    Case("B08", reply(200, b'{"choices":[{"message":{"content":"\\u0000' + b"x" * 50_000 + b'"}}]}'), None),
    paid("B09", b"[" * 2_000 + b"]" * 2_000, "bad_json"),
    paid("B09", b'{"\\ud800":' * 2_000 + b"1" + b"}" * 2_000, "bad_json"),
    paid("B09", b'{"a":' + b"9" * 5_000 + b"}", "bad_json"),
    paid("B09", b'{"s":"\\ud800","a":' + b"9" * 5_000 + b"}", "bad_json"),
    Case("B10", reply(200, b'{"choices":[],"choices":[{"message":{"content":"last"}}]}'), None),
    Case("B14", reply(200, b'{"choices":[1],"usage":{"prompt_tokens":"4","total_tokens":-1}}'), None),
    Case("B17", echo, RunBlocked, "unauthorized", NO),
    # S01 how a stream may end well
    streamed("S01", raw(streams(WORDS + event("", finish="stop") + DONE)), None),
    streamed("S01", raw(streams(WORDS + event("", finish="stop"))), None),
    streamed("S01", raw(streams(WORDS + DONE)), None),
    streamed("S01", raw(http(WORDS + DONE)), None),
    streamed("S01", then_hang(streams(WORDS + DONE, ends=False)), None),
    streamed("S01", then_reset(streams(WORDS + event("", finish="stop"), ends=False)), None),
    streamed("S01", then_hang(streams(WORDS + event("", finish="stop"), ends=False)), None, over=STALL),
    # S02 an end in good order, and nothing that says that it is one
    streamed("S02", raw(streams(WORDS)), None, cut="without a finish_reason"),
    streamed("S02", raw(streams(WORDS + b'data: {"choices":[{"del')), None, cut="without a finish_reason"),
    streamed("S02", raw(streams(PING + event(""))), TransientError, "stream_cut", MAYBE),
    streamed("S02", raw(http(chunk(b""), "Transfer-Encoding: chunked")), TransientError, "stream_cut", MAYBE),
    # S03 the connection breaks
    streamed("S03", then_reset(streams(WORDS, ends=False)), None, cut="broke off"),
    streamed("S03", raw(streams(WORDS, ends=False)), None, cut="broke off"),
    streamed("S03", raw(http(WORDS, length=len(WORDS) + 9)), None, cut="broke off"),
    streamed("S03", then_reset(streams(PING, ends=False)), TransientError, "stream_cut", MAYBE),
    streamed("S03", then_reset(http(b"", "Transfer-Encoding: chunked")), TransientError, "stream_cut", MAYBE),
    streamed("S03", fin, TransientError, "disconnected", MAYBE),
    # S04 silence between two pieces
    streamed("S04", then_hang(streams(WORDS, ends=False)), None, over=STALL, cut="timeout_s.idle"),
    streamed("S04", then_hang(streams(PING, ends=False)), TransientError, "stalled", MAYBE, over=STALL),
    # S05 the whole takes too long
    streamed("S05", slowly(WORDS, *[PING] * 99, every_s=0.05), None, over=SHORT, cut="timeout_s.total"),
    streamed("S05", slowly(*[PING] * 99, every_s=0.05), TransientError, "timeout", MAYBE, over=SHORT),
    streamed("S05", hang, TransientError, "timeout", MAYBE, over=SHORT),
    # S06 an error inside
    streamed("S06", raw(streams(b"data: " + said("x", code="429"))), RateLimited, "rate_limited", NO),
    streamed("S06", raw(streams(WORDS + b"data: " + said("x", code="503"))), Overloaded, "overloaded", MAYBE),
    streamed("S06", raw(streams(WORDS + b"data: " + said("upstream died"))), TransientError, "server_error", MAYBE),
    streamed("S06", then_hang(streams(b"data: " + said("Insufficient balance") + b"\n\n")), RunBlocked, "balance", NO),
    streamed("S06", raw(streams(b"data: " + said("x", type="content_filter"))), RowRejected, "content_policy", NO),
    streamed("S06", raw(streams(b"event: error\ndata: overloaded\n\n")), Overloaded, "overloaded", NO),
    # S07 no stream, although one was asked for
    streamed("S07", reply(), None),
    streamed("S07", reply(200, OK_BODY[:60]), AnswerUnusable, "bad_json", YES),
    streamed("S07", raw(http(OK_BODY[:60], length=len(OK_BODY))), AnswerUnusable, "truncated_body", YES),
    streamed("S07", reply(200, HTML), TransientError, "html_reply", MAYBE),
    streamed("S07", reply(503, said("busy")), Overloaded, "overloaded", NO),
    streamed("S07", reply(400, said("no stream here")), RowRejected, "bad_request", NO),
    # S08 too much
    streamed("S08", raw(streams(event("x" * 500) * (CAP // 500))), AnswerUnusable, "body_too_big", YES),
    streamed("S08", raw(bomb(CAP * 500)), AnswerUnusable, "body_too_big", YES),
    # S09 a hole
    streamed("S09", raw(streams(WORDS + b"data: {\n\n" + WORDS + DONE)), None, cut="no JSON"),
    streamed("S09", raw(streams(b"data: {\n\n" + WORDS + DONE)), TransientError, "stream_cut", MAYBE),
    # S10 a stream that nobody asked for
    Case("S10", raw(streams(WORDS + DONE)), AnswerUnusable, "stream_reply", YES),
    # S11 a sign of life, and the silence before the first one
    streamed("S11", slowly(*[PING] * 20, WORDS + DONE, every_s=0.05), None, over={"idle_s": 0.75}),
    streamed("S11", slowly(WORDS + DONE, every_s=0.05, first_s=0.4), None, over=STALL),
]


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.fault(*c.ids.split())) for c in CASES], ids=str)
async def test_a_fault_has_its_route_its_bill_and_one_request(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(case.script) as server, client(server.base_url, **case.over) as sender:
        got = await outcome(sender.send, case.call)
        posts = server.posts
    assert posts == 1
    if case.route is None:
        assert isinstance(got, ApiReply), got
        assert (case.cut or "") in got.json.get(STREAM_CUT, "")
        assert (STREAM_CUT in got.json) is (case.cut is not None)
        return
    assert isinstance(got, ProviderError), got
    assert (type(got), got.kind, got.billed) == (case.route, case.kind, case.billed), got
    assert got.latency_s is not None
    assert got.billed is not YES or got.raw is not None
    assert_hides_the_key(got)
    assert KEY not in caplog.text


async def failed(base_url: str, **over: Any) -> ProviderError:
    async with client(base_url, **over) as sender:
        got = await outcome(sender.send)
    assert isinstance(got, ProviderError), got
    assert_hides_the_key(got)
    return got


def shape(error: ProviderError) -> tuple[type[ProviderError], str, Billed]:
    return type(error), error.kind, error.billed


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[int, str], error: int | None = None) -> None:
    async def getaddrinfo(_: object, __: object, port: int, **___: object) -> list[Any]:
        if error is not None:
            raise socket.gaierror(error, "Name or service not known")
        return [(fam, socket.SOCK_STREAM, 6, "", (ip, port, 0, 0)[: 4 if ":" in ip else 2]) for fam, ip in addresses]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)


@pytest.mark.fault("N01")
@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_AGAIN, socket.EAI_FAIL])
async def test_a_name_that_cannot_be_resolved_is_named(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    resolving(monkeypatch, error=code)
    error = await failed("http://gateway.invalid/v1")
    assert shape(error) == (TransientError, "dns", NO)
    assert "http://gateway.invalid" in str(error)


@pytest.mark.fault("N02")
async def test_a_refused_connection_was_never_sent() -> None:
    port = closed_port()
    error = await failed(f"http://127.0.0.1:{port}/v1?secret=1")
    assert shape(error) == (TransientError, "connect", NO)
    assert f"http://127.0.0.1:{port} " in str(error)
    assert "secret" not in str(error)


@pytest.mark.fault("N03")
async def test_a_connection_that_nobody_takes_was_never_sent() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        waiting = [socket.socket() for _ in range(3)]  # fill the backlog: what comes later is dropped
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(address)
        error = await failed(f"http://127.0.0.1:{address[1]}", connect_s=0.2)
        for sock in waiting:
            sock.close()
    assert shape(error) == (TransientError, "connect_timeout", NO)


@pytest.fixture(scope="module")
def foreign_tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    path = tmp_path_factory.mktemp("tls") / "other.pem"
    path.write_text(OTHER_EXAMPLE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@pytest.mark.fault("N04")
async def test_a_certificate_that_does_not_verify_stops_the_run(foreign_tls: ssl.SSLContext) -> None:
    async with serving(reply(), tls=foreign_tls) as server:
        error = await failed(server.base_url)
        assert server.posts == 0
    assert shape(error) == (RunBlocked, "certificate", NO)
    assert "self-signed" in str(error)


@pytest.mark.fault("N04")
async def test_https_to_a_port_that_speaks_plain_text_stops_the_run() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as plain:
        error = await failed(f"https://127.0.0.1:{plain.sockets[0].getsockname()[1]}")
    assert shape(error) == (RunBlocked, "tls", NO)


@pytest.mark.fault("N04")
async def test_https_to_a_port_that_waits_looks_like_a_slow_connect_and_says_so() -> None:
    async with serving(reply()) as server:
        error = await failed(server.base_url.replace("http", "https"), connect_s=0.2)
        assert server.posts == 0
    assert shape(error) == (TransientError, "connect_timeout", NO)
    assert "TLS?" in str(error)


@pytest.mark.fault("N06")
async def test_a_reused_connection_that_hangs_up_may_have_cost_something() -> None:
    async with serving(reply(keep=True), fin) as server, client(server.base_url) as sender:
        assert isinstance(await outcome(sender.send), ApiReply)
        error = await outcome(sender.send)
        assert (server.posts, server.peak) == (2, 1)  # one per call: nothing is sent again behind our back
    assert isinstance(error, ProviderError)
    assert shape(error) == (TransientError, "disconnected", MAYBE)
    assert_hides_the_key(error)


@pytest.mark.fault("N07")
@pytest.mark.parametrize(
    "raised",
    [
        aiohttp.ClientOSError(32, f"Can not write request body for http://host/?key={KEY}"),
        aiohttp.ClientConnectionResetError("Cannot write to closing transport"),
    ],
)
def test_a_request_that_could_not_be_written_was_not_sent(raised: Exception) -> None:
    error = faults.from_exception(raised, address="http://host")
    assert shape(error) == (TransientError, "disconnected", NO)
    assert_hides_the_key(error)


@pytest.mark.fault("N14")
async def test_waiting_for_a_place_does_not_count_into_the_time_out() -> None:
    async def slow(wire: Wire) -> None:
        await asyncio.sleep(0.6)
        await reply()(wire)

    async with serving(slow) as server, client(server.base_url, concurrency=1, total_s=1) as sender:
        got = await asyncio.gather(*(outcome(sender.send) for _ in range(2)))
    assert [type(each) for each in got] == [ApiReply, ApiReply]


@pytest.mark.fault("N15")
async def test_the_pool_is_as_wide_as_the_concurrency() -> None:
    all_there = asyncio.Barrier(150)  # more than the library's own limit of 100

    async def meet(wire: Wire) -> None:
        await all_there.wait()
        await reply()(wire)

    async with serving(meet) as server, client(server.base_url, concurrency=150) as sender:
        got = await asyncio.gather(*(outcome(sender.send) for _ in range(150)))
    assert all(isinstance(each, ApiReply) for each in got)


@pytest.mark.fault("N16")
async def test_the_environment_gives_neither_proxy_nor_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    async with serving(reply()) as server, client(server.base_url) as sender:
        assert isinstance(await outcome(sender.send), ApiReply)
        assert f"Authorization: Bearer {KEY}".encode() in server.heads[0]


@pytest.mark.fault("N16")
async def test_a_proxy_is_used_when_it_is_asked_for() -> None:
    async with serving(reply()) as proxy:
        async with client("http://gateway.invalid/v1", proxy=f"http://127.0.0.1:{proxy.port}") as sender:
            assert isinstance(await outcome(sender.send), ApiReply)
        assert proxy.heads[0].startswith(b"POST http://gateway.invalid/v1/chat/completions ")
    error = await failed("http://gateway.invalid/v1", proxy=f"http://127.0.0.1:{closed_port()}")
    assert shape(error) == (TransientError, "proxy", NO)


@pytest.mark.fault("N18")
async def test_a_dead_ipv6_address_does_not_keep_us_from_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(reply()) as server:
        resolving(monkeypatch, (socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
        async with client(f"http://gateway.example:{server.port}") as sender:
            assert isinstance(await outcome(sender.send), ApiReply)


@pytest.mark.fault("H13")
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_stops_the_run(code: int) -> None:
    async with serving(reply()) as other, serving(reply(code, b"", {"Location": other.base_url})) as server:
        error = await failed(server.base_url)
        assert (server.posts, other.posts) == (1, 0)
    assert shape(error) == (RunBlocked, "redirect", NO)
    assert other.base_url in str(error)


@pytest.mark.fault("H01", "H02", "H03", "H04", "H05")
@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "1000000000"}, 1e9),
        ({"Retry-After": "9", "Retry-After-Ms": "250"}, 0.25),
        ({"LLM_Provider-Retry-After": "60"}, 60),
    ],
)
async def test_the_wait_asked_for_travels_with_the_error(headers: dict[str, str], wait: float | None) -> None:
    async with serving(reply(429, b"", headers)) as server:
        error = await failed(server.base_url, wall_clock=lambda: 1_700_000_000.0)
    assert error.retry_after_s == wait


@pytest.mark.fault("B03")
async def test_the_bomb_was_small_on_the_wire_so_the_cap_counts_what_it_unpacks_to() -> None:
    assert len(bomb(CAP * 500)) < CAP


@pytest.mark.fault("B07", "B08", "B10")
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"choices":[{"message":{"content":"a\\ud800b\\ud83d\\ude00"}}]}', "a\ufffdb😀"),
        (b'\xef\xbb\xbf{"choices":[{"message":{"content":"bom"}}]}', "bom"),
        (b'{"choices":[{"message":{"content":"\\u0000\\u001b[0m"}}]}', "\0\x1b[0m"),
        (b'{"choices":[],"choices":[{"message":{"content":"last"}}]}', "last"),
    ],
)
async def test_a_paid_answer_survives_odd_but_readable_json(body: bytes, text: str) -> None:
    async with serving(reply(200, body)) as server, client(server.base_url) as sender:
        got = await outcome(sender.send)
    assert isinstance(got, ApiReply)
    assert got.json["choices"][0]["message"]["content"] == text


@pytest.mark.fault("B17")
async def test_an_echoed_key_reaches_no_error_and_no_answer() -> None:
    body = OK_BODY.replace(b"positive", f"you sent {KEY}".encode())
    async with (
        serving(echo, reply(200, body, {"X-Request-Id": KEY}), reply(200, b"<p>" + KEY.encode())) as server,
        client(server.base_url) as sender,
    ):
        got = [await outcome(sender.send) for _ in range(3)]
    assert not [each for each in got if KEY in repr(each) or KEY in repr(getattr(each, "__dict__", ""))]
    assert isinstance(got[1], ApiReply)
    assert b"you sent [key]" in got[1].body


@pytest.mark.fault("B17")
async def test_a_key_that_looks_like_none_is_hidden_even_when_it_is_escaped() -> None:
    key = "Winter.is/coming!2026"
    escaped = "".join(f"\\u{ord(c):04x}" for c in key)
    async with serving(reply(401, said(f"who is {escaped}"))) as server, client(server.base_url, key=key) as sender:
        error = await outcome(sender.send)
    assert isinstance(error, RunBlocked)
    assert "who is [key]" in str(error)


STARTS = st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 503 X\r\n\r\n", http(b""), http(b"{", length=9)])
HEADERS = st.sampled_from([b"", b"Content-Encoding: gzip\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n", b"\r\n"])


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(STARTS, HEADERS, st.binary(max_size=200), st.sampled_from([CALL, STREAM_CALL]))
def test_any_bytes_at_all_are_a_reply_or_a_provider_error(
    start: bytes, headers: bytes, rest: bytes, call: ApiCall
) -> None:
    async def once() -> ApiReply | ProviderError:
        async with serving(raw(start + headers + rest)) as server, client(server.base_url) as sender:
            return await outcome(sender.send, call)

    got = asyncio.run(once())
    if isinstance(got, ProviderError):
        assert_hides_the_key(got)


# Self-signed for another host, made for these tests; it opens nothing.
OTHER_EXAMPLE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgP2MuaMTr2tnFHY4h
tgkjq33lsbykpboX7SrbNKoRoOShRANCAATCrBHwR8+eYewEP1/OJrdJ5OZLADlC
x9K07Gk+n7eueB1jAXduD3to/HGNn/G3fw3f5nWQReNo/MecnDuVW6zA
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBoDCCAUegAwIBAgIUeA/Jaq4S6YQctPzdAA8h2frLyj4wCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNb3RoZXIuZXhhbXBsZTAgFw0yNjExMjMxOTM5MTdaGA8yMTI2
MTAzMDE5MzkxN1owGDEWMBQGA1UEAwwNb3RoZXIuZXhhbXBsZTBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABMKsEfBHz55h7AQ/X84mt0nk5ksAOULH0rTsaT6ft654
HWMBd24Pe2j8cY2f8bd/Dd/mdZBF42j8x5ycO5VbrMCjbTBrMB0GA1UdDgQWBBQr
TgZCFPpoG/Z1TZJnp9O0Mb6CpzAfBgNVHSMEGDAWgBQrTgZCFPpoG/Z1TZJnp9O0
Mb6CpzAPBgNVHRMBAf8EBTADAQH/MBgGA1UdEQQRMA+CDW90aGVyLmV4YW1wbGUw
CgYIKoZIzj0EAwIDRwAwRAIgSBk9rLCebiwggiC7Lfxk9uO01yoMtelX9KNiTgkS
PJcCICTln0yyr3z35gZjbzxs1GpbCfBQKO9Mf9iCoz1JLSYV
-----END CERTIFICATE-----
"""
