"""Real connections on loopback; how long one takes to be opened is up to a resolver that waits until it is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import TestServer

from pipeline.provider.dial import AT_ONCE, Dialer


class Resolver(AbstractResolver):
    """Everything is on loopback, once somebody opens the gate."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asking = self.most = self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        self.asking += 1
        self.most = max(self.most, self.asking)
        try:
            await self.gate.wait()
        finally:
            self.asking -= 1
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        return


class Server:
    """Says who came, in order; holds a reply back for as long as ``held`` says."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self.held: dict[str, asyncio.Event] = {}

    async def answer(self, request: web.Request) -> web.Response:
        name = request.path[1:]
        self.came.append(name)
        if name in self.held:
            await self.held[name].wait()
        return web.Response(text=name)


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, int]]:
    told = Server()
    app = web.Application()
    app.router.add_get("/{name}", told.answer)
    async with TestServer(app) as running:
        assert running.port is not None
        yield told, running.port


def session(resolver: Resolver, at_once: int) -> aiohttp.ClientSession:
    connector = Dialer(at_once=at_once, resolver=resolver, use_dns_cache=False)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30))


async def get(client: aiohttp.ClientSession, port: int, name: str) -> str:
    async with client.get(f"http://endpoint.example:{port}/{name}") as reply:
        return await reply.text()


async def until(condition: object) -> None:
    """Let the others go on until it is so."""
    assert callable(condition)
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


async def test_so_many_connections_are_being_opened_at_a_time_and_all_are_had(server: tuple[Server, int]) -> None:
    told, port = server
    resolver = Resolver()
    async with session(resolver, 4) as client:
        calls = [asyncio.create_task(get(client, port, str(number))) for number in range(20)]
        await until(lambda: resolver.asking == 4)
        for _ in range(100):  # nobody else begins meanwhile
            await asyncio.sleep(0)
        assert resolver.asked == 4
        resolver.gate.set()
        assert await asyncio.gather(*calls) == [str(number) for number in range(20)]
    assert resolver.most == 4
    assert len(told.came) == 20


async def test_who_comes_last_does_not_take_the_connection_that_the_first_would_open(
    server: tuple[Server, int],
) -> None:
    told, port = server
    resolver = Resolver()
    resolver.gate.set()
    told.held["first"] = asyncio.Event()
    async with session(resolver, 1) as client:
        first = asyncio.create_task(get(client, port, "first"))
        await until(lambda: told.came == ["first"])
        resolver.gate.clear()
        second = asyncio.create_task(get(client, port, "second"))
        await until(lambda: resolver.asking == 1)
        told.held["first"].set()
        await first  # its connection is free now
        third = asyncio.create_task(get(client, port, "third"))
        for _ in range(100):
            await asyncio.sleep(0)
        assert told.came == ["first"]
        resolver.gate.set()
        await asyncio.gather(second, third)
    assert set(told.came[1:]) == {"second", "third"}
    assert resolver.asked == 2  # and in its turn it took that connection


async def test_a_call_that_is_given_up_gives_its_turn_to_the_next(server: tuple[Server, int]) -> None:
    _, port = server
    resolver = Resolver()
    async with session(resolver, 1) as client:
        opening = asyncio.create_task(get(client, port, "opening"))
        await until(lambda: resolver.asking == 1)
        waiting = asyncio.create_task(get(client, port, "waiting"))
        last = asyncio.create_task(get(client, port, "last"))
        await asyncio.sleep(0)
        for given_up in (waiting, opening):
            given_up.cancel()
            await asyncio.gather(given_up, return_exceptions=True)
        resolver.gate.set()
        assert await last == "last"


def test_the_default_stays_below_the_backlog_of_common_servers() -> None:
    assert AT_ONCE < 511
