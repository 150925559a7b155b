"""A labelled table as a target of GNU make: what make takes for finished, and what it does again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.e2e.readme import ROOT, block
from tests.e2e.rig import DEADLINE_S, Endpoint, JobFolder, ended, wait_until

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make, which these tests run, is not here")

BIN = Path(sys.executable).parent
RULE = f"out/results.parquet: in.csv job.yaml\n\t{BIN}/pipeline run job.yaml --no-progress $(FLAGS)\n"
NOTHING_TO_DO = 0  # what `make -q` says
OUT_OF_DATE = 1


@dataclass
class Workshop:
    folder: Path
    makefile: str = RULE
    environment: dict[str, str] = field(default_factory=dict)

    def arguments(self, *more: str) -> dict[str, Any]:
        path = self.folder / "labels.mk"
        if not path.exists() or path.read_text() != self.makefile:
            path.write_text(self.makefile)
        free = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        environment = {**free, **self.environment}
        return {"args": ["make", "-f", "labels.mk", *more], "cwd": self.folder, "env": environment, "text": True}

    def make(self, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(**self.arguments(*more), capture_output=True, timeout=DEADLINE_S, check=False)

    def question(self, *more: str) -> int:
        return self.make("-q", *more).returncode

    @property
    def table(self) -> Path:
        return self.folder / "out/results.parquet"


def touch_later(path: Path, than: Path) -> None:
    """Edited or touched after the other one was made, however coarse the clock of the file system is."""
    at = than.stat().st_mtime_ns + 10_000_000
    os.utime(path, ns=(at, at))


def failed_with(done: subprocess.CompletedProcess[str], code: int) -> bool:
    return done.returncode == 2 and f"Error {code}" in done.stderr


# -- the makefile of the README


@pytest.fixture
def labels(tmp_path: Path, simulate: Simulate) -> tuple[Workshop, Endpoint]:
    endpoint = simulate()
    for name in ("data", "jobs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("out"))
    for spec in (tmp_path / "jobs").rglob("*.yaml"):
        spec.write_text(spec.read_text().replace("http://127.0.0.1:8808/v1", endpoint.base_url))
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return Workshop(tmp_path, block("make", "# labels.mk")), endpoint


def test_the_makefile_of_the_readme_labels_two_tables_in_parallel_and_feeds_the_report(
    labels: tuple[Workshop, Endpoint],
) -> None:
    workshop, endpoint = labels
    done = workshop.make("-j")
    assert done.returncode == 0, done.stderr
    tables = {name: workshop.folder / f"data/out/{name}/results.parquet" for name in ("reviews", "tickets")}
    rows = sum(pl.read_parquet(path).height for path in tables.values())
    report = pl.read_csv(workshop.folder / "report.csv")
    assert (report.columns, report["count"].sum()) == (["response", "count"], rows)
    asked = endpoint.stats()["requests"]
    assert workshop.question() == NOTHING_TO_DO
    assert "is up to date" in workshop.make("-n").stdout

    # A new time and the same content: the job runs once, sends nothing, writes no table anew.
    written = tables["reviews"].stat().st_ino
    touch_later(workshop.folder / "data/reviews.csv", workshop.folder / "report.csv")
    assert workshop.question() == OUT_OF_DATE
    again = workshop.make("-j")
    assert again.returncode == 0, again.stderr
    assert ("jobs/reviews.yaml" in again.stdout, "jobs/tickets.yaml" in again.stdout) == (True, False)
    assert endpoint.stats()["requests"] == asked
    assert tables["reviews"].stat().st_ino == written
    assert workshop.question() == NOTHING_TO_DO

    # One row edited: one request, and a new report.
    reviews = workshop.folder / "data/reviews.csv"
    lines = reviews.read_text().splitlines(keepends=True)
    reviews.write_text("".join([*lines, lines[1].replace(lines[1].split(",")[0], "999999", 1)]))
    touch_later(reviews, workshop.folder / "report.csv")
    assert workshop.make("-j").returncode == 0
    assert endpoint.stats()["requests"] == asked + 1
    assert pl.read_csv(workshop.folder / "report.csv")["count"].sum() == rows + 1
    assert workshop.question() == NOTHING_TO_DO


# -- a rule without the touch


def test_without_a_touch_a_new_time_makes_the_job_look_again_and_nothing_else_is_made(
    simulate: Simulate, new_job: NewJob
) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(5)
    job.write()
    workshop = Workshop(job.folder, "report: out/results.parquet\n\tcp $< $@\n" + RULE)
    assert workshop.make().returncode == 0
    before = workshop.table.stat()
    touch_later(job.folder / "in.csv", workshop.folder / "report")
    for _ in range(2):
        again = workshop.make()
        assert again.returncode == 0
        assert "nothing to do" in again.stderr
        assert "cp " not in again.stdout
    after = workshop.table.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert endpoint.stats()["requests"] == 5


# -- what did not end well


@pytest.mark.parametrize("keep", [".DELETE_ON_ERROR:\n", ".DELETE_ON_ERROR:\n.PRECIOUS: out/results.parquet\n"])
def test_make_deletes_a_table_with_too_many_failed_rows_only_when_it_may(
    simulate: Simulate, new_job: NewJob, keep: str
) -> None:
    job = new_job(simulate(faults={"content_policy": 0.3}, seed=5))
    job.number_of_rows(20)
    job.write()
    workshop = Workshop(job.folder, RULE + keep)
    assert failed_with(workshop.make(), 3)
    assert workshop.question() == OUT_OF_DATE
    assert workshop.table.exists() == (".PRECIOUS" in keep)


def test_a_table_with_too_many_failed_rows_does_not_look_finished(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(faults={"content_policy": 0.3}, seed=5)
    job = new_job(endpoint)
    job.number_of_rows(40)
    job.write()
    workshop = Workshop(job.folder)
    for _ in range(2):
        assert failed_with(workshop.make(), 3)
        assert workshop.question() == OUT_OF_DATE
        assert pl.read_parquet(workshop.table).height == 40
    assert endpoint.stats()["requests"] == 40
    assert workshop.make("FLAGS=--max-failed=90%").returncode == 0  # the same table, and it will do
    assert workshop.question() == NOTHING_TO_DO
    assert endpoint.stats()["requests"] == 40
    touch_later(job.folder / "in.csv", workshop.table)
    assert failed_with(workshop.make(), 3)  # now it will not do any more
    assert workshop.question() == OUT_OF_DATE
    healthy = simulate()
    job.base_url = healthy.base_url
    job.write()
    assert workshop.make("FLAGS=--retry-failed").returncode == 0
    assert workshop.question() == NOTHING_TO_DO
    assert set(pl.read_parquet(workshop.table)["status"]) == {"ok"}


def spoil_spec(job: JobFolder) -> None:
    job.more = {"modell": "x"}


def spoil_model(job: JobFolder) -> None:
    job.model = "no-such-model"


def spend_budget(job: JobFolder) -> None:
    job.more = {"model": {"name": job.model, "temperature": 0, "max_tokens": 9}, "budget": {"tokens": 5}}


def run_out_of_time(job: JobFolder) -> None:
    return


ENDS = [
    pytest.param(False, 2, spoil_spec, "", id="2"),
    pytest.param(False, 4, spoil_model, "FLAGS=--accept-changes", id="4"),
    pytest.param(False, 5, spend_budget, "FLAGS=--accept-changes", id="5"),
    pytest.param(False, 75, run_out_of_time, "FLAGS=--max-minutes=0", id="75"),
    pytest.param(True, 75, run_out_of_time, "FLAGS=--max-minutes=0", id="75-first"),
]


@pytest.mark.parametrize(("first", "code", "spoil", "flags"), ENDS)
def test_a_run_that_ends_early_leaves_the_target_as_old_as_it_was(
    simulate: Simulate, new_job: NewJob, first: bool, code: int, spoil: Callable[[JobFolder], None], flags: str
) -> None:
    job = new_job(simulate(models=("test-model",)))
    workshop = Workshop(job.folder)
    before = None
    if not first:
        job.number_of_rows(3)
        job.write()
        assert workshop.make().returncode == 0
        before = workshop.table.read_bytes()
    job.number_of_rows(8)
    spoil(job)
    spec = job.write()
    if not first:
        touch_later(job.folder / "in.csv", workshop.table)
        touch_later(spec, workshop.table)
    done = workshop.make(*filter(None, [flags]))
    assert failed_with(done, code), done.stderr
    assert workshop.question() == OUT_OF_DATE
    assert (workshop.table.read_bytes() if workshop.table.exists() else None) == before


def holder(job: JobFolder) -> int:
    """The process of the run that is at work."""
    note: dict[str, int] = json.loads((job.out / "checkpoint/LOCK").read_bytes())
    return note["pid"]


@pytest.mark.parametrize(("signals", "told"), [((signal.SIGTERM, signal.SIGTERM), "Error 130"), ((9,), "Killed")])
def test_a_run_that_is_cut_off_leaves_the_target_as_old_as_it_was(
    simulate: Simulate, new_job: NewJob, signals: tuple[int, ...], told: str
) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(3)
    job.write()
    workshop = Workshop(job.folder, RULE + "\ttouch $@\n.DELETE_ON_ERROR:\n", {"LC_ALL": "C"})
    assert workshop.make().returncode == 0
    before = workshop.table.read_bytes()
    hung = simulate(latency_s=300.0)
    job.base_url = hung.base_url
    job.number_of_rows(8)
    job.write()
    for name in ("in.csv", "job.yaml"):
        touch_later(job.folder / name, workshop.table)
    with subprocess.Popen(**workshop.arguments(), stderr=subprocess.PIPE) as process:
        wait_until(lambda: hung.stats()["in_flight"] > 0, "the first request")
        for number in signals:
            os.kill(holder(job), number)
            if number != signal.SIGKILL:
                wait_until(lambda: '"stopping"' in (job.out / "run.log").read_text(), "the drain to begin")
        code, errors = ended(process)
    assert (code, told in errors) == (2, True), errors
    assert workshop.table.read_bytes() == before
    assert workshop.question() == OUT_OF_DATE
    job.base_url = endpoint.base_url
    job.write()
    assert workshop.make().returncode == 0
    assert workshop.question() == NOTHING_TO_DO
    assert pl.read_parquet(workshop.table).height == 8
