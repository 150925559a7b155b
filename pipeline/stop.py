"""Why a run ends before its rows do: the first reason counts, and everybody who must know is told once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

from pipeline.errors import PipelineError, RunPaused

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(RunPaused):
    """A second signal: leave at once."""

    exit_code = 130


class Stop:
    """``reason`` is None while the run goes on. ``on_stop`` begins the drain, ``on_hurry`` ends it."""

    def __init__(self) -> None:
        self.reason: PipelineError | None = None
        self.hurried = False
        self.on_stop: Callable[[], None] = lambda: None
        self.on_hurry: Callable[[], None] = lambda: None

    @property
    def stopping(self) -> bool:
        return self.reason is not None

    def because(self, reason: PipelineError) -> None:
        """Begin to stop; later reasons change nothing but the first one's haste."""
        if self.reason is None:
            self.reason = reason
            self.on_stop()

    def hurry(self, reason: PipelineError) -> None:
        """Stop at once: what is in flight is given up, what was received is kept."""
        if not self.hurried:
            self.hurried = True
            self.reason = reason
            self.on_hurry()

    def signalled(self, name: str) -> None:
        if self.reason is None:
            self.because(RunPaused(f"stopped by {name}; the same command goes on where it stopped"))
        else:
            self.hurry(Interrupted(f"stopped at once by a second signal ({name}); run the same command again"))


@contextlib.contextmanager
def signals_to(stop: Stop) -> Iterator[None]:
    """Inside a running loop: SIGINT, SIGTERM and SIGHUP drain, a second one leaves at once."""
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.signalled, number.name)
    try:
        yield
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Outside a loop (reading, planning, writing tables): a signal raises RunPaused at once, nothing is lost by it."""

    def raise_paused(number: int, _frame: object) -> None:
        raise RunPaused(f"stopped by {signal.Signals(number).name}; the same command goes on where it stopped")

    before = {number: signal.signal(number, raise_paused) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
