"""One HTTP call: bytes out, a good reply or a :class:`~pipeline.errors.ProviderError` back. Never sends anything twice.

Everything a fault of the other side can do ends in :mod:`pipeline.provider.faults`; this room only sees to it that a
reply stays within bounds, that its usage is read before anyone judges it, and that the key leaves by one door alone:
what aiohttp raises quotes the request, so none of it travels on, not even as ``__context__``. A reply that comes as a
stream leaves this room as the whole it adds up to.

A call takes the short way (:mod:`pipeline.provider.roundtrip`) where it can, and the session's where it must.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp

from pipeline.errors import ProviderError
from pipeline.provider import faults, usage
from pipeline.provider._body import parse
from pipeline.provider._incoming import Incoming
from pipeline.provider._outgoing import headers_of, secrets_in, split
from pipeline.provider.deadline import Deadlines
from pipeline.provider.dial import Dialer, Resolver
from pipeline.provider.roundtrip import Response, Target, is_tried
from pipeline.provider.stream import Stream, written
from pipeline.provider.turns import Turns
from pipeline.records import NO_USAGE, STREAM_CUT, ApiCall, ApiReply, Billed

# Servers drop idle connections after 2 s (gunicorn), 5 s (uvicorn, Node) or more, and a POST sent in that very moment
# is lost and perhaps billed. Below all of them the pool never offers such a connection.
_IDLE_S = 1.5
_LARGE_BODY = 1 << 19
_DNS_TTL_S = 30
_NO_DEADLINE = contextlib.nullcontext()
_NOTHING_MORE: Mapping[str, Any] = {}
# After the last event of a stream: the end of its body comes at once, or never, and a connection is not worth more.
_TAIL_S = 0.25
_PATHS_REMEMBERED = 256  # one, as a rule


_Response = aiohttp.ClientResponse | Response


class _Got(NamedTuple):
    """A reply as it came. The last two are asked of streams only."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    begun: bool = False  # words of an answer had come
    late: bool = False  # cut off by the time-out


class Client:
    """A pool of connections to one endpoint. An async context manager; :meth:`send` is a ``Send``.

    ``connect_s`` and ``total_s`` bound one attempt, from the moment it has a place among ``concurrency``; ``idle_s``
    the silence between two pieces of a stream, not the one before the first, in which a model thinks.
    ``max_reply_bytes`` counts a reply's bytes as unpacked.
    """

    def __init__(
        self,
        *,
        base_url: str,
        key: str | None,
        headers: Mapping[str, str],
        connect_s: float,
        total_s: float,
        concurrency: int,
        max_reply_bytes: int,
        idle_s: float = 120.0,
        proxy: str | None = None,
        user_agent: str,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._base, self._query, self._address = split(base_url)
        self._headers = headers_of(key, headers, user_agent)
        self._incoming = Incoming(secrets_in(self._headers))
        # `connect` arms a timer for every request, pooled connection or not: 5 % of a call's CPU. It would add a
        # proxy's handshake, which nobody else bounds. The whole of a call is bounded by ``_deadlines``.
        connect = connect_s if proxy else None
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s, connect=connect)
        self._connect_s = connect_s
        self._deadlines = Deadlines(total_s)
        self._concurrency = concurrency
        self._max_bytes = max_reply_bytes
        self._idle_s = idle_s
        asked = any(name.lower() == "accept" for name in headers)
        self._of_stream: Mapping[str, Any] = {
            "headers": None if asked else {"Accept": "text/event-stream, application/json"},
            # What had come is kept, so that it is the reading that must end, not the call.
            "timeout": aiohttp.ClientTimeout(total=total_s, sock_connect=connect_s, connect=connect),
        }
        self._proxy = proxy
        self._clock = clock
        self._wall_clock = wall_clock
        # Waiting for one of the pool's connections would count into the time-out; waiting here does not.
        self._places = Turns(concurrency)
        self._targets: dict[tuple[str, str], Target] = {}
        self._has_short_way = proxy is None and is_tried()
        self._session: aiohttp.ClientSession | None = None
        self._retired: list[aiohttp.ClientSession] = []

    async def __aenter__(self) -> Self:
        self._session = self._open()
        return self

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=Dialer(
                resolver=Resolver(self._connect_s),
                limit=self._concurrency,
                keepalive_timeout=_IDLE_S,
                ttl_dns_cache=_DNS_TTL_S,
            ),
            headers=self._headers,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # an environment's proxy or netrc would see, or replace, the key
            proxy=self._proxy,
        )

    def renew(self) -> None:
        """Offer no connection that is open now to a further call; calls under way keep theirs."""
        if self._session is not None:
            self._retired.append(self._session)
            self._session = self._open()
            self._targets = {}

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.close()
        for session in self._retired:
            await session.close()
        self._retired.clear()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, call: ApiCall) -> ApiReply:
        """One attempt. Raises nothing but ``ProviderError`` (and ``CancelledError``, as it came)."""
        if not self._places.take():
            await self._places.wait()
        try:
            started = self._clock()
            got = await self._exchange(call)
        finally:
            self._places.give_back()
        latency_s = self._clock() - started
        if isinstance(got, ProviderError):
            error, found = got, NO_USAGE
        else:
            status, headers, body, begun, late = got
            json, parsed = parse(body)
            found = usage.read(json)
            judged = faults.judge(status, headers, body, json, parsed, now=self._wall_clock, begun=begun)
            if judged is None:
                return ApiReply(status, headers, body, json, found, latency_s, late=late)
            error = judged
        error.usage, error.latency_s = found, latency_s
        if error.billed is Billed.NO and (found.prompt_tokens or found.completion_tokens or found.total_tokens):
            error.billed = Billed.YES  # whatever the status says, somebody counted tokens
        raise self._incoming.error(error)

    async def _exchange(self, call: ApiCall) -> _Got | ProviderError:
        session = self._session
        if session is None:
            raise RuntimeError("a Client sends only inside of its `async with`")
        status = 0
        headers: dict[str, str] = {}
        chunks: list[bytes] = []
        try:
            with _NO_DEADLINE if call.stream else self._deadlines.one():
                async with self._requested(session, call) as response:
                    status = response.status
                    headers = self._incoming.headers(response.headers)
                    if call.stream and 200 <= status < 204:
                        return await self._streamed(response, headers)
                    content, size = response.content, 0
                    while not content.at_eof():
                        # As a rule all of it has come with the head, and there is nothing to wait for.
                        chunk = content.read_nowait() if content.is_eof() else await content.readany()
                        chunks.append(chunk)
                        size += len(chunk)
                        if size > self._max_bytes:
                            response.close()
                            return faults.too_big(status, headers, self._incoming.body(chunks), self._max_bytes)
            return _Got(status, headers, self._incoming.body(chunks))
        # Hostile bytes make the library raise what it never documented (AssertionError, ValueError, zlib.error);
        # whatever it is, one row's reply must not end the run.
        except Exception as exc:  # noqa: BLE001
            body = self._incoming.body(chunks)
            return faults.from_exception(exc, address=self._address, status=status, headers=headers, body=body)

    def _requested(self, session: aiohttp.ClientSession, call: ApiCall) -> AbstractAsyncContextManager[_Response]:
        """The short way, or the session's."""
        if self._has_short_way and not call.stream and 0 < len(call.body) <= _LARGE_BODY:
            return self._target(session, call).request(call.body)
        more = self._of_stream if call.stream else _NOTHING_MORE
        return session.request(
            call.method, self._address_of(call), data=_as_data(call.body), allow_redirects=False, **more
        )

    def _target(self, session: aiohttp.ClientSession, call: ApiCall) -> Target:
        target = self._targets.get((call.method, call.path))
        if target is None:
            target = Target(session, call.method, self._address_of(call), self._headers, self._timeout)
            if len(self._targets) < _PATHS_REMEMBERED:
                self._targets[call.method, call.path] = target
        return target

    async def _streamed(self, response: _Response, headers: Mapping[str, str]) -> _Got | ProviderError:
        """The whole that the stream adds up to; how it was cut, when no word of an answer had come."""
        stream, silence, status = Stream(), asyncio.timeout(None), response.status
        broken: Exception | None = None
        try:
            async with silence:
                fits = await self._flow(response, stream, silence)
            if not fits:
                response.close()
                return faults.too_big(status, headers, b"", self._max_bytes)
        except Exception as exc:  # noqa: BLE001 - as above: whatever it is, what had come is kept
            broken = exc
        stream.end()
        if stream.is_plain:
            body = self._incoming.body([stream.body])
            if broken is not None:
                return faults.from_exception(broken, address=self._address, status=status, headers=headers, body=body)
            return _Got(status, headers, body)
        cut = faults.cut_stream(
            broken, stalled=silence.expired(), unreadable=stream.unreadable, status=status, headers=headers
        )
        completion = stream.completion(str(cut))
        if completion is None:
            return cut
        late = cut.kind == "timeout" and STREAM_CUT in completion
        return _Got(status, headers, self._incoming.body([written(completion)]), stream.said, late)

    async def _flow(self, response: _Response, stream: Stream, silence: asyncio.Timeout) -> bool:
        """Feeds the stream until it is done or ends; False when it is larger than allowed."""
        loop, size = asyncio.get_running_loop(), 0
        while chunk := await response.content.readany():
            size += len(chunk)
            if size > self._max_bytes:
                return False
            stream.feed(chunk)
            if stream.done:
                silence.reschedule(None)
                await _drain(response)
                break
            silence.reschedule(None if stream.is_plain else loop.time() + self._idle_s)
        return True

    def _address_of(self, call: ApiCall) -> str:
        return f"{self._base}{call.path}{self._query}"


def _as_data(body: bytes) -> bytes | io.BytesIO | None:
    """A large body goes out in pieces: the library would hold up the loop with it, and warns. It is not copied."""
    return io.BytesIO(body) if len(body) > _LARGE_BODY else body or None


async def _drain(response: _Response) -> None:
    """Read to the end of the body, if it is near: only then the connection can be used again."""
    try:
        async with asyncio.timeout(_TAIL_S):
            while await response.content.readany():
                pass
    except Exception:  # noqa: BLE001 - the answer is whole; how its connection ends concerns nobody
        response.close()
