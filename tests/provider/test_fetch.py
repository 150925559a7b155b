"""Fetching what strangers name: public addresses only, media only, so much and no more, and in time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from pipeline.errors import StorageError
from pipeline.media import Kind
from pipeline.provider.fetch import Fetcher, Unfetched, _may_connect, _Origin, checked, is_public
from tests.pictures import png

Answer = Callable[[web.Request], Any]
LIMITS: dict[str, Any] = {"connect_s": 5, "total_s": 20, "max_bytes": 100_000, "concurrency": 2}


class Names(AbstractResolver):
    """Each look-up gives the next list of addresses; the last stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found
        ]

    async def close(self) -> None:
        return


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[tuple[str, list[str]]]:
    """A loopback server, and the paths it was asked for."""
    asked: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request.raw_path)
        response = answer(request)
        return await response if asyncio.iscoroutine(response) else response  # type: ignore[no-any-return]

    app = web.Application()
    app.router.add_get("/{name:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}", asked
    finally:
        await runner.cleanup()


async def fetch(address: str, *, own: str | None = None, names: Names | None = None, **more: Any) -> tuple[Kind, bytes]:
    options = {**LIMITS, **more}
    if names is not None:
        options["resolver"] = lambda: names
    got = bytearray()
    async with Fetcher(own=own, **options) as fetcher:
        return await fetcher.fetch(address, got.extend), bytes(got)


# -- where from

ATTACKS = [
    "http://127.0.0.1/a.png",
    "http://127.0.0.1.:80/a.png",
    "http://127.1/a.png",
    "http://0/a.png",
    "http://0x7f000001/a.png",
    "http://0x7f.0.0.1/a.png",
    "http://2130706433/a.png",
    "http://0177.0.0.1/a.png",
    "http://\u2460\u2461\u2466.0.0.1/a.png",
    "http://127\u30020\u30020\u30021/a.png",
    "http://[::1]/a.png",
    "http://[::]/a.png",
    "http://[::ffff:127.0.0.1]/a.png",
    "http://[::ffff:10.0.0.1]/a.png",
    "http://[64:ff9b::7f00:1]/a.png",
    "http://[2002:7f00:1::]/a.png",
    "http://[fe80::1%25eth0]/a.png",
    "http://[fd00::1]/a.png",
    "http://0.0.0.0/a.png",
    "http://10.1.2.3/a.png",
    "http://100.64.0.1/a.png",
    "http://169.254.169.254/latest/meta-data/a.png",
    "http://172.16.0.1/a.png",
    "http://192.168.0.1/a.png",
    "http://224.0.0.1/a.png",
    "http://255.255.255.255/a.png",
    "http://localhost/a.png",
    "http://LOCALHOST./a.png",
    "http://a.localhost/a.png",
    "http://printer.local/a.png",
    "http://metadata.google.internal/a.png",
    "http://intranet/a.png",
    "http://user@cdn.example.com/a.png",
    "http://cdn.example.com:80@127.0.0.1/a.png",
    "http://cdn.example.com\\@127.0.0.1/a.png",
    "http://cdn.example.com%2f@127.0.0.1/a.png",
    "http://cdn example.com/a.png",
    "http://cdn.example.com:99999/a.png",
    "http:///a.png",
    "ftp://cdn.example.com/a.png",
    "file:///etc/passwd",
    "data:image/png;base64,AAAA",
    "a.png",
    "",
]


@pytest.mark.parametrize("address", ATTACKS)
async def test_what_cannot_be_a_public_address_is_never_looked_up(address: str) -> None:
    names = Names(["8.8.8.8"])
    with pytest.raises(Unfetched) as refused:
        await fetch(address, names=names)
    assert names.asked == []
    assert not refused.value.passing


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address", ["https://cdn.example.com/a.png", "https://8.8.8.8/a.png", "https://[2606:4700::1111]/a"]
)
def test_public_names_and_numbers_may_be_asked(address: str) -> None:
    assert str(checked(address)) == address


def test_a_signed_address_is_asked_for_to_the_letter() -> None:
    signed = "https://cdn.example.com/a%2Fb%7Ec.png?X-Sig=a%2Bb%3D%7E&q='x'"
    assert str(checked(signed)) == signed


@pytest.mark.parametrize(
    "found", [["127.0.0.1"], ["10.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["8.8.8.8", "::1"], ["::ffff:127.0.0.1"]]
)
async def test_a_name_that_stands_for_a_private_address_is_refused_even_beside_public_ones(found: list[str]) -> None:
    async with serving(lambda request: web.Response(body=png(), content_type="image/png")) as (base, asked):
        port = base.rpartition(":")[2]
        with pytest.raises(Unfetched, match="no public address"):
            await fetch(f"http://cdn.example.com:{port}/a.png", names=Names(found))
    assert asked == []


async def test_a_name_that_changes_between_check_and_use_reaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver's own check is taken out: what the socket is made for is looked at on its own."""
    monkeypatch.setattr("pipeline.provider.fetch._Public.resolve", lambda self, *a, **k: self._inner.resolve(*a, **k))
    async with serving(lambda request: web.Response(body=png(), content_type="image/png")) as (base, asked):
        port = base.rpartition(":")[2]
        with pytest.raises(Unfetched, match=r"127\.0\.0\.1 is no public address"):
            await fetch(f"http://cdn.example.com:{port}/a.png", names=Names(["127.0.0.1"]))
    assert asked == []


async def test_a_numeric_address_passes_the_last_look_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.provider.fetch._refuse_private", lambda host: None)
    async with serving(lambda request: web.Response(body=png(), content_type="image/png")) as (base, asked):
        with pytest.raises(Unfetched, match="no public address"):
            await fetch(f"{base}/a.png")
    assert asked == []


async def test_a_name_is_looked_up_once_a_fetch_and_what_was_looked_at_is_connected_to() -> None:
    names = Names(["203.0.113.1"], ["8.8.8.8"])
    with pytest.raises(Unfetched, match=r"203\.0\.113\.1"):
        await fetch("http://cdn.example.com/a.png", names=names)
    assert names.asked == ["cdn.example.com"]


async def test_a_loopback_endpoint_is_fetched_from_and_its_neighbours_are_not() -> None:
    shows: Answer = lambda request: web.Response(body=png(5), content_type="image/png")  # noqa: E731
    async with serving(shows) as (base, asked), serving(shows) as (neighbour, asked_there):
        kind, data = await fetch(f"{base}/a.png", own=f"{base}/v1")
        assert (kind.ext, data) == ("png", png(5))
        port = base.rpartition(":")[2]
        for address in (f"{neighbour}/a.png", f"http://[::1]:{port}/a.png", f"http://localhost:{port}/a.png"):
            with pytest.raises(Unfetched):
                await fetch(address, own=f"{base}/v1")
        with pytest.raises(Unfetched):
            await fetch(f"http://cdn.example.com:{port}/a.png", own=f"{base}/v1", names=Names(["127.0.0.1"]))
    assert (asked, asked_there) == (["/a.png"], [])


def test_the_last_look_lets_a_loopback_endpoint_pass_and_nothing_else_of_its_machine() -> None:
    own = _Origin("127.0.0.1", 8808)
    assert _may_connect("127.0.0.1", 8808, own)
    assert not _may_connect("127.0.0.1", 22, own)
    assert not _may_connect("10.0.0.1", 8808, own)
    assert not _may_connect("127.0.0.1", 8808, None)


async def test_a_redirect_is_not_followed() -> None:
    async with serving(lambda request: web.Response(status=302, headers={"Location": "/b.png"})) as (base, asked):
        with pytest.raises(Unfetched, match="302"):
            await fetch(f"{base}/a.png", own=base)
    assert asked == ["/a.png"]


async def test_an_environments_proxy_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(lambda request: web.Response(body=png(), content_type="image/png")) as (base, _):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        assert (await fetch(f"{base}/a.png", own=base))[1] == png()


async def test_the_spec_s_proxy_is_asked_but_not_for_private_addresses() -> None:
    asked: list[str] = []

    def answer(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        return web.Response(body=png(), content_type="image/png")

    async with serving(answer) as (proxy, _):
        names = Names(["8.8.8.8"], ["10.0.0.1"])
        assert (await fetch("http://cdn.example.com/a.png", names=names, proxy=proxy))[1] == png()
        for address in ("http://cdn.example.com/b.png", "http://10.0.0.1/a.png"):
            with pytest.raises(Unfetched, match="no public address"):
                await fetch(address, names=names, proxy=proxy)
    assert asked == ["http://cdn.example.com/a.png"]


# -- what, how much, and how long


async def refused(answer: Answer, **more: Any) -> Unfetched:
    async with serving(answer) as (base, _):
        with pytest.raises(Unfetched) as why:
            await fetch(f"{base}/a.png?sig=secret", own=base, **more)
    assert "secret" not in str(why.value)
    assert "secret" not in str(why.value.__context__ if not why.value.__suppress_context__ else "")
    return why.value


async def stream(
    request: web.Request, chunks: Sequence[bytes], wait: asyncio.Event | None = None
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "image/png"})
    await response.prepare(request)
    for chunk in chunks:
        await response.write(chunk)
    if wait is not None:
        await wait.wait()
    return response


async def test_a_file_over_the_cap_is_refused_by_what_it_says_of_its_size() -> None:
    why = await refused(lambda request: web.Response(body=png() + bytes(100_000), content_type="image/png"))
    assert "0.1 MB" in str(why)
    assert not why.passing


async def test_a_file_over_the_cap_is_cut_off_while_it_comes() -> None:
    written: list[bytes] = []
    async with (
        serving(lambda request: stream(request, [png(), *[bytes(10_000)] * 50])) as (base, _),
        Fetcher(**LIMITS, own=base) as fetcher,
    ):
        with pytest.raises(Unfetched, match=r"0\.1 MB"):
            await fetcher.fetch(f"{base}/a.png", written.append)
    assert sum(map(len, written)) <= 100_000


async def test_a_packed_reply_is_not_unpacked() -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "text/plain"}
    why = await refused(lambda request: web.Response(body=b"\x1f\x8b" + bytes(30), headers=headers))
    assert "no picture" in str(why)


@pytest.mark.parametrize("declared", ["text/html", "image/png", "application/octet-stream", "application/json"])
async def test_a_page_in_place_of_a_picture_is_refused_and_nothing_of_it_is_written(declared: str) -> None:
    body = b'{"error": "expired"}' if "json" in declared else b"<!DOCTYPE html>" + bytes(2000)
    written: list[bytes] = []
    async with (
        serving(lambda request: web.Response(body=body, content_type=declared)) as (base, _),
        Fetcher(**LIMITS, own=base) as fetcher,
    ):
        with pytest.raises(Unfetched, match="no picture, sound or video"):
            await fetcher.fetch(f"{base}/a.png", written.append)
    assert written == []


async def test_an_empty_file_is_none() -> None:
    assert "empty" in str(await refused(lambda request: web.Response(body=b"", content_type="image/png")))


async def test_what_drips_is_not_waited_for() -> None:
    never = asyncio.Event()
    why = await refused(lambda request: stream(request, [png()], never), total_s=0.3)
    assert "0.3 s" in str(why)
    assert why.passing


async def test_what_breaks_off_is_no_file() -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/png", "Content-Length": "5000"})
        await response.prepare(request)
        await response.write(png())
        assert request.transport is not None
        request.transport.close()
        return response

    why = await refused(breaks)
    assert "broke off" in str(why)
    assert why.passing


@pytest.mark.parametrize(("status", "passing"), [(403, False), (404, False), (410, False), (429, True), (503, True)])
async def test_only_what_may_pass_is_worth_a_second_try(status: int, passing: bool) -> None:
    assert (await refused(lambda request: web.Response(status=status))).passing is passing


async def test_a_full_disk_is_no_fault_of_the_link() -> None:
    def full(data: bytes) -> None:
        raise StorageError("the disk is full")

    async with (
        serving(lambda request: web.Response(body=png(), content_type="image/png")) as (base, _),
        Fetcher(**LIMITS, own=base) as fetcher,
    ):
        with pytest.raises(StorageError):
            await fetcher.fetch(f"{base}/a.png", full)


def test_the_library_has_what_the_last_look_hangs_on() -> None:
    """Without ``socket_factory`` the connector would make sockets that nobody has looked at."""
    assert "socket_factory" in aiohttp.TCPConnector.__init__.__annotations__
