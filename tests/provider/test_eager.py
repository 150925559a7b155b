"""A body that is written at once: the same as one that waits for its turn, but for the moment."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator

import pytest

from pipeline.provider import _eager
from pipeline.provider._eager import begun
from pipeline.records import ApiCall, ApiReply
from tests.provider.senders import client

REPLY = b'{"id": "1", "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}'


def http(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


async def request_in(connection: socket.socket, body: bytes) -> None:
    got = b""
    while not got.endswith(body):
        got += await asyncio.get_running_loop().sock_recv(connection, 65536)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="from Python 3.12 on the library does it itself")
@pytest.mark.parametrize("usual_s", [0.0, 5.0])
async def test_a_far_endpoint_has_the_request_after_one_step(listener: socket.socket, usual_s: float) -> None:
    loop = asyncio.get_running_loop()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with client(address, concurrency=1) as sender:
        call = ApiCall("POST", "/x", b'{"one": "body"}')
        first = asyncio.ensure_future(sender.send(call))
        connection, _ = await loop.sock_accept(listener)
        with connection:
            await request_in(connection, call.body)
            await loop.sock_sendall(connection, http(REPLY))
            assert isinstance(await first, ApiReply)
            sender._usual_s = usual_s
            second = asyncio.ensure_future(sender.send(call))
            await asyncio.sleep(0)  # one step of the task
            try:
                there = connection.recv(65536).endswith(call.body)
            except BlockingIOError:
                there = False
            assert there == (usual_s > _eager.FAR_S)
            if not there:
                await request_in(connection, call.body)
            await loop.sock_sendall(connection, http(REPLY))
            assert isinstance(await second, ApiReply)


async def test_what_is_begun_goes_on_where_it_waited() -> None:
    steps: list[str] = []
    go = asyncio.Event()

    async def work() -> None:
        steps.append("first")
        await go.wait()
        steps.append("second")

    rest = begun(work())
    assert steps == ["first"]
    task = asyncio.ensure_future(rest)
    await asyncio.sleep(0)
    go.set()
    await task
    assert steps == ["first", "second"]


async def test_what_fails_at_once_fails_where_it_is_awaited() -> None:
    async def work() -> None:
        raise OSError("broken")

    rest = begun(work())
    with pytest.raises(OSError, match="broken"):
        await rest


async def test_a_cancellation_reaches_the_work() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    task = asyncio.ensure_future(begun(work()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["cancelled"]
