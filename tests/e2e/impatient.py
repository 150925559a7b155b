"""The real command with less patience: an outage is met with waits of tenths of seconds instead of minutes.

``command`` and ``environment`` start it; it runs as ``python -m tests.e2e.impatient run job.yaml``.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

from pipeline.cli import main
from pipeline.provider import wire
from pipeline.provider.limiter import Limiter
from tests.e2e.rig import JobFolder

ROOT = Path(__file__).resolve().parents[2]


def command(job: JobFolder, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.e2e.impatient", "run", str(job.write()), *arguments]


def environment(job: JobFolder, patience_s: float) -> dict[str, str]:
    """``patience_s``: so long may the endpoint be down before the run ends."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**job.environment(), "PYTHONPATH": path, "PATIENCE": str(patience_s)}


if __name__ == "__main__":
    wire.__dict__["Limiter"] = functools.partial(
        Limiter, breaker_wait_s=0.4, breaker_max_wait_s=1.0, max_down_s=float(os.environ["PATIENCE"])
    )
    main()
