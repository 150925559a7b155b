from __future__ import annotations

import time
from typing import Any

from pipeline.status import status_lines


def limits_line(limits: dict[str, Any]) -> str:
    """What is said of the limits of a run that goes on."""
    now: dict[str, Any] = {
        "at": time.time(),
        "done": 1,
        "done_this_run": 1,
        "rows": 2,
        "rows_per_s": 0.5,
        "seconds_left": 2.0,
        "in_flight": 1,
        "slowest_in_flight": [],
        "limits": {
            "requests_per_minute": None,
            "requests_per_minute_given": 3000.0,
            "concurrency": 8.0,
            "refused": 0.0,
            **limits,
        },
    }
    counts = ("requests", "requests_billed", "requests_maybe_billed", "prompt_tokens", "completion_tokens", "cost_usd")
    members = {
        "job": "j",
        "running": True,
        "phase": "sending",
        "process": None,
        "simulated": False,
        "recorded": {},
        "failures": {},
        **dict.fromkeys(counts, 1),
        "now": now,
    }
    (told,) = [line for line in status_lines(members) if line.startswith("  limits")]
    return told


def test_status_says_how_many_share_the_limits_and_what_this_job_has() -> None:
    shared = {"jobs_sharing": 2.0, "requests_per_minute_share": 1499.5, "tokens_per_minute_share": 400_000.0}
    told = "; shared by 2 jobs, this one has 1500 requests per minute, 400.0k tokens per minute"
    assert limits_line(shared).endswith(told)


def test_status_of_a_job_alone_says_nothing_of_sharing() -> None:
    for limits in ({}, {"jobs_sharing": 1.0, "requests_per_minute_share": 3000.0}):
        assert "shared" not in limits_line(limits)
