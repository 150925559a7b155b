"""One HTTP call: bytes out, a good reply or a :class:`~pipeline.errors.ProviderError` back. Never sends anything twice.

Everything a fault of the other side can do ends in :mod:`pipeline.provider.faults`; this room only sees to it that a
reply stays within bounds, that its usage is read before anyone judges it, and that the key leaves by one door alone:
what aiohttp raises quotes the request, so none of it travels on, not even as ``__context__``.
"""

from __future__ import annotations

import asyncio
import io
import json as stdlib_json
import math
import re
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NoReturn, Self
from urllib.parse import urlsplit

import aiohttp
import orjson

from pipeline.errors import ProviderError, SpecError
from pipeline.provider import faults, usage
from pipeline.records import NO_USAGE, ApiCall, ApiReply, Billed

# Servers drop idle connections after 2 s (gunicorn), 5 s (uvicorn, Node) or more, and a POST sent in that very moment
# is lost and perhaps billed. Below all of them the pool never offers such a connection.
_IDLE_S = 1.5
_LARGE_BODY = 1 << 19
_DNS_TTL_S = 30
_KEPT = re.compile(
    r"(llm_provider-)?(retry-after(-ms)?|x-should-retry|x-(oneapi-)?request-id|([\w-]+-)?ratelimit-[\w-]+)"
    r"|rate_limit_type|x-simulator|content-type|location"
)
_NAMES_REMEMBERED = 256
_SECRET_NAME = re.compile(r"auth|key|token|secret|cookie|password", re.IGNORECASE)
# Shorter ones are words like EMPTY or dummy, for servers that ask for none; blotting them out would maim answers.
_SECRET_CHARS = 12
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Client:
    """A pool of connections to one endpoint. An async context manager; :meth:`send` is a ``Send``.

    ``connect_s`` and ``total_s`` bound one attempt, from the moment it has a place among ``concurrency``;
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
        proxy: str | None = None,
        user_agent: str,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._base, self._query, self._address = _split(base_url)
        self._headers = _headers(key, headers, user_agent)
        self._secrets = _secrets(self._headers)
        # `connect` arms a timer for every request, pooled connection or not: 5 % of a call's CPU. It would add name
        # resolution, which the system bounds, and a proxy's handshake, which nobody else does.
        self._timeout = aiohttp.ClientTimeout(
            total=total_s, sock_connect=connect_s, connect=connect_s if proxy else None
        )
        self._concurrency = concurrency
        self._max_bytes = max_reply_bytes
        self._proxy = proxy
        self._clock = clock
        self._wall_clock = wall_clock
        # Waiting for one of the pool's connections would count into the time-out; waiting here does not.
        self._places = asyncio.Semaphore(concurrency)
        self._names: dict[str, str | None] = {}
        self._session: aiohttp.ClientSession | None = None
        self._retired: list[aiohttp.ClientSession] = []

    async def __aenter__(self) -> Self:
        self._session = self._open()
        return self

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._concurrency, keepalive_timeout=_IDLE_S, ttl_dns_cache=_DNS_TTL_S
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

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in self._retired:
            await session.close()
        self._retired.clear()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, call: ApiCall) -> ApiReply:
        """One attempt. Raises nothing but ``ProviderError`` (and ``CancelledError``, as it came)."""
        async with self._places:
            started = self._clock()
            got = await self._exchange(call)
        latency_s = self._clock() - started
        if isinstance(got, ProviderError):
            error, found = got, NO_USAGE
        else:
            status, headers, body = got
            json, parsed = parse(body)
            found = usage.read(json)
            judged = faults.judge(status, headers, body, json, parsed, now=self._wall_clock)
            if judged is None:
                return ApiReply(status, headers, body, json, found, latency_s)
            error = judged
        error.usage, error.latency_s = found, latency_s
        if error.billed is Billed.NO and (found.prompt_tokens or found.completion_tokens or found.total_tokens):
            error.billed = Billed.YES  # whatever the status says, somebody counted tokens
        raise self._scrubbed(error)

    async def _exchange(self, call: ApiCall) -> tuple[int, Mapping[str, str], bytes] | ProviderError:
        session = self._session
        if session is None:
            raise RuntimeError("a Client sends only inside of its `async with`")
        status = 0
        headers: dict[str, str] = {}
        chunks: list[bytes] = []
        try:
            async with session.request(
                call.method, f"{self._base}{call.path}{self._query}", data=_as_data(call.body), allow_redirects=False
            ) as response:
                status = response.status
                headers = self._kept(response)
                size = 0
                while chunk := await response.content.readany():
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > self._max_bytes:
                        response.close()
                        return faults.too_big(status, headers, self._safe(b"".join(chunks)), self._max_bytes)
            return status, headers, self._safe(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        # Hostile bytes make the library raise what it never documented (AssertionError, ValueError, zlib.error);
        # whatever it is, one row's reply must not end the run.
        except Exception as exc:  # noqa: BLE001
            body = self._safe(b"".join(chunks))
            return faults.from_exception(exc, address=self._address, status=status, headers=headers, body=body)

    def _kept(self, response: aiohttp.ClientResponse) -> dict[str, str]:
        """The few headers that matter, with names in lower case. The first of two alike counts."""
        kept: dict[str, str] = {}
        names = self._names
        for name, value in response.headers.items():
            try:
                lower = names[name]
            except KeyError:
                lower = name.lower() if _KEPT.fullmatch(name.lower()) else None
                if len(names) < _NAMES_REMEMBERED:
                    names[name] = lower
            if lower is not None and lower not in kept:
                kept[lower] = self._without_secrets(value)
        return kept

    def _safe(self, body: bytes) -> bytes:
        """The body without our own key, should the server have echoed it."""
        for _, secret in self._secrets:
            if secret in body:
                body = body.replace(secret, b"[key]")
        return body

    def _without_secrets(self, text: str) -> str:
        for secret, _ in self._secrets:
            if secret in text:
                text = text.replace(secret, "[key]")
        return text

    def _scrubbed(self, error: ProviderError) -> ProviderError:
        # Once more after parsing: an escape like \\u0073k- hides a key from _safe.
        error.args = tuple(self._without_secrets(arg) if isinstance(arg, str) else arg for arg in error.args)
        error.raw = error.raw and self._without_secrets(error.raw)
        return error


def _as_data(body: bytes) -> bytes | io.BytesIO | None:
    """A large body goes out in pieces: the library would hold up the loop with it, and warns. It is not copied."""
    return io.BytesIO(body) if len(body) > _LARGE_BODY else body or None


def parse(body: bytes) -> tuple[Any, bool]:
    """A body as JSON, judged by its bytes alone, and whether it is JSON at all. Never raises.

    Strict (no NaN, no Infinity, nothing behind the end), but for two things that cost nobody an answer: a byte order
    mark is skipped, and half a surrogate pair, which no table can store, becomes U+FFFD.
    """
    try:
        return orjson.loads(body), True
    except ValueError:
        if b"\\ud" not in body and b"\\uD" not in body and not body.startswith(b"\xef\xbb\xbf"):
            return None, False
    try:
        json = stdlib_json.loads(body.decode("utf-8-sig"), parse_constant=_refuse, parse_float=_finite)
        return _well_formed(json), True
    except (ValueError, RecursionError):
        return None, False


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _finite(word: str) -> float:
    number = float(word)
    return number if math.isfinite(number) else _refuse(word)


def _well_formed(json: Any) -> Any:
    if isinstance(json, str):
        return _SURROGATE.sub("\ufffd", json)
    if isinstance(json, list):
        return [_well_formed(part) for part in json]
    if isinstance(json, dict):
        return {_well_formed(name): _well_formed(value) for name, value in json.items()}
    return json


def _split(base_url: str) -> tuple[str, str, str]:
    """What goes before a call's path, what goes behind it, and what an error message may show of both."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SpecError("endpoint.base_url must begin with https:// (or http://) and a host")
    if "@" in parts.netloc:
        raise SpecError("endpoint.base_url holds a user name or a password (not shown); name a key's variable instead")
    address = f"{parts.scheme}://{parts.netloc}"
    return f"{address}{parts.path.rstrip('/')}", f"?{parts.query}" if parts.query else "", address


def _headers(key: str | None, extra: Mapping[str, str], user_agent: str) -> dict[str, str]:
    """What every request carries. Headers of the spec go before ours; their names know no case."""
    headers = {
        "User-Agent": user_agent,
        "Accept": "application/json",
        "Accept-Encoding": "identity",  # a packed reply could unpack to anything
        "Content-Type": "application/json",
    }
    if key is not None:
        headers["Authorization"] = f"Bearer {_checked_key(key)}"
    ours = {name.lower(): name for name in headers}
    for name, value in extra.items():
        if not _HEADER_NAME.fullmatch(name):
            raise SpecError(f"endpoint.headers: {name!r} is not the name of a header")
        if not _is_header_value(value):
            raise SpecError(
                f"endpoint.headers.{name}: the value holds a control character or one outside Latin-1 "
                "(it is not shown); remove it"
            )
        headers.pop(ours.get(name.lower(), ""), None)
        headers[name] = value.strip()
    return headers


def _checked_key(key: str) -> str:
    key = key.strip()
    if not key:
        raise SpecError("the API key is empty; put it into the variable that endpoint.api_key_env names")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SpecError(
            "the API key holds a space, a line break or another character that no key has (it is not shown); "
            "copy it again into the variable that endpoint.api_key_env names"
        )
    return key


def _is_header_value(value: str) -> bool:
    return not re.search(r"[^\t\x20-\x7e\xa0-\xff]", value)


def _secrets(headers: Mapping[str, str]) -> tuple[tuple[str, bytes], ...]:
    found = (value.removeprefix("Bearer ") for name, value in headers.items() if _SECRET_NAME.search(name))
    return tuple((secret, secret.encode("latin-1")) for secret in found if len(secret) >= _SECRET_CHARS)
