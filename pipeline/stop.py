"""Why a run ends before its rows do: the first reason counts, and everybody who must know is told once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.errors import PipelineError, RunPaused

DRAIN_S = 60.0
"""So long are answers waited for that are paid for."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _heeded(numbers: Sequence[signal.Signals] = SIGNALS) -> dict[signal.Signals, Any]:
    """The signals that stop a run, with their handlers until now; not SIGHUP under ``nohup``, which says so."""
    found = {number: signal.getsignal(number) for number in numbers}
    if found.get(signal.SIGHUP) is signal.SIG_IGN:
        del found[signal.SIGHUP]
    return {number: signal.SIG_DFL if handler is None else handler for number, handler in found.items()}


class Interrupted(RunPaused):
    """A second signal: leave at once."""

    exit_code = 130


class Stop:
    """``reason`` is None while the run goes on. ``on_stop`` begins the drain, ``on_hurry`` ends it."""

    def __init__(self) -> None:
        self.reason: PipelineError | None = None
        self.hurried = False
        self._signals = 0
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
        # Counted apart from other reasons: a first signal must not cut off what a deadline is already waiting for.
        self._signals += 1
        if self._signals == 1:
            self.because(RunPaused(f"stopped by {name}; the same command goes on where it stopped"))
        else:
            self.hurry(Interrupted(f"stopped at once by a second signal ({name}); run the same command again"))


@contextlib.contextmanager
def signals_to(stop: Stop, numbers: Sequence[signal.Signals] = SIGNALS) -> Iterator[None]:
    """Inside a running loop: SIGINT, SIGTERM and SIGHUP drain, a second one leaves at once."""
    loop = asyncio.get_running_loop()
    before = _heeded(numbers)
    for number in before:
        loop.add_signal_handler(number, stop.signalled, number.name)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)  # leaves sudden death in place, which nobody asked for
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_raise() -> Iterator[Callable[[], None]]:
    """Outside a loop (reading, planning, writing tables): a signal raises RunPaused at once, nothing is lost by it.

    Gives a step that raises it again: a library may swallow what is raised in the middle of its code."""
    noted: list[int] = []

    def raise_paused(number: int, _frame: object) -> None:
        noted.append(number)
        raise _paused(number)

    def raise_again() -> None:
        if noted:
            raise _paused(noted[0])

    with _handled(raise_paused):
        yield raise_again


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Around a short step that other threads take part in: a signal raises RunPaused when it is done."""
    noted: list[int] = []
    with _handled(lambda number, _frame: noted.append(number)):
        yield
    if noted:
        raise _paused(noted[0])


@contextlib.contextmanager
def _handled(handler: Callable[[int, object], None]) -> Iterator[None]:
    before = _heeded()
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _paused(number: int) -> RunPaused:
    return RunPaused(f"stopped by {signal.Signals(number).name}; the same command goes on where it stopped")
