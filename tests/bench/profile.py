"""Where the pipeline's CPU goes, by cProfile. It makes small functions look dearer than they are: read the order,
not the share."""

from __future__ import annotations

import io
import pstats

from tests.bench.measures import Bench

_LINES = 30


def profile(bench: Bench) -> str:
    """Two tables over one run: by a function's own time, and by time with all that it calls."""
    job = bench.place.job(bench.sizes.rows, bench.server)
    file = bench.place.folder / "profile.out"
    bench.place.probed(job, bench.server, "--profile", str(file))
    out = io.StringIO()
    out.write(f"{job.rows:,} rows; the event loop's thread and start-up, not the other threads\n")
    stats = pstats.Stats(str(file), stream=out)
    stats.sort_stats("tottime").print_stats(_LINES)
    stats.sort_stats("cumulative").print_stats(r"pipeline/|aiohttp/|asyncio/|uvloop", _LINES + 20)
    return out.getvalue()
