"""What is measured, one function each. Goals are ratios where they can be: they hold on any machine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from tests.bench import traffic
from tests.bench.figures import Figure
from tests.bench.load import FIELDS
from tests.bench.process import CannedServer, Spent, spend, well
from tests.bench.workplace import Workplace, pipeline_command


@dataclass(frozen=True, slots=True)
class Sizes:
    pairs: int = 5
    rows: int = 10_000
    few: int = 200  # start-up is what is the same at ``few`` and at ``rows``
    latency_rows: int = 10_000
    many_rows: int = 50_000
    memory_rows: tuple[int, ...] = (10_000, 100_000)
    resume_rows: int = 100_000
    stall_rows: int = 6_000  # more than the rows of one part, so that a part is sealed on the way
    starts: int = 7
    process_rows: int = 30_000
    stage_rows: tuple[int, ...] = (100_000,)


@dataclass(frozen=True, slots=True)
class Bench:
    place: Workplace
    server: CannedServer  # answers at once
    sizes: Sizes


def marginal_cpu(bench: Bench) -> list[Figure]:
    """CPU per request without start-up, bare loop and pipeline in turns; whoever begins a pair changes."""
    sizes = bench.sizes
    bare_ms, ours_ms, ratios, whole = [], [], [], []
    rates: dict[str, list[float]] = {"bare": [], "pipeline": []}
    server_ms = []
    for number in range(sizes.pairs):
        cpu: dict[str, float] = {}
        for side in ("bare", "pipeline") if number % 2 == 0 else ("pipeline", "bare"):
            few = _side(bench, side, sizes.few)
            many = _side(bench, side, sizes.rows)
            seen = bench.server.stats()
            rates[side].append(seen.per_s())
            server_ms.append(seen.cpu_s / sizes.rows * 1_000)
            cpu[side] = _marginal_ms(few, many, sizes)
            cpu[f"{side} whole"] = many.cpu_s
        bare_ms.append(cpu["bare"])
        ours_ms.append(cpu["pipeline"])
        ratios.append(cpu["pipeline"] / cpu["bare"])
        whole.append(cpu["pipeline whole"] / cpu["bare whole"])
    about = f"(CPU at {sizes.rows:,} rows - CPU at {sizes.few}) / {sizes.rows - sizes.few:,}"
    return [
        Figure.median("marginal CPU, pipeline / bare", ratios, "x", "<= 0.95, fail at 1.3", "median of the pairs"),
        Figure.median("marginal CPU, bare loop", bare_ms, "ms/request", "", about),
        Figure.median("marginal CPU, pipeline", ours_ms, "ms/request", "", about),
        Figure.median("whole process CPU, pipeline / bare", whole, "x", "", f"start-up included, {sizes.rows:,} rows"),
        Figure.median("requests/s at 0 ms, bare loop", rates["bare"], "/s", "", "ramp and tail included"),
        Figure.median("requests/s at 0 ms, pipeline", rates["pipeline"], "/s", "", "ramp and tail included"),
        Figure.median("the canned server's own CPU", server_ms, "ms/request", "<= 0.066", "so it is no bottleneck"),
    ]


def _marginal_ms(few: Spent, many: Spent, sizes: Sizes) -> float:
    """CPU of one request more."""
    return (many.cpu_s - few.cpu_s) / (sizes.rows - sizes.few) * 1_000


def _side(bench: Bench, side: str, rows: int) -> Spent:
    if side == "bare":
        return bench.place.bare(rows, bench.server)[0]
    return bench.place.pipeline(rows, bench.server)


_TYPED = f"answer: {{mode: text, fields: {FIELDS}}}\n"


def real_job(bench: Bench) -> list[Figure]:
    """As ``marginal_cpu``, for a job as users have them: a template of three columns, five typed fields in the answer.
    The bare loop asks with one of the columns and leaves the answer as the text that it is."""
    sizes, ratios, ours_ms = bench.sizes, [], []
    with CannedServer(typed=True) as server:
        for number in range(sizes.pairs):
            cpu: dict[str, float] = {}
            for side in ("bare", "pipeline") if number % 2 == 0 else ("pipeline", "bare"):
                few, many = (
                    bench.place.bare(rows, server)[0]
                    if side == "bare"
                    else bench.place.pipeline(rows, server, more=_TYPED, wide=True)
                    for rows in (sizes.few, sizes.rows)
                )
                cpu[side] = _marginal_ms(few, many, sizes)
            ratios.append(cpu["pipeline"] / cpu["bare"])
            ours_ms.append(cpu["pipeline"])
    return [
        Figure.median("marginal CPU, template and five fields / bare", ratios, "x", "<= 1.15", "median of the pairs"),
        Figure.median("marginal CPU, template and five fields", ours_ms, "ms/request"),
    ]


def answers(bench: Bench) -> list[Figure]:
    """What five typed fields cost: asked for, read, checked and kept in columns; against the same replies as text."""
    sizes = bench.sizes
    ratios, added = [], []
    with CannedServer(typed=True) as server:
        for number in range(sizes.pairs):
            cpu: dict[str, float] = {}
            for more in ("", _TYPED) if number % 2 == 0 else (_TYPED, ""):
                few = bench.place.pipeline(sizes.few, server, more=more)
                many = bench.place.pipeline(sizes.rows, server, more=more)
                cpu[more] = _marginal_ms(few, many, sizes)
            ratios.append(cpu[_TYPED] / cpu[""])
            added.append((cpu[_TYPED] - cpu[""]) * 1_000)
    return [
        Figure.median("marginal CPU, five typed fields / text", ratios, "x", "<= 1.15", "median of the pairs"),
        Figure.median("five typed fields", added, "us/request", "", "more than the same replies kept as text"),
    ]


def start_up(bench: Bench) -> list[Figure]:
    """One row: nearly all of it is start-up and end."""
    cpu_s, first_s, wall_s = [], [], []
    for _ in range(bench.sizes.starts):
        spent = bench.place.pipeline(1, bench.server)
        seen = bench.server.stats().first_s
        assert seen is not None  # one request was counted
        cpu_s.append(spent.cpu_s)
        wall_s.append(spent.wall_s)
        first_s.append(seen - spent.began_s)
    figures = [
        Figure.median("a run of one row, CPU", cpu_s, "s", "<= 1.2", "an upper bound of the CPU to the first request"),
        Figure.median("start to first request, wall", first_s, "s"),
        Figure.median("a run of one row, wall", wall_s, "s"),
    ]
    for flag, goal in (("--help", "<= 0.15"), ("--version", "< 0.3")):
        starts = [well(spend(pipeline_command([flag])), f"pipeline {flag}") for _ in range(bench.sizes.starts)]
        walls = [one.wall_s for one in starts]
        cpus = [one.cpu_s for one in starts]
        figures.append(Figure.median(f"pipeline {flag}, wall", walls, "s", goal, f"least {min(walls):.3f} s"))
        figures.append(Figure.median(f"pipeline {flag}, CPU", cpus, "s", "", f"least {min(cpus):.3f} s"))
    return figures


def memory(bench: Bench) -> list[Figure]:
    peaks = {rows: bench.place.finished(rows, bench.server)[1].peak_mb for rows in bench.sizes.memory_rows}
    figures = [
        Figure(f"peak memory at {rows:,} rows", peak, "MiB", "<= 400 at any size", "one run")
        for rows, peak in peaks.items()
    ]
    first, *more = peaks
    for rows in more:
        name = f"peak memory, {rows:,} / {first:,} rows"
        figures.append(Figure(name, peaks[rows] / peaks[first], "x", "<= 1.2 for 100k / 10k"))
    return figures


def written(bench: Bench) -> list[Figure]:
    """What went through ``write`` over what the answers weigh (ids and answers as JSON lines)."""
    rows = bench.sizes.rows
    _, answers = bench.place.bare(rows, bench.server)
    job = bench.place.job(rows, bench.server)
    seen, _ = bench.place.probed(job, bench.server)
    left = job.bytes_left()
    shutil.rmtree(job.folder)
    if seen["wchar"] is None:
        unknown = "this kernel does not tell (/proc/self/io)"
        return [Figure("bytes written / bytes of answers", None, "x", "<= 2.2", unknown)]
    # uvloop sends by write(2), which the kernel counts with the files; asyncio sends by send(2), which it does not.
    sent = bench.server.stats().bytes_in if seen["loop"].startswith("uvloop") else 0
    passed = seen["wchar"] - sent
    about = f"{passed:,} bytes for {answers:,} of answers: {traffic.told(seen['written'], answers)}"
    return [
        Figure("bytes written / bytes of answers", passed / answers, "x", "<= 2.2", about),
        Figure("bytes left on disk / bytes of answers", left / answers, "x", "", "results, checkpoint, logs"),
    ]


def stalls(bench: Bench) -> list[Figure]:
    """How long the event loop was blocked, with few enough rows in flight that their own work is no stall."""
    with CannedServer(0.05) as slow:
        job = bench.place.job(bench.sizes.stall_rows, slow, concurrency=32)
        seen, _ = bench.place.probed(job, slow, "--stalls")
    shutil.rmtree(job.folder)
    how = "waiting for a core taken off" if seen["queue_known"] else "waiting for a core NOT taken off"
    note = f"{job.rows:,} rows, 32 in flight at 50 ms, looked at every 5 ms ({seen['ticks']:,} times); {how}"
    if not seen["ticks"]:
        return [Figure("event-loop stalls over 20 ms", None, "", "0", "the watch never ran")]
    return [
        Figure("event-loop stalls over 20 ms", seen["stalls"], "", "0", note),
        Figure(
            "longest event-loop stall", seen["longest_s"] * 1_000, "ms", "<= 20", f"{seen['longest_at_s']:.1f} s in"
        ),
        Figure("longest, waiting for a core included", seen["longest_with_queue_s"] * 1_000, "ms"),
    ]
