"""A TCP server that does to a client what the failure catalogue says, one script per connection's request.

It counts the POSTs that arrived whole: that ledger is the bill. Loopback only, and no sleep decides anything: a script
that hangs is released when the server closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

OK_BODY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","model":"m","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"positive"}}],'
    b'"usage":{"prompt_tokens":4,"completion_tokens":1,"total_tokens":5}}'
)


@dataclass(slots=True)
class Wire:
    """One request that arrived whole, and the way back."""

    head: bytes
    body: bytes
    writer: asyncio.StreamWriter
    closing: asyncio.Event
    keep: bool = False  # a script sets it to serve another request on this connection

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    def reset(self) -> None:
        """RST in place of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def header(self, name: str) -> str | None:
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            found, _, value = line.partition(":")
            if found.lower() == name.lower():
                return value.strip()
        return None


Script = Callable[[Wire], Awaitable[None]]


@dataclass(slots=True)
class FaultServer:
    port: int
    scheme: str = "http"
    posts: int = 0  # requests that arrived whole
    open: int = 0
    peak: int = 0  # most connections open at once
    heads: list[bytes] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/v1"


@contextlib.asynccontextmanager
async def serving(*scripts: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[FaultServer]:
    """A server that plays ``scripts`` in turn, one per request, the last one for all that follow."""
    closing = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()
    ledger = FaultServer(0, "https" if tls else "http")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        ledger.open += 1
        ledger.peak = max(ledger.peak, ledger.open)
        try:
            while True:
                wire = await _receive(reader, writer, closing)
                script = scripts[min(ledger.posts, len(scripts) - 1)]
                ledger.posts += 1
                ledger.heads.append(wire.head)
                await script(wire)
                if not wire.keep:
                    break
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            ledger.open -= 1
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    ledger.port = server.sockets[0].getsockname()[1]
    try:
        yield ledger
    finally:
        closing.set()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, closing: asyncio.Event) -> Wire:
    head = await reader.readuntil(b"\r\n\r\n")
    wire = Wire(head, b"", writer, closing)
    wire.body = await reader.readexactly(int(wire.header("content-length") or 0))
    return wire


def reply(
    status: int = 200, body: bytes = OK_BODY, headers: Mapping[str, str] | None = None, *, keep: bool = False
) -> Script:
    """A proper HTTP reply."""

    async def script(wire: Wire) -> None:
        fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        if not keep:
            fields["Connection"] = "close"
        wire.keep = keep
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
        await wire.send(f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode() + body)

    return script


def raw(data: bytes) -> Script:
    """These bytes, then FIN."""

    async def script(wire: Wire) -> None:
        await wire.send(data)

    return script


def then_reset(data: bytes) -> Script:
    """These bytes, then RST once the client has read them."""

    async def script(wire: Wire) -> None:
        await wire.send(data)
        # A reset overtakes bytes that the client has not read yet; its time-out is far longer than this.
        await asyncio.sleep(0.05 if data else 0)
        wire.reset()

    return script


async def fin(wire: Wire) -> None:
    """FIN without a byte."""


async def hang(wire: Wire) -> None:
    """Takes the request and never answers."""
    await wire.closing.wait()


def then_hang(data: bytes) -> Script:
    """These bytes at once, and then nothing."""

    async def script(wire: Wire) -> None:
        await wire.send(data)
        await wire.closing.wait()

    return script


def drip(data: bytes, every_s: float) -> Script:
    """One byte at a time."""

    async def script(wire: Wire) -> None:
        for byte in data:
            await wire.send(bytes((byte,)))
            await asyncio.sleep(every_s)

    return script


async def echo(wire: Wire) -> None:
    """401 with everything the client sent in the message, as careless servers do."""
    key = (wire.header("authorization") or "").encode()
    body = b'{"error":{"message":"Incorrect API key provided: ' + key + b'","code":"invalid_api_key"}}'
    await reply(401, body, {"X-Request-Id": f"for {key.decode()}"})(wire)


def http(body: bytes, *headers: str, length: int | None = None) -> bytes:
    """The bytes of a 200 with exactly these headers; ``length`` may lie."""
    lines = [*headers, *([f"Content-Length: {length}"] if length is not None else [])]
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode() + body


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def bomb(size: int) -> bytes:
    """A 200 whose packed body is small and unpacks to ``size`` bytes."""
    packed = gzip.compress(b" " * size)
    return http(packed, "Content-Encoding: gzip", length=len(packed))
