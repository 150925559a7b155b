"""The real command with less patience: an outage is met with waits of tenths of seconds instead of minutes.

Run as ``python -m tests.e2e.impatient run job.yaml``. PATIENCE names the seconds after which an endpoint that stays
down ends the run.
"""

from __future__ import annotations

import functools
import os

from pipeline.cli import main
from pipeline.provider import ask
from pipeline.provider.limiter import Limiter

if __name__ == "__main__":
    ask.__dict__["Limiter"] = functools.partial(
        Limiter, breaker_wait_s=0.4, breaker_max_wait_s=1.0, max_down_s=float(os.environ["PATIENCE"])
    )
    main()
