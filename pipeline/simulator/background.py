"""The simulator beside the caller, in a thread with a loop of its own: for rehearsals."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from pipeline.simulator.lifecycle import Simulator
from pipeline.simulator.settings import Settings


@contextlib.contextmanager
def in_background(settings: Settings) -> Iterator[str]:
    """Serves while open; gives the base URL. The thread is a daemon: it ends with the process, however that ends."""
    loop = asyncio.new_event_loop()
    simulator = Simulator(settings)
    thread = threading.Thread(target=loop.run_forever, name="simulator", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(simulator.start(), loop).result()
        yield simulator.base_url
        asyncio.run_coroutine_threadsafe(simulator.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
