"""The same rows for both sides, and the two ways to send them: the bare loop, and the pipeline as its users run it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.load import TEMPLATE, WORKERS, write_table
from tests.bench.process import CannedServer, NotMeasured, Spent, spend, well

_JOB = """\
name: bench
input: {{path: {table}, id: id}}
prompt: {prompt}
model: canned
endpoint: {{base_url: {base_url}, api_key_env: BENCH_KEY}}
limits: {{concurrency: {concurrency}{limits}}}
output: {folder}
"""


@dataclass(frozen=True, slots=True)
class BenchJob:
    """A job file of so many rows, and the folder it fills."""

    rows: int
    file: Path
    folder: Path

    @property
    def command(self) -> list[str]:
        return ["run", str(self.file), "--quiet", "--no-progress"]

    def bytes_left(self) -> int:
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())


class Workplace:
    """A folder that is thrown away afterwards. Tables are made once for each number of rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._jobs = 0
        self._finished: dict[int, tuple[BenchJob, Spent]] = {}

    def table(self, rows: int, *, numbered: bool = False, wide: bool = False) -> Path:
        path = self.folder / f"{'numbered' if numbered else 'wide' if wide else 'rows'}-{rows}.csv"
        if not path.exists():
            write_table(path, rows, numbered=numbered, wide=wide)
        return path

    def job(
        self,
        rows: int,
        server: CannedServer,
        concurrency: int = WORKERS,
        *,
        limits: str = "",
        more: str = "",
        numbered: bool = False,
        wide: bool = False,
    ) -> BenchJob:
        """``limits``: further members of that block, each after a comma; ``more``: further lines of the job spec;
        ``wide``: the prompt is a template of three columns."""
        self._jobs += 1
        folder = self.folder / f"job-{self._jobs}"
        file = self.folder / f"job-{self._jobs}.yaml"
        text = _JOB.format(
            table=json.dumps(str(self.table(rows, numbered=numbered, wide=wide))),
            prompt=json.dumps(TEMPLATE if wide else "{{ text }}"),
            base_url=server.base_url,
            concurrency=concurrency,
            limits=limits,
            folder=json.dumps(str(folder)),
        )
        file.write_text(text + more, encoding="utf-8")
        return BenchJob(rows, file, folder)

    # -- the two sides ---------------------------------------------------------------------------------------------

    def bare(
        self, rows: int, server: CannedServer, workers: int = WORKERS, *, numbered: bool = False
    ) -> tuple[Spent, int]:
        """What it spent, and the bytes of its results."""
        target = self.folder / "bare.jsonl"
        url = f"{server.base_url}/chat/completions"
        table = str(self.table(rows, numbered=numbered))
        command = [sys.executable, "-m", "tests.bench.bare", str(rows), url, table, str(target), str(workers)]
        spent = asked(command, rows, server, "the bare loop")
        size = target.stat().st_size
        target.unlink()
        return spent, size

    def pipeline(
        self, rows: int, server: CannedServer, *flags: str, limits: str = "", more: str = "", wide: bool = False
    ) -> Spent:
        job = self.job(rows, server, limits=limits, more=more, wide=wide)
        spent = self.run(job, server, *flags)
        shutil.rmtree(job.folder)
        return spent

    def run(self, job: BenchJob, server: CannedServer, *flags: str) -> Spent:
        """Run a job that nothing was sent of yet."""
        return asked(pipeline_command([*job.command, *flags]), job.rows, server, "pipeline run")

    def run_again(self, job: BenchJob, server: CannedServer) -> tuple[Spent, int]:
        """Run it as it stands: what that spent, and how many requests it sent."""
        server.reset()
        spent = well(spend(pipeline_command(job.command)), "pipeline run")
        return spent, server.stats().requests

    def run_killed(self, job: BenchJob, meanwhile: Callable[[int], None]) -> None:
        code = spend(pipeline_command(job.command), meanwhile=meanwhile).code
        if code != -9:
            raise NotMeasured(f"the run that was to be killed half way ended before, with exit {code}")

    def probed(self, job: BenchJob, server: CannedServer, *probes: str) -> tuple[dict[str, Any], Spent]:
        """Run a fresh job with probes inside; what they saw, and what it spent with them."""
        report = self.folder / "inside.json"
        command = [sys.executable, "-m", "tests.bench.inside", str(report), *probes, "--", *job.command]
        spent = asked(command, job.rows, server, "pipeline run with probes")
        seen: dict[str, Any] = json.loads(report.read_text())
        return seen, spent

    def finished(self, rows: int, server: CannedServer) -> tuple[BenchJob, Spent]:
        """A job that has been run to its end; several measures share it."""
        if rows not in self._finished:
            job = self.job(rows, server)
            self._finished[rows] = (job, self.run(job, server))
        return self._finished[rows]


def pipeline_command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "pipeline", *arguments]


def asked(command: Sequence[str], rows: int, server: CannedServer, what: str) -> Spent:
    """Run a command that asks each row once. Raises NotMeasured when it ends badly, or asks more or less."""
    server.reset()
    spent = well(spend(command), what)
    requests = server.stats().requests
    if requests != rows:
        raise NotMeasured(f"{what} sent {requests} requests for {rows} rows, so its cost per request means nothing")
    return spent
