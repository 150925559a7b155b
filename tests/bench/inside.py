"""The ``pipeline`` command with a probe inside: bytes written, stalls of the event loop, a profile.

``python -m tests.bench.inside REPORT.json [--stalls] [--profile FILE] -- run JOB ...`` runs the command in this process
and leaves what the probes saw in REPORT. The command's own code is not touched: the watch hangs on
``asyncio.Runner.run``.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import sys
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.cli import main as pipeline
from tests.bench import traffic

TICK_S = 0.005
STALL_S = 0.020


@dataclass(slots=True)
class LoopWatch:
    """How late a timer of the loop fires. What the thread waited for a core meanwhile is no stall of ours: the
    kernel counts it (schedstat), and it is taken off where the kernel tells."""

    loop: str = ""
    ticks: int = 0
    stalls: int = 0
    longest_s: float = 0.0
    longest_at_s: float = 0.0  # after the loop began
    longest_with_queue_s: float = 0.0
    queue_known: bool = True
    _began_s: float = field(default=0.0, repr=False)
    _due_s: float = field(default=0.0, repr=False)
    _queued_s: float = field(default=0.0, repr=False)

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._began_s = time.monotonic()
        self._queued_s = self._queue()
        self._again(loop)

    def _again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due_s = time.monotonic() + TICK_S
        loop.call_later(TICK_S, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        late_s = time.monotonic() - self._due_s
        queued_s = self._queue()
        own_s = late_s - (queued_s - self._queued_s)
        self._queued_s = queued_s
        self.ticks += 1
        self.stalls += own_s > STALL_S
        if own_s > self.longest_s:
            self.longest_s, self.longest_at_s = own_s, self._due_s - self._began_s
        self.longest_with_queue_s = max(self.longest_with_queue_s, late_s)
        self._again(loop)

    def _queue(self) -> float:
        """Seconds that this thread has waited for a core so far."""
        try:
            with open(f"/proc/self/task/{threading.get_native_id()}/schedstat", "rb", buffering=0) as file:
                return int(file.read().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            self.queue_known = False
            return 0.0


def watched(watch: LoopWatch, *, stalls: bool) -> None:
    """From here every loop of this process is looked at."""
    run = asyncio.Runner.run

    def run_watched(self: asyncio.Runner, main: Coroutine[Any, Any, Any], **context: Any) -> Any:
        loop = self.get_loop()
        watch.loop = type(loop).__module__
        if stalls:
            loop.call_soon(watch.begin, loop)
        return run(self, main, **context)

    asyncio.Runner.run = run_watched  # type: ignore[assignment, method-assign]


def bytes_passed_to_write() -> int | None:
    """All ``write`` calls of this process so far, files and pipes alike; None where the kernel does not tell."""
    try:
        members = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(members["wchar"])
    except (OSError, KeyError, ValueError):
        return None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.inside")
    parser.add_argument("report", type=Path)
    parser.add_argument("--stalls", action="store_true")
    parser.add_argument("--profile", metavar="FILE")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    watch = LoopWatch()
    watched(watch, stalls=args.stalls)
    by_kind = {} if args.stalls else traffic.counted()
    sys.argv = ["pipeline", *args.command]
    profile = cProfile.Profile() if args.profile else None
    code: object = 0
    try:
        if profile is None:
            pipeline()
        else:
            profile.runcall(pipeline)
    except SystemExit as ended:
        code = ended.code
    written = bytes_passed_to_write()
    if profile is not None:
        profile.dump_stats(args.profile)
    seen = {
        "wchar": written,
        "written": dict(by_kind),
        "loop": watch.loop,
        "ticks": watch.ticks,
        "stalls": watch.stalls,
        "longest_s": watch.longest_s,
        "longest_at_s": watch.longest_at_s,
        "longest_with_queue_s": watch.longest_with_queue_s,
        "queue_known": watch.queue_known,
    }
    args.report.write_text(json.dumps(seen))
    sys.exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main()
