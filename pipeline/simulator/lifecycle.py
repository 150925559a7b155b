"""Starts and stops the simulator: inside a test or a rehearsal, or as a server of its own."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import signal
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from pipeline.errors import SpecError
from pipeline.simulator.server import SERVICE, Service, create_app
from pipeline.simulator.settings import Settings
from pipeline.simulator.wire import Sleep

_BACKLOG = 4096  # a pool that starts with hundreds of connections at once must not be refused any
_GRACE_S = 0.5  # for answers in flight when the server goes


class Simulator:
    """An async context manager: serves while it is open. ``stats`` can still be asked afterwards."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        allow_remote: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Port 0 is any free one. Raises SpecError for a host that others can reach, unless ``allow_remote``."""
        _check_address(host, port, allow_remote)
        self._settings = settings if settings is not None else Settings()
        self._host = host
        self._port = port
        self._clock = clock
        self._sleep = sleep
        self._runner: web.AppRunner | None = None
        self._service: Service | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Raises SpecError when the port is taken or the ledger's file cannot be used."""
        app = create_app(self._settings, self._clock, self._sleep)
        self._service = app[SERVICE]
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GRACE_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port, backlog=_BACKLOG).start()
        except OSError as exc:
            await runner.cleanup()
            raise _cannot_listen(self._host, self._port, exc) from exc
        self._runner = runner
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def base_url(self) -> str:
        """Once started; it stays the same over a stop and another start."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/v1"

    def stats(self, *, bodies: bool = False, seconds: bool = False) -> dict[str, Any]:
        """What GET /stats says."""
        if self._service is None:
            raise RuntimeError("the simulator was never started")
        return self._service.ledger.stats(bodies=bodies, seconds=seconds)


def serve(
    settings: Settings,
    host: str,
    port: int,
    *,
    ready: Callable[[str], None],
    allow_remote: bool = False,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Blocks until SIGINT or SIGTERM. ``ready`` is told the base URL once it answers. Raises SpecError."""
    simulator = Simulator(settings, host=host, port=port, allow_remote=allow_remote)
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(simulator, ready))


async def _serve(simulator: Simulator, ready: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    async with simulator:
        ready(simulator.base_url)
        await stop.wait()


def _check_address(host: str, port: int, allow_remote: bool) -> None:
    if not 0 <= port <= 65535:
        raise SpecError(f"port must lie in 0..65535 (0: any free one), not {port}")
    if not allow_remote and not _is_loopback(host):
        raise SpecError(
            f"the simulator answers anybody who reaches it, and {host} is not this machine alone; use 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _cannot_listen(host: str, port: int, exc: OSError) -> SpecError:
    if exc.errno == errno.EADDRINUSE:
        return SpecError(
            f"port {port} on {host} is taken; stop what listens there, or ask for another (0: any free one)"
        )
    return SpecError(f"cannot listen on {host}, port {port}: {exc.strerror or exc}")
