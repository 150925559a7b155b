"""What it costs to run a job again: finished, finished without its tables, and killed half way."""

from __future__ import annotations

import os
import shutil
import signal
import time

from tests.bench.figures import Figure
from tests.bench.measures import Bench
from tests.bench.process import NotMeasured, Spent

_PATIENCE_S = 600.0


def resume(bench: Bench) -> list[Figure]:
    rows = bench.sizes.resume_rows
    job, _ = bench.place.finished(rows, bench.server)
    results = job.folder / "results.parquet"
    before = results.stat().st_mtime_ns
    spent, requests = bench.place.run_again(job, bench.server)
    kept = "results.parquet untouched" if results.stat().st_mtime_ns == before else "RESULTS.PARQUET WAS WRITTEN AGAIN"
    figures = _told(f"finished job of {rows:,} rows again", spent, requests, kept)
    results.unlink()
    spent, requests = bench.place.run_again(job, bench.server)
    figures += _told(f"the same without results.parquet ({rows:,})", spent, requests, "planned and joined anew")
    return figures


def half_way(bench: Bench) -> list[Figure]:
    """Killed with -9 at half of the rows, then run again."""
    rows = bench.sizes.resume_rows
    job = bench.place.job(rows, bench.server)
    bench.server.reset()
    bench.place.run_killed(job, lambda pid: _kill_at(pid, bench, rows // 2))
    first = bench.server.stats().requests
    spent, second = bench.place.run_again(job, bench.server)
    name = f"killed half way ({first:,} sent), run again"
    figures = [
        Figure(f"{name}, CPU", spent.cpu_s, "s", "", f"for {second:,} requests"),
        Figure(f"{name}, wall", spent.wall_s, "s", "", f"peak memory {spent.peak_mb:.0f} MiB"),
        Figure("requests sent twice", first + second - rows, "", "<= 256 in flight"),
    ]
    shutil.rmtree(job.folder)
    return figures


def _told(name: str, spent: Spent, requests: int, note: str) -> list[Figure]:
    return [
        Figure(f"{name}, CPU", spent.cpu_s, "s", "", note),
        Figure(f"{name}, wall", spent.wall_s, "s", "", f"peak memory {spent.peak_mb:.0f} MiB"),
        Figure(f"{name}, requests", requests, "", "0", "as the server counted"),
    ]


def _kill_at(pid: int, bench: Bench, requests: int) -> None:
    patient_until_s = time.monotonic() + _PATIENCE_S
    while bench.server.stats().requests < requests:
        if time.monotonic() > patient_until_s:
            raise NotMeasured(f"half of the rows were not sent within {_PATIENCE_S:.0f} s")
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return  # it ended by itself, which whoever started it will notice
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
