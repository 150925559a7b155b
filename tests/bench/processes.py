"""Two processes against one, when replies come at once: how much faster, and what each request costs then."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from functools import cache

from tests.bench.figures import Figure
from tests.bench.measures import Bench
from tests.bench.process import ROOT, NotMeasured
from tests.bench.waiting import NAMED
from tests.bench.workplace import pipeline_command

_TWO = ("--processes", "2")


@dataclass(slots=True)
class _Side:
    flags: tuple[str, ...]
    per_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    start_s: list[float] = field(default_factory=list)  # CPU
    own_ms: list[float] = field(default_factory=list)  # marginal CPU of a request
    server_ms: list[float] = field(default_factory=list)

    def go(self, bench: Bench) -> None:
        few, rows = bench.sizes.few, bench.sizes.process_rows
        start = bench.place.pipeline(few, bench.server, *self.flags, limits=NAMED)
        spent = bench.place.pipeline(rows, bench.server, *self.flags, limits=NAMED)
        seen = bench.server.stats()
        self.per_s.append(seen.per_s())
        self.wall_s.append(spent.wall_s)
        self.start_s.append(start.cpu_s)
        self.own_ms.append((spent.cpu_s - start.cpu_s) / (rows - few) * 1_000)
        self.server_ms.append(seen.cpu_s / rows * 1_000)

    def figures(self, name: str, few: int) -> list[Figure]:
        return [
            Figure.median(f"requests/s at 0 ms, {name}", self.per_s, "/s"),
            Figure.median(f"marginal CPU, {name}", self.own_ms, "ms/request", "", "of all its processes"),
            Figure.median(f"CPU of {few} rows, {name}", self.start_s, "s", "", "start-up, mostly"),
        ]


def processes(bench: Bench) -> list[Figure]:
    """In turns. The limit is named, so that neither side spends its time on finding one. ``requests/s`` is what the
    server saw from the first request to the last reply; what starting and ending cost is in ``wall``."""
    if not _offered():
        raise NotMeasured("this pipeline has no --processes")
    one, two = _Side(()), _Side(_TWO)
    for number in range(bench.sizes.pairs):
        for side in (one, two) if number % 2 == 0 else (two, one):
            side.go(bench)
    faster = [b / a for a, b in zip(one.per_s, two.per_s, strict=True)]
    shorter = [b / a for a, b in zip(one.wall_s, two.wall_s, strict=True)]
    server_ms = [*one.server_ms, *two.server_ms]
    told = f"{bench.sizes.process_rows:,} rows; the server shares the cores, and waits for its turn"
    return [
        Figure.median("requests/s, two processes / one", faster, "x", ">= 1.7", told),
        Figure.median("wall, two processes / one", shorter, "x", "", "start and end included"),
        *one.figures("one process", bench.sizes.few),
        *two.figures("two processes", bench.sizes.few),
        Figure.median("the canned server's own CPU", server_ms, "ms/request", "", "one process serves both sides"),
    ]


@cache
def _offered() -> bool:
    told = subprocess.run(
        pipeline_command(["run", "--help"]), cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    return _TWO[0] in told
