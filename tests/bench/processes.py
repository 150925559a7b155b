"""Two processes against one, when replies come at once: how much faster, and what each request costs then."""

from __future__ import annotations

import statistics
import subprocess
from functools import cache

from tests.bench.figures import Figure
from tests.bench.measures import Bench
from tests.bench.process import ROOT, NotMeasured
from tests.bench.waiting import NAMED
from tests.bench.workplace import pipeline_command

_TWO = ("--processes", "2")
SIDES: dict[str, tuple[str, ...]] = {"one process": (), "two processes": _TWO}


def processes(bench: Bench) -> list[Figure]:
    """In turns. The limit is named, so that neither side spends its time on finding one. ``requests/s`` is what the
    server saw from the first request to the last reply; start and end of the command are in ``wall``."""
    if not _offered():
        raise NotMeasured("this pipeline has no --processes")
    rows = bench.sizes.process_rows
    rates: dict[str, list[float]] = {name: [] for name in SIDES}
    walls: dict[str, list[float]] = {name: [] for name in SIDES}
    own_ms: dict[str, list[float]] = {name: [] for name in SIDES}
    server_ms: list[float] = []
    for number in range(bench.sizes.pairs):
        for name in list(SIDES)[:: 1 if number % 2 == 0 else -1]:
            spent = bench.place.pipeline(rows, bench.server, *SIDES[name], limits=NAMED)
            seen = bench.server.stats()
            rates[name].append(seen.per_s())
            walls[name].append(spent.wall_s)
            own_ms[name].append(spent.cpu_s / rows * 1_000)
            server_ms.append(seen.cpu_s / rows * 1_000)
    one, two = SIDES
    ratios = [b / a for a, b in zip(rates[one], rates[two], strict=True)]
    walls_ratio = [a / b for a, b in zip(walls[one], walls[two], strict=True)]
    most = _most_possible(statistics.median(own_ms[one]), statistics.median(server_ms))
    told = f"{rows:,} rows, 256 in flight in all; the server takes its CPU from the same cores"
    return [
        Figure.median("requests/s, two processes / one", ratios, "x", "", told),
        Figure(
            "the same, at most possible here", most, "x", "", "two cores / (client's CPU + server's), of one's rate"
        ),
        Figure.median("wall, one process / two", walls_ratio, "x", "", "start and end included"),
        *(Figure.median(f"requests/s at 0 ms, {name}", rates[name], "/s") for name in SIDES),
        *(Figure.median(f"CPU, {name}", own_ms[name], "ms/request", "", "all processes, whole run") for name in SIDES),
        Figure.median("the canned server's own CPU", server_ms, "ms/request", "", "one process serves both sides"),
    ]


def _most_possible(client_ms: float, server_ms: float) -> float:
    """One client keeps one core busy at most, and so does the one server; two share both cores with it."""
    one_per_ms = 1 / max(client_ms, server_ms)
    two_per_ms = min(2 / (client_ms + server_ms), 1 / server_ms)
    return two_per_ms / one_per_ms


@cache
def _offered() -> bool:
    told = subprocess.run(
        pipeline_command(["run", "--help"]), cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    return _TWO[0] in told
