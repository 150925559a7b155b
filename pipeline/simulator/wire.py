"""How a reply leaves: whole, or in one of the ways in which connections fail."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from pipeline.simulator.faults import Manner

Sleep = Callable[[float], Awaitable[object]]

SIGN = {"x-simulator": "prompt-pipeline"}

_DRIPS = 40
_LOOKS_EVERY_S = 0.25  # how soon a hanging request notices that its client has left
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close() sends RST


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    manner: Manner = Manner.WHOLE

    @property
    def all_headers(self) -> dict[str, str]:
        return {"Content-Type": self.content_type, **SIGN, **self.headers}


@dataclass(frozen=True, slots=True)
class Wire:
    sleep: Sleep
    slow_s: float  # how long a dripping body takes
    closing: asyncio.Event  # set when the server goes

    async def send(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        if reply.manner is Manner.WHOLE:
            return web.Response(status=reply.status, body=reply.body, headers=reply.all_headers)
        if reply.manner is Manner.TRUNCATED:
            return await self._half(request, reply)
        if reply.manner is Manner.DRIP:
            return await self._drip(request, reply)
        if reply.manner is Manner.STALL:
            return await self._stall(request, reply)
        if reply.manner is Manner.HANG:
            await self._hang(request)
        return _cut_off(request, reply)

    async def _half(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        response = web.StreamResponse(status=reply.status, headers=reply.all_headers)
        response.content_length = len(reply.body)
        response.force_close()
        await response.prepare(request)
        await response.write(reply.body[: len(reply.body) // 2])
        return response

    async def _drip(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        response = web.StreamResponse(status=reply.status, headers=reply.all_headers)
        response.content_length = len(reply.body)
        await response.prepare(request)
        step = max(1, -(-len(reply.body) // _DRIPS))
        for at in range(0, len(reply.body), step):
            await self.sleep(self.slow_s / _DRIPS)
            await response.write(reply.body[at : at + step])
        return response

    async def _stall(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        response = web.StreamResponse(status=reply.status, headers=reply.all_headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(reply.body)
        await self._hang(request)
        if request.transport is not None:
            request.transport.abort()
        return response

    async def _hang(self, request: web.Request) -> None:
        while request.transport is not None and not self.closing.is_set():
            try:
                await asyncio.wait_for(self.closing.wait(), _LOOKS_EVERY_S)
            except TimeoutError:
                continue


def _cut_off(request: web.Request, reply: Reply) -> web.Response:
    transport = request.transport
    if transport is not None:
        if reply.manner in (Manner.RESET, Manner.HANG):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()
        elif reply.manner is Manner.GARBAGE:
            transport.write(b"\x15\x03\x01 this is not HTTP\r\n\r\n")
        elif reply.manner is Manner.UNTIL_CLOSE:
            head = "".join(f"{name}: {value}\r\n" for name, value in reply.all_headers.items())
            transport.write(f"HTTP/1.1 {reply.status} OK\r\nConnection: close\r\n{head}\r\n".encode())
            transport.write(reply.body[: len(reply.body) // 2])
        transport.close()
    # aiohttp wants a response; the closed transport swallows it.
    return web.Response(status=500)
