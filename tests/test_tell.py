from __future__ import annotations

from typing import Any

from pipeline.tell import status_lines


def lines_of(limits: dict[str, Any]) -> list[str]:
    now: dict[str, Any] = {
        "done": 1,
        "rows": 2,
        "rows_per_s": 0.5,
        "cost_usd": None,
        "in_flight": 1,
        "slowest_in_flight": [],
    }
    told = dict.fromkeys(
        ("requests", "requests_billed", "requests_maybe_billed", "prompt_tokens", "completion_tokens"), 1
    )
    members = {"job": "j", "running": True, "simulated": False, "recorded": {}, "failures": {}, **told}
    return status_lines({**members, "now": {**now, "limits": limits}})


def test_status_says_how_many_share_the_limits_and_what_this_job_has() -> None:
    shared = {"jobs_sharing": 2.0, "requests_per_minute_share": 1499.5, "tokens_per_minute_share": 400_000.0}
    told = "  limits shared by 2 jobs; this one has 1500 requests per minute, 400.0k tokens per minute"
    assert told in lines_of(shared)


def test_status_of_a_job_alone_says_nothing_of_sharing() -> None:
    for limits in ({}, {"jobs_sharing": 1.0, "requests_per_minute_share": 3000.0}):
        assert not [line for line in lines_of(limits) if "shared" in line]
