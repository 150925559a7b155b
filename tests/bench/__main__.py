"""``make bench``: what the pipeline costs beside a bare aiohttp loop, as a table and as JSON in data/out/bench/.

Not a test: nothing here fails because a machine is slow. A figure that could not be measured is told as that, and the
command then ends with exit 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from tests.bench import measures, processes, profile, resume, stages, waiting
from tests.bench.figures import machine
from tests.bench.measures import Bench, Sizes
from tests.bench.process import CannedServer, NotMeasured
from tests.bench.report import FOLDER, Measure, measure, tell, write
from tests.bench.workplace import Workplace

QUICK = Sizes(
    pairs=2,
    rows=2_000,
    latency_rows=2_000,
    many_rows=12_000,
    memory_rows=(2_000, 10_000),
    resume_rows=5_000,
    stall_rows=1_500,
    starts=3,
    process_rows=4_000,
    stage_rows=(10_000,),
)

MEASURES: Mapping[str, Measure] = {
    "cpu": measures.marginal_cpu,
    "real-job": measures.real_job,
    "answers": measures.answers,
    "latency": waiting.latency,
    "many": waiting.many,
    "startup": measures.start_up,
    "memory": measures.memory,
    "written": measures.written,
    "stalls": measures.stalls,
    "resume": resume.resume,
    "half-way": resume.half_way,
    "processes": processes.processes,
    "stages": stages.stages,
}
ON_REQUEST = ("stages",)
"""Minutes each; only when they are named."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--pairs", type=int, metavar="N", help="interleaved pairs of bare loop and pipeline (5)")
    parser.add_argument("--rows", type=int, metavar="N", help="rows of a run in a pair (10,000)")
    parser.add_argument("--latency-rows", type=int, metavar="N", help="rows of a run at 200 ms (10,000)")
    parser.add_argument("--quick", action="store_true", help="does it work? small sizes, figures not to be trusted")
    parser.add_argument("--memory-1m", action="store_true", help="peak memory at 1,000,000 rows too (many minutes)")
    parser.add_argument("--stage-rows", type=int, metavar="N", help="stages at so many rows beside 100,000")
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), metavar="MEASURE", help=", ".join(MEASURES))
    parser.add_argument("--profile", action="store_true", help="print where the pipeline's CPU goes, and stop")
    return parser.parse_args()


def sizes_of(args: argparse.Namespace) -> Sizes:
    sizes = QUICK if args.quick else Sizes()
    if args.pairs is not None:
        sizes = replace(sizes, pairs=args.pairs)
    if args.rows is not None:
        sizes = replace(sizes, rows=args.rows)
    if args.latency_rows is not None:
        sizes = replace(sizes, latency_rows=args.latency_rows)
    if args.memory_1m:
        sizes = replace(sizes, memory_rows=(*sizes.memory_rows, 1_000_000))
    if args.stage_rows is not None:
        sizes = replace(sizes, stage_rows=(*sizes.stage_rows, args.stage_rows))
    if sizes.pairs < 1 or sizes.rows <= sizes.few:
        sys.exit(f"bench: at least one pair, and more than {sizes.few} rows")
    return sizes


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
        names = args.only or [name for name in MEASURES if name not in ON_REQUEST]
        figures = measure({name: MEASURES[name] for name in names}, bench)
    tell(figures, seen, quick=args.quick)
    return write("bench", figures, seen, asdict(sizes), began, quick=args.quick)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NotMeasured as reason:
        sys.exit(f"bench: nothing was measured: {reason}")
