"""What an answer links to, fetched: a GET of an address that somebody else chose.

So it is trusted with nothing. The request carries no key and no header of the job's; no redirect is followed; what
comes is counted while it comes, must be media by its own bytes, and must be there in time. And it must lie at a public
address: an answer could name a machine of the user's network, or this one. That is looked at three times: in the text
of the address (names that are no public ones, numbers in disguise); in every address that its name resolves to; and
when the socket is made, for the very address that is connected to, so that nothing lies between check and use. Through
a proxy it is the proxy that resolves and connects; then the first two looks are all we can do.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from pipeline import __version__
from pipeline.errors import PipelineError
from pipeline.media import HEAD_BYTES, Kind, kind_of

_NUMBER: Final = re.compile(r"0x[0-9a-f]*|[0-9]+")
_PRIVATE_NAMES: Final = (".local", ".localhost", ".localdomain", ".internal", ".intranet", ".lan", ".home.arpa")
_TRANSLATED: Final = ipaddress.ip_network("64:ff9b::/96")
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class Unfetched(Exception):
    """Why a link could not be had, in words that do not quote it. ``passing``: a second try may help."""

    def __init__(self, why: str, *, passing: bool = False) -> None:
        super().__init__(why)
        self.passing = passing


class _NotPublic(OSError):
    """An address that is not public was about to be connected to."""


class _Origin(NamedTuple):
    host: str
    port: int


class Fetcher:
    """An async context manager. ``own``: base URL of a loopback endpoint, from whose host and port alone of all that is
    not public something may be fetched. ``resolver``: how names are resolved, the system's way by default."""

    def __init__(
        self,
        *,
        connect_s: float,
        total_s: float,
        max_bytes: int,
        concurrency: int,
        proxy: str | None = None,
        own: str | None = None,
        resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
    ) -> None:
        self._timeout = aiohttp.ClientTimeout(
            total=total_s, sock_connect=connect_s, connect=connect_s if proxy else None
        )
        self._total_s = total_s
        self._max_bytes = max_bytes
        self._concurrency = concurrency
        self.places = asyncio.Semaphore(concurrency)  # for the caller: waiting for one here counts into no time limit
        self._proxy = proxy
        self._own = _origin(URL(own)) if own else None
        self._new_resolver = resolver
        self._resolver: _Public | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._resolver = _Public(self._new_resolver(), self._own)
        guarded: dict[str, Any] = {"resolver": self._resolver, "socket_factory": self._socket}
        connector = aiohttp.TCPConnector(
            limit=self._concurrency, force_close=True, use_dns_cache=False, **({} if self._proxy else guarded)
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": f"prompt-pipeline/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"},
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            proxy=self._proxy,
            auto_decompress=False,  # a packed file could unpack to anything
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self._resolver is not None:
            await self._resolver.close()

    async def fetch(self, address: str, write: Callable[[bytes], None]) -> Kind:
        """One try. Raises Unfetched, and what ``write`` raises if it is a PipelineError."""
        url = checked(address, self._own)
        try:
            if self._proxy:
                await self._look_up(url)
            return await self._get(url, write)
        except (Unfetched, PipelineError):
            raise
        except TimeoutError:
            raise Unfetched(f"not there within {self._total_s:g} s", passing=True) from None
        except Exception as exc:  # noqa: BLE001 - hostile bytes make the library raise anything; it is one link
            raise _as_unfetched(exc) from None

    async def _get(self, url: URL, write: Callable[[bytes], None]) -> Kind:
        if self._session is None:
            raise RuntimeError("a Fetcher fetches only inside of its `async with`")
        async with self._session.get(url, allow_redirects=False) as response:
            _judge(response)
            if (response.content_length or 0) > self._max_bytes:
                raise self._too_large()
            return await self._read(response, write)

    async def _read(self, response: aiohttp.ClientResponse, write: Callable[[bytes], None]) -> Kind:
        head, kind, size = b"", None, 0
        while chunk := await response.content.readany():
            size += len(chunk)
            if size > self._max_bytes:
                raise self._too_large()
            if kind is None:
                head += chunk
                if len(head) < HEAD_BYTES:
                    continue
                kind, chunk = _kind(head, response), head
            write(chunk)
        if kind is None:
            kind = _kind(head, response)
            write(head)
        return kind

    def _too_large(self) -> Unfetched:
        return Unfetched(f"larger than the {self._max_bytes / 1_000_000:g} MB of media.max_mb")

    def _socket(self, found: tuple[Any, ...]) -> socket.socket:
        """The last look, at the very address that is connected to."""
        family, kind, protocol, _, where = found
        if not _may_connect(str(where[0]), int(where[1]), self._own):
            raise _NotPublic(f"{where[0]} is no public address")
        return socket.socket(family, kind, protocol)

    async def _look_up(self, url: URL) -> None:
        """Before a proxy is asked: a name that is known here must be a public one here, too."""
        if self._resolver is None or url.raw_host is None or _literal(url.raw_host) is not None:
            return
        with contextlib.suppress(OSError):
            try:
                await self._resolver.resolve(url.raw_host, url.port or 0)
            except _NotPublic as exc:
                raise Unfetched(str(exc)) from None


class _Public(AbstractResolver):
    """Names of public addresses only: one that is not among them, and the name is refused."""

    def __init__(self, inner: AbstractResolver, own: _Origin | None) -> None:
        self._inner = inner
        self._own = own

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        own = _Origin(host, port) == self._own
        for each in found:
            if not own and not is_public(each["host"]):
                raise _NotPublic(f"its name stands for {each['host']}, which is no public address")
        return found

    async def close(self) -> None:
        await self._inner.close()


def checked(address: str, own: _Origin | None = None) -> URL:
    """The address as it will be asked for. Raises Unfetched for one that cannot be a public one."""
    try:
        url = URL(address)  # blanks, digits in circles and other alphabets become what a resolver would make of them
        origin = _origin(url)
    except ValueError:
        raise Unfetched("no address that can be read") from None
    if url.scheme not in ("http", "https"):
        raise Unfetched("neither http nor https")
    if url.user is not None or url.password is not None:
        raise Unfetched("holds a user name or a password")
    if origin != own:
        _refuse_private(origin.host)
    return _as_written(address, url)


def _as_written(address: str, url: URL) -> URL:
    """To the letter, where that means the same host: a signature may cover every character of it."""
    if not address.isascii() or not address.isprintable() or " " in address:
        return url
    with contextlib.suppress(ValueError):
        written = URL(address, encoded=True)
        if (written.raw_host, written.port, written.scheme) == (url.raw_host, url.port, url.scheme):
            return written.with_fragment(None)
    return url


def _refuse_private(host: str) -> None:
    if not host:
        raise Unfetched("no host in its address")
    if _literal(host) is not None:
        if not is_public(host):
            raise Unfetched(f"{host} is no public address")
        return
    labels = host.split(".")
    if len(labels) < 2 or host.endswith(_PRIVATE_NAMES):
        raise Unfetched(f"{host[:100]} is no public name")
    if _NUMBER.fullmatch(labels[-1]) or not re.fullmatch(r"[a-z0-9._-]+", host):
        raise Unfetched(f"{host[:100]} is no name")


def _origin(url: URL) -> _Origin:
    return _Origin((url.raw_host or "").lower().rstrip("."), url.port or 0)


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_public(address: str) -> bool:
    """Whether a numeric address is one of the open internet, whatever it is wrapped in."""
    found = _literal(address)
    if found is None:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None or found in _TRANSLATED:
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        tunnelled = (found.sixtofour, *(found.teredo or ()))
        if any(each is not None and not is_public(str(each)) for each in tunnelled):
            return False
        if found.scope_id is not None or found.is_site_local:
            return False
    return found.is_global and not found.is_multicast and not found.is_reserved and not found.is_unspecified


def _may_connect(address: str, port: int, own: _Origin | None) -> bool:
    if is_public(address):
        return True
    found = _literal(address)
    return own is not None and found is not None and found.is_loopback and port == own.port


def _judge(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if 300 <= status < 400:
        raise Unfetched(f"{status}: it leads elsewhere, which is not followed")
    if status != 200:
        raise Unfetched(f"{status}", passing=status in _PASSING)


def _kind(head: bytes, response: aiohttp.ClientResponse) -> Kind:
    declared = response.headers.get("Content-Type")
    if not head:
        raise Unfetched("empty")
    kind = kind_of(head[:HEAD_BYTES], declared)
    if kind is None or kind.media_type == "application/octet-stream":
        raise Unfetched(f"no picture, sound or video but {(declared or 'bytes of no type')[:60]!r}")
    return kind


def _as_unfetched(exc: Exception) -> Unfetched:
    """Without the library's own words, which quote the address."""
    if isinstance(exc, aiohttp.ClientConnectorError) and isinstance(exc.os_error, _NotPublic):
        return Unfetched(str(exc.os_error))
    if isinstance(exc, _NotPublic):
        return Unfetched(str(exc))
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return Unfetched("its name is not known", passing=True)
    if isinstance(exc, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return Unfetched("no connection that can be trusted (TLS)")
    if isinstance(exc, aiohttp.ClientPayloadError):
        return Unfetched("broke off in the middle", passing=True)
    return Unfetched(f"cannot be reached ({type(exc).__name__})", passing=True)
