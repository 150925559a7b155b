"""What a big job costs apart from its requests: planning, resuming near the end, publishing, finding nothing to do.

The job is made by ``filled``, which writes the checkpoint of a run that was killed with all but a few of its rows done.
Each size once: what matters is how the figures grow, and the sizes are told side by side.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.storage.layout import CHECKPOINT, Layout
from tests.bench.figures import Figure
from tests.bench.measures import Bench
from tests.bench.process import CannedServer, NotMeasured, Spent, spend, well
from tests.bench.workplace import pipeline_command

LEFT = 1_000
"""Rows that are not done."""


@dataclass(frozen=True, slots=True)
class _Job:
    file: Path
    folder: Path

    def call(self, verb: str) -> Spent:
        flags = ["--quiet", "--no-progress"] if verb == "run" else []
        return well(spend(pipeline_command([verb, str(self.file), *flags])), f"pipeline {verb}")

    def lose_keys(self) -> None:
        Path(Layout(str(self.folder / CHECKPOINT)).keys).unlink()

    def lose_results(self) -> None:
        (self.folder / "results.parquet").unlink()


@dataclass(frozen=True, slots=True)
class _Stage:
    name: str
    verb: str
    requests: int
    before: Callable[[_Job], None] = lambda job: None


STAGES = (
    _Stage(f"plan, {LEFT:,} rows left", "plan", 0),
    _Stage("plan, the list of keys lost", "plan", 0, _Job.lose_keys),
    _Stage(f"run, {LEFT:,} rows left", "run", LEFT),
    _Stage("run, nothing left to do", "run", 0),
    _Stage("run, only results.parquet lost", "run", 0, _Job.lose_results),
)


def stages(bench: Bench) -> list[Figure]:
    sizes = sorted(bench.sizes.stage_rows)
    spent = {rows: _all(bench, rows) for rows in sizes}
    figures = []
    for stage in STAGES:
        for rows in sizes:
            one = spent[rows][stage.name]
            note = f"wall {one.wall_s:.3g} s, peak memory {one.peak_mb:.0f} MiB"
            figures.append(Figure(f"{stage.name}, {rows:,} rows, CPU", one.cpu_s, "s", "", note))
        figures += _grown(stage.name, sizes, spent)
    return figures


def _grown(name: str, sizes: Sequence[int], spent: dict[int, dict[str, Spent]]) -> list[Figure]:
    first, *more = sizes
    figures = []
    for rows in more:
        small, big = spent[first][name], spent[rows][name]
        of = f"{name}, {rows:,} / {first:,} rows"
        figures.append(Figure(f"{of}, peak memory", big.peak_mb / small.peak_mb, "x", "<= 1.1"))
        per_row = big.cpu_s / small.cpu_s / (rows / first)
        figures.append(Figure(f"{of}, CPU per row", per_row, "x", "<= 1", "start-up weighs on the small one"))
    return figures


def _all(bench: Bench, rows: int) -> dict[str, Spent]:
    print(f"measuring: stages of {rows:,} rows", file=sys.stderr, flush=True)
    folder = bench.place.folder / f"stages-{rows}"
    job = _filled(folder, rows, bench.server)
    try:
        return {stage.name: _one(stage, job, bench.server) for stage in STAGES}
    finally:
        shutil.rmtree(folder)


def _filled(folder: Path, rows: int, server: CannedServer) -> _Job:
    if rows <= LEFT:
        raise NotMeasured(f"stages need more than {LEFT:,} rows")
    command = [sys.executable, "-m", "tests.bench.filled", str(folder), str(rows)]
    command += ["--done", repr((rows - LEFT) / rows), "--url", server.base_url]
    well(spend(command), "the job's making")
    return _Job(folder / "job.yaml", folder / "out")


def _one(stage: _Stage, job: _Job, server: CannedServer) -> Spent:
    stage.before(job)
    server.reset()
    spent = job.call(stage.verb)
    requests = server.stats().requests
    if requests != stage.requests:
        raise NotMeasured(f"{stage.name}: {requests} requests were sent, and {stage.requests} rows were left to send")
    return spent
