"""One request and its reply over a connection of the pool, without what a session does for every call.

Of a call to an endpoint only the body is new, but ``ClientSession.request`` builds a table of headers, a request, a
writer with a task of its own and a response each time: more than half of what a call cost us. Here the head is written
once for each path, and the reply is taken from where the library's parser puts it. Pool, names, TLS and parser are the
library's as before.

What the library alone knows how to send stays with the session: anything through a proxy, a stream, no body at all, and
one that is too large for one piece. So does everything under a release of the library that nobody has tried this with.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final

import aiohttp
from yarl import URL

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection

TRIED: Final = ("3.14.",)
"""Releases of the library that this was tried with. Where another one is installed the session sends everything."""

_SURELY_READ: Final = 1 << 16
"""Bytes that the system's buffers take, so that they are out whoever reads them."""

_LENGTHS: Final = frozenset({"content-length", "transfer-encoding"})


def is_tried() -> bool:
    return aiohttp.__version__.startswith(TRIED)


class Response:
    """A reply whose head is there."""

    __slots__ = ("_connection", "_large", "content", "headers", "status")

    def __init__(
        self,
        connection: Connection,
        status: int,
        headers: Mapping[str, str],
        content: aiohttp.StreamReader,
        large: bool,
    ) -> None:
        """``large``: what it answers may not have been read to its end."""
        self._connection = connection
        self._large = large
        self.status = status
        self.headers = headers
        self.content = content

    def release(self) -> None:
        """Back into the pool, if both sides have said all of this and nothing else."""
        transport = self._connection.transport
        unsent = transport is not None and transport.get_write_buffer_size() > 0
        # Under TLS that number does not tell what the layer below still holds.
        if unsent or (self._large and self.status >= 400):
            self.close()  # answered before it had read the request, whose rest nobody waits for
        else:
            self._connection.release()  # the pool closes what is not at the end of a reply

    def close(self) -> None:
        self._connection.close()


class _Roundtrip(AbstractAsyncContextManager[Response]):
    """Used as what a session gives for a request: sends on the way in, releases on the way out. A class: the generator
    form costs three times as much."""

    __slots__ = ("_body", "_response", "_target")

    def __init__(self, target: Target, body: bytes) -> None:
        self._target = target
        self._body = body

    async def __aenter__(self) -> Response:
        target, body = self._target, self._body
        try:
            connection = await target.connector.connect(target.for_connector, [], target.timeout)
        except TimeoutError:
            raise aiohttp.ConnectionTimeoutError from None
        try:
            protocol = connection.protocol
            if protocol is None:
                raise aiohttp.ClientConnectionResetError
            protocol.set_response_params(read_until_eof=True)
            greeted, transport = len(protocol) > 0, protocol.transport
            if not greeted:
                if transport is None or transport.is_closing():
                    raise aiohttp.ClientConnectionResetError
                transport.write(b"%b\r\nContent-Length: %d\r\n\r\n%b" % (target.head, len(body), body))
            message, content = await protocol.read()
            while 100 <= message.code < 200 and message.code != 101:  # "go on", "hints": the reply is still to come
                message, content = await protocol.read()
            if greeted and message.code < 400:
                raise aiohttp.ClientConnectionResetError  # whatever it answers, it is not this call
            self._response = Response(connection, message.code, message.headers, content, len(body) > _SURELY_READ)
            return self._response
        except BaseException:
            connection.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._response.release()


class _Addressed(aiohttp.ClientRequest):
    """Its place in the pool is looked up for every call, and never another one."""

    @functools.cached_property
    def connection_key(self) -> ConnectionKey:
        return super().connection_key


class Target:
    """Where all calls of one method and path go. To be made and used inside of one event loop."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        method: str,
        address: str,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
    ) -> None:
        """Raises what a session raises for an address that is none."""
        try:
            url = URL(address)
        except ValueError:
            raise aiohttp.InvalidURL(address) from None
        assert session.connector is not None
        self.connector = session.connector
        self.timeout = timeout
        self.for_connector = _Addressed(method, url, headers=headers, session=session)
        sent = self.for_connector.headers.items()
        lines = [f"{method} {url.raw_path_qs} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in sent if name.lower() not in _LENGTHS]
        self.head = "\r\n".join(lines).encode()

    def request(self, body: bytes) -> AbstractAsyncContextManager[Response]:
        """One call. Raises what a session raises, and the parser's complaints.

        An endpoint may say at once that it is overloaded; then nothing is sent."""
        return _Roundtrip(self, body)
