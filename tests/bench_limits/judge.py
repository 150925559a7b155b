"""From a trace to figures, each with its goal.

"Used" is what came through over what was allowed: answers / (allowed per second x seconds). The seconds run from the
first request's arrival to the last answer's departure unless a span is named; with a span, requests count by arrival.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench_limits.trace import Trace

TAKE_OVER_S = 10.0
"""Within so many seconds the others must have the share of a job that was killed."""

FIND_S = 30.0
"""Within so many seconds an allowance must be found."""


@dataclass(frozen=True)
class Verdict:
    """``goal`` is a bound: at least it when ``at_least``, else at most. None: told for information."""

    what: str
    value: float
    goal: float | None = None
    at_least: bool = False
    percent: bool = False

    @property
    def met(self) -> bool:
        if self.goal is None:
            return True
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    @property
    def told(self) -> str:
        return self._spell(self.value)

    @property
    def goal_told(self) -> str:
        if self.goal is None:
            return ""
        return f"{'>=' if self.at_least else '<='} {self._spell(self.goal)}"

    def _spell(self, value: float) -> str:
        if self.percent:
            return f"{100 * value:.2f} %"
        return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _share(what: str, value: float, goal: float | None = None, *, at_least: bool = False) -> Verdict:
    return Verdict(what, value, goal, at_least, percent=True)


def _always(trace: Trace, refused: float) -> list[Verdict]:
    return [
        _share("429s of all requests", trace.refused_share, refused),
        Verdict("failed rows", trace.failed_rows, 0),
    ]


def known(trace: Trace, per_minute: int, rows: int) -> Sequence[Verdict]:
    used = len(trace.good) / (per_minute / 60 * max(trace.last_answer_s, 1e-9))
    return [
        _share("used, first request to last answer", used, 0.98, at_least=True),
        *_always(trace, 0.005),
        Verdict("answers", len(trace.good), rows, at_least=True),
        Verdict("longest silence, s", round(trace.longest_silence_s(), 1), 2.0),
    ]


def tokens(trace: Trace, per_minute: int, rows: int) -> Sequence[Verdict]:
    total = sum(entry.tokens for entry in trace.good)
    used = total / (per_minute / 60 * max(trace.last_answer_s, 1e-9))
    return [
        _share("tokens used, first request to last answer", used, 0.95, at_least=True),
        *_always(trace, 0.01),
        Verdict("answers", len(trace.good), rows, at_least=True),
        Verdict("tokens per answer", total / max(1, len(trace.good))),
    ]


def hidden(trace: Trace, before: int, after: int, change_s: float) -> Sequence[Verdict]:
    def used(what: str, start_s: float, end_s: float, per_minute: int, *, goal: bool = True) -> Verdict:
        share = trace.admitted(start_s, end_s) / (per_minute / 60 * (end_s - start_s))
        return _share(f"used {start_s:g}-{end_s:g} s, {what}", share, 0.9 if goal else None, at_least=True)

    # From the start, because a burst into an empty window is the allowance used early, and not a loss. After a change:
    # what was sent in the minute before a drop fills the new, smaller window, and nobody can use that at once.
    found_s, end_s = change_s + FIND_S, 2 * change_s
    return [
        *(used("from the start", 0, until_s, before) for until_s in (FIND_S, 60, change_s)),
        used("from the change", change_s, end_s, after, goal=False),
        used("half a minute after it", found_s, end_s, after),
        *_always(trace, 0.02),
    ]


def outage(trace: Trace, span: tuple[float, float], rows: int, workers: int) -> Sequence[Verdict]:
    into = sum(trace.stats["by_fault"].values())
    probes = trace.summary["limits_found"].get("outages", 0) + 8
    on_wire = sum(entry.came_s < span[0] <= entry.left_s for entry in trace.entries)
    again = min((entry.came_s for entry in trace.good if entry.came_s >= span[1]), default=float("inf"))
    return [
        Verdict("failed rows", trace.failed_rows, 0),
        Verdict("answers", len(trace.good), rows, at_least=True),
        Verdict("requests into the outage", into, 2 * workers + probes),
        Verdict("on the wire as it began", on_wire),
        Verdict("s from its end to the next good request", round(again - span[1], 1)),
        Verdict("billed more than once", trace.stats["repeated"], 2 * workers),
        Verdict("s in all", round(trace.last_answer_s, 1)),
    ]


def shared(trace: Trace, per_minute: int, until_s: float) -> Sequence[Verdict]:
    def used(what: str, start_s: float, end_s: float) -> Verdict:
        share = trace.admitted(start_s, end_s) / (per_minute / 60 * (end_s - start_s))
        return _share(f"used {start_s:.0f}-{end_s:.0f} s, {what}", share, 0.95, at_least=True)

    if trace.killed_s is None:
        spans = [used("from the first request", 0, until_s)]
    else:
        heirs_s = trace.killed_s + TAKE_OVER_S
        spans = [used("until one was killed", 0, trace.killed_s), used("by its heirs", heirs_s, until_s)]
    each = [summary["rows_ended_this_run"] for summary in trace.summaries]
    return [
        *spans,
        *_always(trace, 0.01),
        _share("fewest answers of a job / most", min(each) / max(1, max(each))),
    ]
