"""Child processes and what they spent. This process stays small on purpose: Linux counts the size of the parent at
the moment of the fork into a child's peak memory."""

from __future__ import annotations

import http.client
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[2]


def raise_file_limit() -> None:
    """Of this process, as far as the system allows: a connection counts as an open file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def stand_aside() -> None:
    """This process plays a machine elsewhere, but runs on the cores of the one that is measured. Woken by every request
    it would take a core from a sender in the middle of its work, which no model does that is far away: two processes on
    two cores then read 1.6 times one in place of 1.9. So it waits for its turn, and finds more to answer by then.
    A core that is idle it takes at once, as before."""
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


class NotMeasured(Exception):
    """A figure that cannot be had, and why. It is told as that, never guessed."""


@dataclass(frozen=True, slots=True)
class Spent:
    """One child with all that it waited for. ``cpu_s`` is user and system time."""

    code: int
    cpu_s: float
    wall_s: float
    peak_mb: float
    began_s: float  # monotonic clock
    complaint: str  # the end of its stderr


def spend(command: Sequence[str], *, meanwhile: Callable[[int], None] | None = None) -> Spent:
    """Run to the end. ``meanwhile`` gets the child's pid and may kill it."""
    environment = {**os.environ, "BENCH_KEY": "made-up"}
    with tempfile.TemporaryFile() as stderr:
        began_s = time.monotonic()
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr
        )
        try:
            if meanwhile is not None:
                meanwhile(child.pid)
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        wall_s = time.monotonic() - began_s
        child.returncode = os.waitstatus_to_exitcode(status)
        stderr.seek(0)
        complaint = stderr.read()[-2_000:].decode(errors="replace").strip()
    cpu_s = usage.ru_utime + usage.ru_stime
    return Spent(child.returncode, cpu_s, wall_s, usage.ru_maxrss / 1_024, began_s, complaint)


def well(spent: Spent, what: str) -> Spent:
    """The same, if it ended with exit 0. Raises NotMeasured."""
    if spent.code != 0:
        said = " / ".join(spent.complaint.splitlines()[-3:]) or "it said nothing"
        raise NotMeasured(f"{what} ended with exit {spent.code}: {said}")
    return spent


@dataclass(frozen=True, slots=True)
class Stats:
    """What the canned server saw since the last reset; see ``tally``."""

    requests: int
    bytes_in: int
    most_in_flight: int
    mean_in_flight: float | None  # from when all places were taken to the last request
    first_s: float | None
    second_s: float | None
    full_s: float | None
    last_s: float | None
    cpu_s: float
    most_overtaken: int | None = None
    longest_overtaken_s: float | None = None

    def per_s(self) -> float:
        """Requests per second from the first request to the last reply, ramp and tail included."""
        if self.first_s is None or self.last_s is None or self.last_s <= self.first_s:
            raise NotMeasured("the server saw no requests")
        return self.requests / (self.last_s - self.first_s)

    def going_per_s(self, latency_s: float) -> float:
        """... and while all places were taken, rows enough being left."""
        if self.mean_in_flight is None:
            raise NotMeasured("there were too few rows to take all places")
        return self.mean_in_flight / latency_s

    def ramp_s(self) -> float:
        """From the first request that did not go alone until all places were taken."""
        if self.full_s is None or self.second_s is None:
            raise NotMeasured("there was one request at most")
        return self.full_s - self.second_s


class CannedServer:
    """The server process, as a context manager."""

    def __init__(self, latency_s: float = 0.0, *, typed: bool = False, numbered: bool = False) -> None:
        command = [sys.executable, "-m", "tests.bench.server", "--latency", str(latency_s)]
        command += ["--typed"] if typed else []
        command += ["--numbered"] if numbered else []
        self._child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise NotMeasured(f"the canned server did not start (exit {self._child.wait()})")
        self.port = int(line)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> Stats:
        return Stats(**json.loads(self._get("/stats")))

    def reset(self) -> None:
        self._get("/reset")

    def _get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.close()
        self._child.wait()
        self._child.stdout.close()
