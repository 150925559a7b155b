"""What waiting costs, not what working costs: replies that take their time, few and many of them at once.

Most of a run's life is like this. What is lost to the ideal (so many in flight, one reply each in a latency) is lost at
the beginning (the first request goes alone; where no limit is named more and more follow it), at the end (the last
rows leave places empty), and between a reply and the next request in its place. Only the last grows with the rows.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tests.bench.figures import Figure
from tests.bench.load import WORKERS
from tests.bench.measures import Bench
from tests.bench.process import CannedServer, Spent, Stats

LATENCY_S = 0.2
NAMED = ", requests_per_minute: 60000000"
"""A limit that never binds. Where one is named all places are taken at once, instead of found out."""

MANY = 5_000
MANY_LATENCY_S = 2.0


@dataclass(slots=True)
class _Side:
    whole: list[float] = field(default_factory=list)
    going: list[float] = field(default_factory=list)
    ramp_s: list[float] = field(default_factory=list)

    def add(self, seen: Stats) -> None:
        self.whole.append(seen.per_s())
        self.going.append(seen.going_per_s(LATENCY_S))
        self.ramp_s.append(seen.ramp_s())


def latency(bench: Bench) -> list[Figure]:
    """Three sides in turns; whoever begins a round changes."""
    rows = bench.sizes.latency_rows
    sides = {"bare loop": _Side(), "pipeline": _Side(), "pipeline, limit named": _Side()}
    with CannedServer(LATENCY_S) as slow:
        for number in range(bench.sizes.pairs):
            order = list(sides)
            for name in order[number % 3 :] + order[: number % 3]:
                if name == "bare loop":
                    bench.place.bare(rows, slow)
                else:
                    bench.place.pipeline(rows, slow, limits=NAMED if "named" in name else "")
                sides[name].add(slow.stats())
    ideal = WORKERS / LATENCY_S
    whole = f"of {ideal:,.0f}/s; {rows:,} rows, {WORKERS} in flight at 200 ms; canary, ramp and tail included"
    going = "... while all places were taken: mean in flight / latency"
    figures = []
    for name, side in sides.items():
        goal = f">= {0.92 * ideal:,.0f}" if name.startswith("pipeline") else ""
        figures += [
            Figure.median(f"requests/s at 200 ms, {name}", side.whole, "/s", goal, whole),
            Figure.median(f"the same without ramp and tail, {name}", side.going, "/s", goal, going),
        ]
        if name.startswith("pipeline"):  # the bare loop opens all its connections before it asks
            told = "from the second request on"
            figures.append(Figure.median(f"until all places are taken, {name}", side.ramp_s, "s", "", told))
    return figures


def many(bench: Bench) -> list[Figure]:
    """So many connections at once on one process: are they had, is the order kept, what do they cost?"""
    rows = bench.sizes.many_rows
    ideal = MANY / MANY_LATENCY_S
    with CannedServer(MANY_LATENCY_S, numbered=True) as slow:
        drops = _drops()
        bare, _ = bench.place.bare(rows, slow, MANY, numbered=True)
        theirs = slow.stats()
        away_bare, drops = _turned_away("bare loop", drops), _drops()
        job = bench.place.job(rows, slow, MANY, limits=NAMED, numbered=True)
        seen, ours = bench.place.probed(job, slow, "--stalls")
        stats = slow.stats()
        away_ours = _turned_away("pipeline", drops)
        shutil.rmtree(job.folder)
        job = bench.place.job(rows, slow, MANY, numbered=True)
        bench.place.run(job, slow)
        found = slow.stats()
        shutil.rmtree(job.folder)
    how = f"{rows:,} rows at {MANY_LATENCY_S:g} s, one run"
    goal = f">= {0.92 * ideal:,.0f}"
    own = "waiting for a core taken off" if seen["queue_known"] else "waiting for a core NOT taken off"
    return [
        Figure("most in flight at once", stats.most_in_flight, "", f"{MANY:,}", how),
        *_rates("bare loop", theirs, ""),
        *_rates("pipeline", stats, goal),
        *_rates("pipeline, limit to be found", found, ""),
        _cpu("bare loop", bare, rows),
        _cpu("pipeline", ours, rows),
        Figure("the canned server's own CPU", stats.cpu_s / rows * 1_000, "ms/request", "", "it shares the cores"),
        Figure("peak memory, bare loop", bare.peak_mb, "MiB"),
        Figure("peak memory, pipeline", ours.peak_mb, "MiB"),
        Figure("longest event-loop stall", seen["longest_s"] * 1_000, "ms", "", f"{own}; a burst of replies is one"),
        *_order("bare loop", theirs),
        *_order("pipeline", stats),
        away_bare,
        away_ours,
    ]


def _rates(side: str, stats: Stats, goal: str) -> list[Figure]:
    ideal = MANY / MANY_LATENCY_S
    return [
        Figure(f"requests/s at 2 s, {side}", stats.per_s(), "/s", "", f"of {ideal:,.0f}; ramp and tail included"),
        Figure(f"the same without ramp and tail, {side}", stats.going_per_s(MANY_LATENCY_S), "/s", goal),
        *([Figure(f"until all places are taken, {side}", stats.ramp_s(), "s")] if side != "bare loop" else []),
    ]


def _order(side: str, stats: Stats) -> list[Figure]:
    how = "at most; rows go out in input order"
    return [
        Figure(f"a row overtaken by one further on, {side}", stats.most_overtaken, "rows", "", how),
        Figure(f"the same, by how long, {side}", stats.longest_overtaken_s, "s", "", how),
    ]


def _cpu(side: str, spent: Spent, rows: int) -> Figure:
    return Figure(f"CPU at {MANY:,} in flight, {side}", spent.cpu_s / rows * 1_000, "ms/request", "", "whole process")


def _turned_away(side: str, before: int | None) -> Figure:
    name, after = f"connections turned away at first, {side}", _drops()
    if before is None or after is None:
        return Figure(name, None, "", "", "this kernel does not tell (/proc/net/netstat)")
    note = "a backlog was full, of any program here; the system knocks again after 1, 3, 7 s"
    return Figure(name, after - before, "", "", note)


def _drops() -> int | None:
    """Connections that this machine has turned away so far because a server's backlog was full."""
    try:
        lines = [line.split() for line in Path("/proc/net/netstat").read_text().splitlines()]
        told = next(dict(zip(*pair, strict=True)) for pair in pairwise(lines) if _is_tcp(*pair))
        return int(told["ListenDrops"])
    except (OSError, KeyError, ValueError, StopIteration):
        return None


def _is_tcp(names: list[str], values: list[str]) -> bool:
    return names[0] == values[0] == "TcpExt:"
