"""The event loop that a run lives in."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pipeline.collector import spare

Result = TypeVar("Result")

_new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
try:
    import uvloop

    _new_loop = uvloop.new_event_loop
except ImportError:  # not made for every platform; asyncio's own loop serves
    pass


def run_loop(main: Coroutine[Any, Any, Result]) -> Result:
    """Until ``main`` has ended; gives what it gives, raises what it raises."""
    spare()
    gc.freeze()  # what is there by now stays: the collector need not look at it any more
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(main)
