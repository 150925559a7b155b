from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ProviderError, RateLimited, RunBlocked, SpecError, TransientError
from pipeline.provider._body import parse
from pipeline.records import ApiCall, ApiReply, Billed, Usage
from tests.provider.fault_server import OK_BODY, Wire, chunk, hang, http, reply, serving, then_hang
from tests.provider.senders import KEY, client

CALL = ApiCall("POST", "/chat/completions", b'{"model":"m"}', b"")

pytestmark = pytest.mark.usefixtures("way")


async def test_a_good_reply_brings_json_usage_latency_and_the_headers_that_matter() -> None:
    headers = {
        "X-Request-Id": "r1",
        "X-RateLimit-Remaining-Requests": "9",
        "x-ratelimit-api_key-remaining-tokens": "8",
        "anthropic-ratelimit-tokens-reset": "2026",
        "Retry-After": "1",
        "X-Simulator": "yes",
        "Server": "nginx",
        "Set-Cookie": "a=b",
    }
    ticks = itertools.count(step=0.25)
    async with (
        serving(reply(200, OK_BODY, headers)) as server,
        client(server.base_url, clock=lambda: next(ticks)) as sender,
    ):
        got = await sender.send(CALL)
    assert got == ApiReply(
        200,
        {
            "content-type": "application/json",
            "x-request-id": "r1",
            "x-ratelimit-remaining-requests": "9",
            "x-ratelimit-api_key-remaining-tokens": "8",
            "anthropic-ratelimit-tokens-reset": "2026",
            "retry-after": "1",
            "x-simulator": "yes",
        },
        OK_BODY,
        orjson.loads(OK_BODY),
        Usage(4, 1, 5),
        0.25,
    )


async def test_the_request_goes_out_as_it_should() -> None:
    bodies: list[bytes] = []

    async def keep(wire: Wire) -> None:
        bodies.append(wire.body)
        await reply()(wire)

    async with (
        serving(keep) as server,
        client(server.base_url + "/?api-version=1", headers={"X-Title": "t", "user-agent": "mine"}) as sender,
    ):
        await sender.send(CALL)
    lines = server.heads[0].decode().split("\r\n")
    assert lines[0] == "POST /v1/chat/completions?api-version=1 HTTP/1.1"
    assert {line.lower() for line in lines[1:-2]} == {
        f"host: 127.0.0.1:{server.port}",
        f"authorization: bearer {KEY}",
        "user-agent: mine",
        "accept: application/json",
        "accept-encoding: identity",
        "content-type: application/json",
        "content-length: 13",
        "x-title: t",
    }
    assert bodies == [CALL.body]


@pytest.mark.parametrize("size", [1 << 19, (1 << 19) + 1, 5_000_000])
async def test_a_large_body_goes_out_whole_with_its_length_told_and_without_a_warning(size: int) -> None:
    """Above 1 MB the library warns of bytes that are sent at once; a picture is larger than that."""
    bodies: list[bytes] = []

    async def keep(wire: Wire) -> None:
        bodies.append(wire.body)
        await reply()(wire)

    body = b'"' + b"x" * (size - 2) + b'"'
    async with serving(keep) as server, client(server.base_url) as sender:
        for _ in range(2):
            await sender.send(ApiCall("POST", "/chat/completions", body))
    assert bodies == [body, body]
    assert f"content-length: {size}".encode() in server.heads[0].lower()
    assert b"content-type: application/json\r\n" in server.heads[0].lower()


async def test_without_a_key_no_authorization_is_sent() -> None:
    async with serving(reply()) as server, client(server.base_url, key=None) as sender:
        await sender.send(CALL)
    assert b"authorization" not in server.heads[0].lower()


async def test_a_cookie_is_not_sent_back() -> None:
    # by name: for a bare address no cookie jar keeps any
    async with (
        serving(reply(headers={"Set-Cookie": "a=b"})) as server,
        client(server.base_url.replace("127.0.0.1", "localhost")) as sender,
    ):
        await sender.send(CALL)
        await sender.send(CALL)
    assert b"cookie" not in server.heads[1].lower()


async def test_calls_share_a_connection_that_both_sides_keep() -> None:
    async with serving(reply(keep=True)) as server, client(server.base_url) as sender:
        for _ in range(5):
            await sender.send(CALL)
        assert (server.posts, server.peak, server.open) == (5, 1, 1)


async def test_tokens_of_a_bad_reply_are_counted_and_make_it_paid() -> None:
    body = b'{"error":{"message":"x"},"usage":{"prompt_tokens":7,"completion_tokens":0}}'
    async with serving(reply(429, body)) as server, client(server.base_url) as sender:
        with pytest.raises(RateLimited) as caught:
            await sender.send(CALL)
    assert (caught.value.usage, caught.value.billed) == (Usage(7, 0), Billed.YES)


async def test_a_bad_reply_with_zeroed_usage_stays_free() -> None:
    body = b'{"error":{"message":"x"},"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}'
    async with serving(reply(429, body)) as server, client(server.base_url) as sender:
        with pytest.raises(RateLimited) as caught:
            await sender.send(CALL)
    assert caught.value.billed is Billed.NO


async def test_a_cancelled_call_is_cancelled_and_gives_its_place_back() -> None:
    async with serving(hang, reply()) as server, client(server.base_url, concurrency=1) as sender:
        task = asyncio.create_task(sender.send(CALL))
        while not server.posts:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await sender.send(CALL)).status == 200


async def test_sending_outside_of_its_context_is_a_fault_of_ours() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await client().send(CALL)


async def test_an_address_that_cannot_be_is_no_fault_of_a_row() -> None:
    async with client("http://127.0.0.1:99999/v1") as sender:
        with pytest.raises(RunBlocked) as caught:
            await sender.send(CALL)
    assert caught.value.kind == "bad_url"


async def test_more_header_names_than_are_remembered_change_nothing() -> None:
    odd = [{f"X-{turn}-{n}": "1" for n in range(60)} | {"X-Request-Id": str(turn)} for turn in range(8)]
    scripts = [reply(200, OK_BODY, headers) for headers in odd]
    async with serving(*scripts) as server, client(server.base_url) as sender:
        seen = [(await sender.send(CALL)).headers["x-request-id"] for _ in odd]
    assert seen == [str(turn) for turn in range(8)]
    assert len(sender._incoming._names) <= 256


@pytest.mark.parametrize("key", [f" {KEY}\n", f"\t{KEY}"])
async def test_blanks_around_a_key_are_not_part_of_it(key: str) -> None:
    async with serving(reply()) as server, client(server.base_url, key=key) as sender:
        await sender.send(CALL)
    assert f"Authorization: Bearer {KEY}\r\n".encode() in server.heads[0]


@pytest.mark.parametrize("key", ["", " \n", "two words", "li\nne", "nul\0", "ключ", "esc\x1b", "\ud800"])
def test_a_key_that_cannot_be_one_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(SpecError) as caught:
        client(key=key)
    assert not key.strip() or key.strip() not in str(caught.value)


@pytest.mark.parametrize("headers", [{"X Y": "1"}, {"": "1"}, {"X": "secret\r\nY: 1"}, {"X": "secret\ud800"}])
def test_a_header_that_cannot_be_one_is_refused_and_its_value_not_shown(headers: dict[str, str]) -> None:
    with pytest.raises(SpecError) as caught:
        client(headers=headers)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("base_url", ["gptproto.com/v1", "ftp://host/v1", "https:///v1", "http://u:secret@host/v1", ""])
def test_an_address_that_is_none_is_refused(base_url: str) -> None:
    with pytest.raises(SpecError) as caught:
        client(base_url)
    assert "secret" not in str(caught.value)


async def test_a_secret_among_the_headers_of_the_spec_is_hidden_like_the_key() -> None:
    secret = "another-secret-value"
    body = b'{"error":{"message":"who is another-secret-value"}}'
    async with (
        serving(reply(500, body)) as server,
        client(server.base_url, key=None, headers={"x-api-key": secret}) as sender,
    ):
        with pytest.raises(TransientError) as caught:
            await sender.send(CALL)
    assert "who is [key]" in str(caught.value)


async def test_a_placeholder_key_is_a_word_and_stays_in_answers() -> None:
    body = OK_BODY.replace(b"positive", b"EMPTY")
    async with serving(reply(200, body)) as server, client(server.base_url, key="EMPTY") as sender:
        assert (await sender.send(CALL)).body == body


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(VALUES)
def test_json_of_any_writer_is_read_and_no_lone_surrogate_comes_out(value: Any) -> None:
    for ascii_only in (True, False):
        text = json.dumps(value, ensure_ascii=ascii_only)
        body = text.encode("utf-8", "surrogatepass")
        read, parsed = parse(body)
        if parsed:
            orjson.dumps(read)
        else:
            assert not ascii_only  # only raw surrogate bytes, which are not UTF-8, may fail
            assert any("\ud800" <= char <= "\udfff" for char in text)


@given(st.binary() | st.text().map(lambda text: b'{"\\ud800":' + text.encode("utf-8", "replace")))
def test_no_body_makes_the_parser_raise(body: bytes) -> None:
    value, parsed = parse(body)
    assert parsed or value is None


STREAM_CALL = ApiCall("POST", "/chat/completions", b'{"model":"m","stream":true}', b"", stream=True)


def streamed(data: bytes, *, keep: bool = True) -> Any:
    """A stream in chunks, each event in one of its own."""

    async def script(wire: Wire) -> None:
        wire.keep = keep
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in data.split(b"\n\n"):
            if event:
                await wire.send(chunk(event + b"\n\n"))
        await asyncio.sleep(0.05)  # the last event is read by now, and the end of the body is still to come
        await wire.send(chunk(b""))

    return script


EVENTS = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":'
    b'{"role":"assistant","content":"posi"},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"content":"tive"},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":1,"total_tokens":5}}\n\n'
    b"data: [DONE]\n\n"
)


async def test_a_stream_becomes_the_reply_that_would_have_come_whole() -> None:
    async with serving(streamed(EVENTS)) as server, client(server.base_url) as sender:
        got = await sender.send(STREAM_CALL)
    assert (got.json, got.usage, got.status) == (orjson.loads(OK_BODY), Usage(4, 1, 5), 200)
    assert orjson.loads(got.body) == got.json
    assert b"Accept: text/event-stream, application/json\r\n" in server.heads[0]


async def test_a_stream_that_trips_us_up_has_been_answered_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def trip(completion: object) -> bytes:
        raise ValueError("a fault of ours")

    monkeypatch.setattr("pipeline.provider.client.written", trip)
    async with serving(streamed(EVENTS)) as server, client(server.base_url) as sender:
        with pytest.raises(ProviderError) as caught:
            await sender.send(STREAM_CALL)
    assert (caught.value.status, caught.value.billed) == (200, Billed.YES)


async def test_the_specs_own_accept_header_goes_before_ours() -> None:
    async with (
        serving(streamed(EVENTS)) as server,
        client(server.base_url, headers={"accept": "text/event-stream"}) as sender,
    ):
        await sender.send(STREAM_CALL)
    assert server.heads[0].lower().count(b"accept: text/event-stream\r\n") == 1


async def test_streams_share_a_connection_that_both_sides_keep() -> None:
    async with serving(streamed(EVENTS)) as server, client(server.base_url) as sender:
        for _ in range(5):
            await sender.send(STREAM_CALL)
        assert (server.posts, server.peak) == (5, 1)


async def test_a_key_that_is_echoed_in_pieces_reaches_no_answer() -> None:
    events = EVENTS.replace(b"posi", KEY[:9].encode()).replace(b"tive", KEY[9:].encode())
    async with serving(streamed(events)) as server, client(server.base_url) as sender:
        got = await sender.send(STREAM_CALL)
    assert KEY not in repr(got)
    assert got.json["choices"][0]["message"]["content"] == "[key]"


async def test_a_cancelled_stream_is_cancelled_and_gives_its_place_back() -> None:
    half = EVENTS.split(b"\n\n")[0] + b"\n\n"
    begun = then_hang(http(chunk(half), "Transfer-Encoding: chunked"))
    async with serving(begun, streamed(EVENTS)) as server, client(server.base_url, concurrency=1) as sender:
        task = asyncio.create_task(sender.send(STREAM_CALL))
        while not server.posts:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await sender.send(STREAM_CALL)).status == 200
