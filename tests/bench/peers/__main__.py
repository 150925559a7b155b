"""``make bench-peers``: the pipeline beside other programs that do this work, on the same rows and the same server.

They are installed into an environment of their own, in the versions of requirements.txt; nothing of them is needed for
anything else. Not a test; what could not be measured is told as that, and the command then ends with exit 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.figures import Figure, machine
from tests.bench.measures import Bench, Sizes
from tests.bench.peers.install import Environment, pins
from tests.bench.process import CannedServer, NotMeasured, Spent
from tests.bench.report import FOLDER, tell, write
from tests.bench.workplace import Workplace, asked

OURS, BARE = "pipeline", "bare loop"

Ask = Callable[[int], Spent]


@dataclass(frozen=True, slots=True)
class Peer:
    package: str
    module: str  # of tests.bench.peers
    how: str
    goal: str  # its CPU per request over ours

    @property
    def name(self) -> str:
        return f"{self.package} {pins()[self.package]}"


PEERS = (
    Peer("lm-deluge", "ask_lm_deluge", "one call with all prompts; nothing on disk before the end", ">= 1.7"),
    Peer("async-batch-llm", "ask_async_batch_llm", "own aiohttp callable, SQLite store", ">= 5"),
)


@dataclass(slots=True)
class Side:
    ask: Ask
    ms: list[float] = field(default_factory=list)  # marginal CPU of a request
    peak_mb: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    trouble: str = ""


def asking(bench: Bench, environment: Environment, peer: Peer) -> Ask:
    def ask(rows: int) -> Spent:
        target = bench.place.folder / f"{peer.module}.out"
        command = [str(environment.python), "-m", f"tests.bench.peers.{peer.module}", str(rows)]
        command += [bench.server.base_url, str(bench.place.table(rows)), str(target)]
        try:
            return asked(command, rows, bench.server, peer.name)
        finally:
            for left in bench.place.folder.glob(f"{target.name}*"):
                left.unlink()

    return ask


def sides_of(bench: Bench) -> dict[str, Side]:
    sides = {
        BARE: Side(lambda rows: bench.place.bare(rows, bench.server)[0]),
        OURS: Side(lambda rows: bench.place.pipeline(rows, bench.server)),
    }
    environment = Environment()
    for peer in PEERS:
        side = sides[peer.name] = Side(asking(bench, environment, peer))
        print(f"installing: {peer.name}", file=sys.stderr, flush=True)
        try:
            environment.make()
            environment.install(peer.package)
        except NotMeasured as reason:
            side.trouble = str(reason)
    return sides


def warm_up(bench: Bench, sides: dict[str, Side]) -> None:
    """The first start of each compiles; it is not measured."""
    for side in sides.values():
        if not side.trouble:
            try:
                side.ask(bench.sizes.few)
            except NotMeasured as reason:
                side.trouble = str(reason)


def go_round(bench: Bench, sides: dict[str, Side], number: int) -> None:
    """Each side once; whoever begins changes."""
    few, rows = bench.sizes.few, bench.sizes.rows
    names = list(sides)
    first = number % len(names)
    for name in names[first:] + names[:first]:
        side = sides[name]
        if side.trouble:
            continue
        print(f"round {number + 1} of {bench.sizes.pairs}: {name}", file=sys.stderr, flush=True)
        try:
            start, whole = side.ask(few), side.ask(rows)
        except NotMeasured as reason:
            side.trouble = str(reason)
            continue
        side.per_s.append(bench.server.stats().per_s())
        side.ms.append((whole.cpu_s - start.cpu_s) / (rows - few) * 1_000)
        side.peak_mb.append(whole.peak_mb)


def figures_of(sides: dict[str, Side], rows: int) -> list[Figure]:
    figures = []
    goals = {peer.name: (peer.goal, peer.how) for peer in PEERS}
    for name, side in sides.items():
        goal, how = goals.get(name, ("", ""))
        if side.trouble:
            figures.append(Figure(f"marginal CPU, {name}", None, "", goal, side.trouble))
            continue
        figures.append(Figure.median(f"marginal CPU, {name}", side.ms, "ms/request", "", how))
        figures.append(Figure.median(f"peak memory, {name}", side.peak_mb, "MiB", "", f"{rows:,} rows"))
        figures.append(Figure.median(f"requests/s at 0 ms, {name}", side.per_s, "/s", "", "ramp and tail included"))
        for other in (OURS, BARE):
            if name != other and not sides[other].trouble and (name, other) != (BARE, OURS):
                ratios = [theirs / mine for theirs, mine in zip(side.ms, sides[other].ms, strict=True)]
                told = goal if other == OURS else ""
                figures.append(Figure.median(f"CPU, {name} / {other}", ratios, "x", told, "median of the rounds"))
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    parser.add_argument("--pairs", type=int, default=5, metavar="N", help="rounds of all sides (5)")
    parser.add_argument("--rows", type=int, default=10_000, metavar="N", help="rows of a run (10,000)")
    parser.add_argument("--quick", action="store_true", help="does it work? two rounds of 1,000 rows")
    args = parser.parse_args()
    sizes = Sizes(pairs=2, rows=1_000) if args.quick else Sizes(pairs=args.pairs, rows=args.rows)
    if sizes.pairs < 1 or sizes.rows <= sizes.few:
        sys.exit(f"bench: at least one round, and more than {sizes.few} rows")
    FOLDER.mkdir(parents=True, exist_ok=True)
    seen, began = machine(), time.time()
    with tempfile.TemporaryDirectory(prefix="work-", dir=FOLDER) as folder, CannedServer() as server:
        bench = Bench(Workplace(Path(folder)), server, sizes)
        sides = sides_of(bench)
        warm_up(bench, sides)
        for number in range(sizes.pairs):
            go_round(bench, sides, number)
    figures = figures_of(sides, sizes.rows)
    tell(figures, seen, quick=args.quick)
    told = {"pairs": sizes.pairs, "rows": sizes.rows, "few": sizes.few, "peers": dict(Environment().versions())}
    return write("bench-peers", figures, seen, told, began, quick=args.quick)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NotMeasured as reason:
        sys.exit(f"bench: nothing was measured: {reason}")
