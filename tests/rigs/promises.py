"""Two promises in long form: simultaneous starts, and equal bytes after any interruptions.

``python -m tests.rigs.promises pairs 100`` and ``... schedules 20`` print figures and exit 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.simulator import Settings
from pipeline.simulator.background import in_background
from tests.e2e.rig import Endpoint, JobFolder, ended


@contextmanager
def _job(rows: int, latency_s: float) -> Iterator[tuple[Endpoint, JobFolder]]:
    with (
        tempfile.TemporaryDirectory(prefix="promises-") as name,
        in_background(Settings(latency_s=latency_s, latency_sigma=0.4)) as base_url,
    ):
        job = JobFolder(Path(name), base_url)
        job.number_of_rows(rows)
        yield Endpoint(base_url), job


def pairs(count: int) -> tuple[dict[str, object], list[str]]:
    """Two starts at once, again and again: one works, the other leaves with 75, no row is sent twice."""
    waits: list[float] = []
    broken: list[str] = []
    for turn in range(count):
        with _job(40, 0.3) as (endpoint, job):
            job.write()
            began = time.monotonic()
            both = [job.start(), job.start()]
            left: dict[int, tuple[int, float]] = {}
            while len(left) < 2:
                for place, process in enumerate(both):
                    if place not in left and process.poll() is not None:
                        left[place] = (process.returncode, time.monotonic() - began)
                time.sleep(0.005)
            for process in both:
                ended(process)
            codes = sorted(code for code, _ in left.values())
            requests = endpoint.stats()["requests"]
            waits += [seconds for code, seconds in left.values() if code == 75]
            if codes != [0, 75] or requests != 40:
                broken.append(f"pair {turn}: exit codes {codes}, {requests} requests for 40 rows")
    slow = [wait for wait in waits if wait > 1.0]
    figures = {
        "pairs": count,
        "one_worked_one_left_with_75": count - len(broken),
        "seconds_until_75": {"median": round(statistics.median(waits), 3), "most": round(max(waits), 3)},
        "over_one_second": len(slow),
    }
    return figures, broken


def schedules(count: int) -> tuple[dict[str, object], list[str]]:
    """The same job under different kill schedules: results.parquet is the same, byte for byte."""
    prints: list[str] = []
    kills = 0
    for seed in range(count):
        chance = random.Random(seed)
        with _job(600, 0.02) as (endpoint, job):
            for _ in range(seed % 4):
                process = job.start()
                goal = endpoint.stats()["requests"] + chance.randrange(1, 150)
                while endpoint.stats()["requests"] < goal and process.poll() is None:
                    time.sleep(0.005)
                process.kill()
                kills += ended(process)[0] == -9
            code = job.run().returncode
            if code != 0:
                return {"schedules": seed}, [f"schedule {seed} ended with {code}"]
            prints.append(hashlib.sha256((job.out / "results.parquet").read_bytes()).hexdigest())
    figures: dict[str, object] = {"schedules": count, "kills": kills, "different_results": len(set(prints))}
    return figures, [] if len(set(prints)) == 1 else [f"{len(set(prints))} different results.parquet"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("promise", choices=["pairs", "schedules"])
    parser.add_argument("count", type=int)
    options = parser.parse_args()
    figures, broken = {"pairs": pairs, "schedules": schedules}[options.promise](options.count)
    print(json.dumps({options.promise: figures}, indent=2))
    for line in broken:
        print(f"BROKEN: {line}")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
