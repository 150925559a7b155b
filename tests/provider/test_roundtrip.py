"""The short way: what it sends, and which connections it gives back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from unittest.mock import AsyncMock, Mock, patch

import aiohttp
import orjson
import pytest
import uvloop
from aiohttp.client_proto import ResponseHandler

from pipeline.errors import ProviderError
from pipeline.provider import roundtrip
from pipeline.provider.client import Client
from pipeline.records import ApiCall
from tests.provider.fault_server import OK_BODY, Wire, http, reply, serving
from tests.provider.senders import client

CALL = ApiCall("POST", "/chat/completions", b'{"model":"m"}', b"")
OWN = OK_BODY.replace(b"positive", b"my own")


def pooled(sender: Client) -> list[aiohttp.client_proto.ResponseHandler]:
    assert sender._session is not None and sender._session.connector is not None
    return [protocol for kept in sender._session.connector._conns.values() for protocol, _ in kept]


def test_the_library_that_is_installed_is_one_that_the_short_way_was_tried_with() -> None:
    assert roundtrip.is_tried(), f"see whether these tests pass under aiohttp {aiohttp.__version__}, and say so there"


async def test_under_another_release_the_session_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiohttp, "__version__", "4.0.0")

    def never(*args: object) -> None:
        raise AssertionError("the short way was taken")

    monkeypatch.setattr("pipeline.provider.client.Target", never)
    async with serving(reply()) as server, client(server.base_url) as sender:
        assert (await sender.send(CALL)).body == OK_BODY


async def test_it_is_taken_and_a_proxy_a_stream_or_a_very_large_body_go_by_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short: list[int] = []

    class Counted(roundtrip.Target):
        def request(self, body: bytes) -> AbstractAsyncContextManager[roundtrip.Response]:
            short.append(len(body))
            return super().request(body)

    monkeypatch.setattr("pipeline.provider.client.Target", Counted)
    async with serving(reply(keep=True)) as server, client(server.base_url) as sender:
        for call in (CALL, CALL._replace(stream=True), CALL._replace(body=b'"%b"' % (b"x" * (1 << 19)))):
            await sender.send(call)
        assert (short, server.posts) == ([len(CALL.body)], 3)
        async with client("http://nowhere.invalid/v1", proxy=f"http://127.0.0.1:{server.port}") as sender:
            await sender.send(CALL)
        assert (short, server.posts) == ([len(CALL.body)], 4)


@pytest.mark.usefixtures("way")
async def test_what_came_unasked_is_the_reply_to_no_call() -> None:
    """A connection on which a reply too many came would answer every later row with the answer to the one before."""
    wires: list[Wire] = []

    async def first(wire: Wire) -> None:
        wires.append(wire)
        await reply(keep=True)(wire)

    async with serving(first, reply(200, OWN)) as server, client(server.base_url) as sender:
        assert (await sender.send(CALL)).body == OK_BODY
        (protocol,) = pooled(sender)
        await wires[0].send(http(OK_BODY, length=len(OK_BODY)))
        while not protocol.should_close:
            await asyncio.sleep(0)
        assert (await sender.send(CALL)).body == OWN


@pytest.mark.usefixtures("way")
async def test_two_replies_at_once_end_the_connection() -> None:
    async def twice(wire: Wire) -> None:
        wire.keep = True
        await wire.send(http(OK_BODY, length=len(OK_BODY)) * 2)

    async with serving(twice, reply(200, OWN)) as server, client(server.base_url) as sender:
        assert (await sender.send(CALL)).body == OK_BODY
        assert (await sender.send(CALL)).body == OWN


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "earlier", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 2]
)
async def test_what_is_said_before_the_reply_is_no_reply(earlier: bytes) -> None:
    async def script(wire: Wire) -> None:
        await wire.send(earlier)
        await reply(keep=True)(wire)

    async with serving(script) as server, client(server.base_url) as sender:
        for _ in range(2):
            got = await sender.send(CALL)
            assert (got.status, got.json) == (200, orjson.loads(OK_BODY))
        assert server.peak == 1


@pytest.mark.parametrize(
    ("unsent", "status", "large", "ended"),
    [
        (0, 413, False, "release"),
        (1, 413, False, "close"),
        (0, 413, True, "close"),
        (0, 200, True, "release"),
    ],
)
def test_a_reply_before_the_request_was_out_ends_the_connection(
    unsent: int, status: int, large: bool, ended: str
) -> None:
    """Else the rest of that request would stand before the next one. The system's buffers take more than the largest
    body of the short way, so no real connection can be brought to it here."""
    connection = Mock()
    connection.transport.get_write_buffer_size.return_value = unsent
    roundtrip.Response(connection, status, {}, Mock(), large).release()
    assert [call[0] for call in connection.method_calls if call[0] in ("release", "close")] == [ended]


async def test_a_call_that_is_cut_off_leaves_no_connection_to_the_next() -> None:
    """Its reply would come as that of the next one."""
    wires: list[Wire] = []

    async def first(wire: Wire) -> None:
        wires.append(wire)
        wire.keep = True

    async with serving(first, reply(200, OWN)) as server, client(server.base_url) as sender:
        task = asyncio.create_task(sender.send(CALL))
        while not wires:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pooled(sender) == []
        await wires[0].send(http(OK_BODY, length=len(OK_BODY)))
        assert (await sender.send(CALL)).body == OWN


async def head_of(call: ApiCall, headers: Mapping[str, str]) -> list[str]:
    async with serving(reply()) as server, client(server.base_url, headers=headers) as sender:
        await sender.send(call)
    return [line.lower() for line in server.heads[0].decode().split("\r\n")]


@pytest.mark.usefixtures("way")
async def test_the_length_is_told_where_there_is_a_body_or_could_be_one() -> None:
    assert "content-length: 0" in await head_of(CALL._replace(body=b""), {})
    assert not any(line.startswith("content-length") for line in await head_of(ApiCall("GET", "/x"), {}))


@pytest.mark.usefixtures("way")
async def test_a_header_of_the_spec_may_tell_the_host_and_goes_out_as_it_is_written() -> None:
    lines = await head_of(CALL, {"Host": "other.example", "X-Title": "Café"})
    assert {"host: other.example", "x-title: café", "content-length: 13"} <= set(lines)


class Quick:
    """A server in a thread: what it does after its first reply is in our system before the event loop turns again."""

    def __init__(self, then: Callable[[socket.socket], None]) -> None:
        self._then = then
        self._first = True
        self.told = threading.Event()
        self.done = threading.Event()
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self.sock.getsockname()[1]}/v1"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.sock.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            while piece := peer.recv(65536):
                if not piece.endswith(CALL.body):
                    continue
                first, self._first = self._first, False
                peer.sendall(http(OK_BODY if first else OWN, length=len(OK_BODY if first else OWN)))
                if first:
                    self.told.wait()
                    self._then(peer)
                    self.done.set()


LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


@LOOPS
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "then",
    [
        pytest.param(lambda peer: peer.shutdown(socket.SHUT_RDWR), id="farewell"),
        pytest.param(lambda peer: peer.sendall(http(OK_BODY, length=len(OK_BODY))), id="reply"),
    ],
)
def test_what_the_loop_has_not_seen_yet_counts_too(
    then: Callable[[socket.socket], None], new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    server = Quick(then)

    async def two() -> bytes:
        async with client(server.base_url) as sender:
            assert (await sender.send(CALL)).body == OK_BODY
            server.told.set()
            server.done.wait()  # the loop is busy with something else meanwhile
            return (await sender.send(CALL)).body

    with server.sock, asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(two()) == OWN
        server.sock.shutdown(socket.SHUT_RDWR)


BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@LOOPS
@pytest.mark.usefixtures("way")
def test_an_endpoint_that_refuses_at_the_door_is_knocked_at_once(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    dialled = 0

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dialled
        dialled += 1
        writer.write(BUSY)
        writer.close()

    async def ask() -> ProviderError:
        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with server, client(address, total_s=5) as sender:
            with pytest.raises(ProviderError) as caught:
                await sender.send(CALL)
        return caught.value

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert (runner.run(ask()).kind, dialled) == ("overloaded", 1)


@pytest.mark.parametrize(("greeting", "status"), [(BUSY, 503), (http(OK_BODY, length=len(OK_BODY)), None)])
async def test_what_a_new_connection_begins_with_may_refuse_a_call_and_never_answers_it(
    greeting: bytes, status: int | None
) -> None:
    protocol, transport, connection = ResponseHandler(asyncio.get_running_loop()), Mock(), Mock()
    transport.is_closing.return_value = False
    protocol.connection_made(transport)
    protocol.data_received(greeting)
    connection.protocol = protocol
    connection.transport.get_write_buffer_size.return_value = 0
    async with aiohttp.ClientSession() as session:
        target = roundtrip.Target(session, "POST", "http://127.0.0.1:9/x", {}, aiohttp.ClientTimeout())
        with patch.object(session.connector, "connect", AsyncMock(return_value=connection)):
            if status is None:
                with pytest.raises(aiohttp.ClientConnectionResetError):
                    await target.request(CALL.body).__aenter__()
            else:
                async with target.request(CALL.body) as response:
                    assert response.status == status
    transport.write.assert_not_called()
    protocol.close()
