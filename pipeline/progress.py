"""What a person sees while a run goes on: one bar on a terminal, a plain line every so often without one.

Counts are of rows that are safely on the disk. It looks at the run at its own pace, never per row.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

from tqdm import tqdm

BAR_EVERY_S = 0.5
LINE_EVERY_S = 30.0
RATE_OVER_S = 60.0


@dataclass(frozen=True, slots=True)
class View:
    """The run at one moment."""

    rows: int | None  # of the input, None while not known
    done_before: int
    done_now: int
    failed: int
    tokens: int
    cost_usd: float | None
    in_flight: int
    note: str = ""


@dataclass(slots=True)
class Rate:
    """Rows a second over the last minute of this run, which begins now with none."""

    clock: Callable[[], float] = time.monotonic
    _points: deque[tuple[float, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._points.append((self.clock(), 0))

    def update(self, done: int) -> float:
        now = self.clock()
        self._points.append((now, done))
        while now - self._points[0][0] > RATE_OVER_S:
            self._points.popleft()
        (began, first), (ended, last) = self._points[0], self._points[-1]
        return (last - first) / (ended - began) if ended > began else 0.0


def seconds_left(view: View, rate: float) -> float | None:
    if view.rows is None or rate <= 0:
        return None
    return max(0.0, (view.rows - view.done_before - view.done_now) / rate)


def describe(view: View, rate: float) -> str:
    """One line without control characters."""
    done = view.done_before + view.done_now
    of = f"/{view.rows}" if view.rows is not None else ""
    parts = [f"{done}{of} rows", f"{rate:.1f} rows/s", f"{short_number(view.tokens)} tokens", money(view.cost_usd)]
    parts.append(f"{view.failed} failed")
    left = seconds_left(view, rate)
    if left is not None and left > 0 and not view.note:
        parts.append(f"{short_time(left)} left")
    if view.note:
        parts.append(view.note)
    return ", ".join(parts)


class Bar:
    """The tqdm bar of a terminal."""

    every_s = BAR_EVERY_S

    def __init__(self, stream: TextIO) -> None:
        self._bar = tqdm(total=None, unit="row", file=stream, dynamic_ncols=True, smoothing=0.1, leave=True)

    def show(self, view: View) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone
            self._show(view)

    def _show(self, view: View) -> None:
        if self._bar.total != view.rows:
            self._bar.total = view.rows
        self._bar.initial = view.done_before
        self._bar.n = view.done_before + view.done_now
        self._bar.set_postfix_str(
            f"{short_number(view.tokens)} tok, {money(view.cost_usd)}, {view.failed} failed"
            + (f", {view.note}" if view.note else ""),
            refresh=True,
        )

    def say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            tqdm.write(text, file=sys.stderr)

    def close(self, view: View | None) -> None:
        if view is not None:
            self.show(view)
        with contextlib.suppress(OSError):
            self._bar.close()


class Lines:
    """Plain lines for a log file; quiet in between."""

    every_s = LINE_EVERY_S

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._rate = Rate()

    def show(self, view: View) -> None:
        self._write(describe(view, self._rate.update(view.done_now)))

    def say(self, text: str) -> None:
        self._write(text)

    def close(self, view: View | None) -> None:
        if view is not None:
            self.show(view)


Display = Bar | Lines


def short_number(number: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            return f"{number / (1e3 if unit == 'k' else limit):.1f}{unit}"
    return f"{number:.0f}"


def short_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def money(usd: float | None) -> str:
    if usd is None:
        return "price unknown"
    return f"${usd:.2f}" if usd >= 1 else f"${usd:.4f}"


def plain(text: str) -> str:
    """Text from a model or a server, safe to show on a terminal: no control or escape characters."""
    return "".join(char if char.isprintable() else " " for char in text)


def as_members(view: View, rate: float) -> dict[str, Any]:
    """For ``status --json`` and the heartbeat."""
    return {
        "rows": view.rows,
        "done": view.done_before + view.done_now,
        "done_this_run": view.done_now,
        "failed": view.failed,
        "rows_per_s": round(rate, 2),
        "seconds_left": seconds_left(view, rate),
        "tokens": view.tokens,
        "cost_usd": view.cost_usd,
        "in_flight": view.in_flight,
        "note": view.note,
    }
