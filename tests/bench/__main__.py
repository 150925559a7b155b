"""``make bench``: what the pipeline costs beside a bare aiohttp loop, as a table and as JSON in data/out/bench/.

Not a test: nothing here fails because a machine is slow. A figure that could not be measured is told as that, and the
command then ends with exit 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tests.bench import measures, profile, resume
from tests.bench.figures import Figure, machine, members, table
from tests.bench.measures import Bench, Sizes
from tests.bench.process import ROOT, CannedServer, NotMeasured
from tests.bench.workplace import Workplace

FOLDER = ROOT / "data" / "out" / "bench"
QUICK = Sizes(
    pairs=2, rows=2_000, latency_rows=2_000, memory_rows=(2_000, 10_000), resume_rows=5_000, stall_rows=1_500, starts=3
)

MEASURES: Mapping[str, Callable[[Bench], list[Figure]]] = {
    "cpu": measures.marginal_cpu,
    "answers": measures.answers,
    "latency": measures.latency,
    "startup": measures.start_up,
    "memory": measures.memory,
    "written": measures.written,
    "stalls": measures.stalls,
    "resume": resume.resume,
    "half-way": resume.half_way,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--pairs", type=int, metavar="N", help="interleaved pairs of bare loop and pipeline (5)")
    parser.add_argument("--rows", type=int, metavar="N", help="rows of a run in a pair (10,000)")
    parser.add_argument("--quick", action="store_true", help="does it work? small sizes, figures not to be trusted")
    parser.add_argument("--memory-1m", action="store_true", help="peak memory at 1,000,000 rows too (many minutes)")
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), metavar="MEASURE", help=", ".join(MEASURES))
    parser.add_argument("--profile", action="store_true", help="print where the pipeline's CPU goes, and stop")
    return parser.parse_args()


def sizes_of(args: argparse.Namespace) -> Sizes:
    sizes = QUICK if args.quick else Sizes()
    if args.pairs is not None:
        sizes = replace(sizes, pairs=args.pairs)
    if args.rows is not None:
        sizes = replace(sizes, rows=args.rows)
    if args.memory_1m:
        sizes = replace(sizes, memory_rows=(*sizes.memory_rows, 1_000_000))
    if sizes.pairs < 1 or sizes.rows <= sizes.few:
        sys.exit(f"bench: at least one pair, and more than {sizes.few} rows")
    return sizes


def measure(bench: Bench, names: list[str]) -> list[Figure]:
    figures = []
    for name in names:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        try:
            figures += MEASURES[name](bench)
        except NotMeasured as reason:
            figures.append(Figure(name, None, "", "", str(reason)))
    return figures


def tell(figures: list[Figure], seen: Mapping[str, Any], *, quick: bool) -> None:
    load_before, load_after = seen["load_average"][0], os.getloadavg()[0]
    print(table(figures))
    print(
        f"\n{seen['usable_cores']} cores, Python {seen['python']}, load average {load_before:.1f} before and "
        f"{load_after:.1f} after. Server and client shared this machine, with whatever else ran on it: "
        "trust ratios of one run, not its times."
    )
    if quick:
        print("Quick: this shows that the benchmark works. The figures are too small to be trusted.")


def write(figures: list[Figure], seen: Mapping[str, Any], sizes: Sizes, began: float, *, quick: bool) -> Path:
    """A quick run leaves the figures of a real one alone."""
    path = FOLDER / ("bench-quick.json" if quick else "bench.json")
    report = {
        "format": 1,
        "quick": quick,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began, 1),
        "shared_machine": True,
        "machine": seen,
        "load_average_after": os.getloadavg(),
        "sizes": asdict(sizes),
        "figures": members(figures),
    }
    aside = path.with_suffix(".aside")
    aside.write_text(json.dumps(report, indent=2) + "\n")
    return aside.rename(path)


def main() -> int:
    args = arguments()
    sizes = sizes_of(args)
    FOLDER.mkdir(parents=True, exist_ok=True)
    seen = machine()
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="work-", dir=FOLDER) as folder, CannedServer() as server:
        bench = Bench(Workplace(Path(folder)), server, sizes)
        bench.place.pipeline(sizes.few, server)  # the first start compiles; it is not measured
        if args.profile:
            print(profile.profile(bench))
            return 0
        figures = measure(bench, args.only or list(MEASURES))
    tell(figures, seen, quick=args.quick)
    path = write(figures, seen, sizes, began, quick=args.quick)
    print(f"{path.relative_to(ROOT)} written")
    return 1 if any(one.value is None for one in figures) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NotMeasured as reason:
        sys.exit(f"bench: nothing was measured: {reason}")
