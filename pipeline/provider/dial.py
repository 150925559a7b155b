"""Calls get their connections in the order they came, and so many at most are being opened at a time.

Rows by the thousand that begin together would all knock at once. A server's backlog holds a few hundred; whoever finds
it full is heard again after 1, 3 and 7 s. And a TLS handshake takes this process a millisecond or two, so thousands at
once hold up one another until all are past the time that one of them may take: five thousand on two busy cores were
seen to end as 2,900 time-outs. In turns none fails, and none waits for anything but its turn, which counts into no
time-out for connecting.

The turn is for a connection that is there already, too: or whoever comes last would take those that become free, while
the first still wait to open theirs.

And no connection comes out of the pool on which something was said while nobody had asked, be it only in the system's
buffers. A farewell would cost a request that is perhaps billed; a reply too many would be taken for that to the next
request, and all that follow would get the one before.
"""

from __future__ import annotations

import asyncio
import select
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from pipeline.provider.turns import Turns

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest, ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

AT_ONCE = 256
"""Below the backlog of common servers (511 and more), and as many handshakes as a core does in a third of a second."""


class Dialer(aiohttp.TCPConnector):
    """A connector that gives connections in turn."""

    def __init__(self, *, at_once: int = AT_ONCE, **options: Any) -> None:
        super().__init__(**options)
        self._turns = Turns(at_once)

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Connection:
        if not self._turns.take():
            await self._turns.wait()
        try:
            return await super().connect(req, traces, timeout)
        finally:
            self._turns.give_back()

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            protocol, transport = connection.protocol, connection.transport
            if protocol is not None and transport is not None and not (protocol.should_close or _heard(transport)):
                return connection
            connection.close()
        return None


def _heard(transport: asyncio.Transport) -> bool:
    """Whether something has come that the event loop has not seen yet. It costs a microsecond."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


class Resolver(AbstractResolver):
    """The system's way, within the time that connecting may take."""

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        async with asyncio.timeout(self._within_s):
            return await self._inner.resolve(host, port, family)

    async def close(self) -> None:
        """Nothing is held."""
