"""What is run: the simulator's limits and troubles, the job's own limits, and what is judged afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench_limits.judge import Verdict, hidden, known, outage, shared, tokens
from tests.bench_limits.trace import Trace

RPM = 3000
TPM = 300_000
CHANGE_S = 120.0
OUTAGE = (15.0, 75.0)
SHARED_S = 75.0


@dataclass(frozen=True)
class Scenario:
    name: str
    about: str
    rows: int
    simulator: dict[str, Any]
    judge: Callable[[Trace], Sequence[Verdict]]
    limits: dict[str, Any] = field(default_factory=dict)
    lengths: dict[str, Any] | None = None
    timeout_s: float = 60.0
    minutes: float | None = None  # stop then; None: at the end of the rows
    jobs: int = 1  # so many commands at once, each with all the rows
    kill_after_s: float | None = None  # the first of them, with -9
    seconds: float = 100.0  # about what it takes, so that the long ones begin first


def _known(window: str) -> Scenario:
    return Scenario(
        f"known-{window}",
        f"{RPM:,} RPM allowed and configured, 4,500 rows, 200 ms, {_spelt(window)}",
        4_500,
        {"requests_per_minute": RPM, "window": window, "burst": 50, "latency_s": 0.2},
        lambda trace: known(trace, RPM, 4_500),
        {"requests_per_minute": RPM},
    )


def _tokens(window: str) -> Scenario:
    return Scenario(
        f"tokens-{window}",
        f"{TPM:,} TPM allowed and configured, answers of 300 tokens x lognormal(0.8), {_spelt(window)}",
        1_650,
        {"tokens_per_minute": TPM, "window": window, "latency_s": 0.5, "latency_sigma": 0.3},
        lambda trace: tokens(trace, TPM, 1_650),
        {"tokens_per_minute": TPM},
        lengths={"median_tokens": 300.0, "sigma": 0.8, "most": 4096},
        seconds=150,
    )


def _hidden(window: str, later: int, *, headers: bool) -> Scenario:
    return Scenario(
        f"hidden-{window}-{later}",
        f"nothing configured; {RPM:,} RPM, after {CHANGE_S:g} s {later:,}, {_spelt(window)}, "
        f"{'with' if headers else 'no'} headers",
        40_000,
        {
            "requests_per_minute": RPM,
            "change_after_s": CHANGE_S,
            "change_requests_per_minute": later,
            "window": window,
            "burst": 50,
            "latency_s": 0.2,
            "rate_headers": headers,
        },
        lambda trace: hidden(trace, RPM, later, CHANGE_S),
        minutes=4.15,
        seconds=250,
    )


def _outage(kind: str, name: str) -> Scenario:
    return Scenario(
        f"outage-{name}",
        f"60 s of {name}, 64 in flight, 2 s per answer",
        1_500,
        {"latency_s": 2.0, "slow_s": 6.0, "outage": [*OUTAGE, kind]},
        lambda trace: outage(trace, OUTAGE, 1_500, 64),
        timeout_s=10.0,
        seconds=170,
    )


def _shared(jobs: int, kill_after_s: float | None = None) -> Scenario:
    killed = "" if kill_after_s is None else f", one killed with -9 after {kill_after_s:g} s"
    return Scenario(
        f"shared-{jobs}" + ("-killed" if killed else ""),
        f"{RPM:,} RPM allowed, {jobs} jobs at once with it configured{killed}, 200 ms, sliding window",
        4_500,
        {"requests_per_minute": RPM, "window": "sliding", "latency_s": 0.2},
        lambda trace: shared(trace, RPM, SHARED_S),
        {"requests_per_minute": RPM},
        minutes=(SHARED_S + 10) / 60,
        jobs=jobs,
        kill_after_s=kill_after_s,
    )


def _spelt(window: str) -> str:
    return {"sliding": "sliding window", "fixed": "fixed window", "bucket": "bucket of 50"}[window]


SCENARIOS = (
    *(_known(window) for window in ("sliding", "fixed", "bucket")),
    _tokens("sliding"),
    _shared(2),
    _shared(4),
    _shared(4, kill_after_s=40.0),
    _hidden("sliding", 1_500, headers=False),
    _hidden("sliding", 6_000, headers=True),
    _hidden("bucket", 1_500, headers=True),
    _hidden("bucket", 6_000, headers=False),
    _outage("unavailable", "fast-503"),
    _outage("gateway_timeout", "slow-504"),
    _outage("hang", "black-hole"),
)
