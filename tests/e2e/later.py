"""The real command on another day: its wall clock is ``LATER_S`` seconds ahead.

``python -m tests.e2e.later run job.yaml``; ``later`` runs it for a job.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.rig import DEADLINE_S, JobFolder

ROOT = Path(__file__).resolve().parents[2]
DAY_S = 86_400.0


def command(job: JobFolder, verb: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.e2e.later", *job.command(verb, *arguments)[3:]]


def environment(job: JobFolder, days: float) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**job.environment(), "PYTHONPATH": path, "LATER_S": str(days * DAY_S)}


def later(job: JobFolder, days: float, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What ``job.run`` does, so many days from now."""
    return subprocess.run(
        command(job, *(arguments or ("run",))),
        cwd=job.folder,
        env=environment(job, days),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def start_later(job: JobFolder, days: float, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(job, *arguments),
        cwd=job.folder,
        env=environment(job, days),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


if __name__ == "__main__":
    now, ahead_s = time.time, float(os.environ["LATER_S"])
    time.time = lambda: now() + ahead_s
    sys.argv[0] = "pipeline"
    runpy.run_module("pipeline", run_name="__main__")
