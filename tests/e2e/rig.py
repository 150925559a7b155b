"""The installed command, as a user runs it, against the simulator over real HTTP."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.simulator import Settings
from pipeline.simulator.background import in_background

CANARY_KEY = "sk-canary-0123456789abcdefghij"
DEADLINE_S = 60.0


@dataclass
class Endpoint:
    """A running simulator."""

    base_url: str

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.base_url.removesuffix("/v1") + "/stats", timeout=10) as reply:
            stats: dict[str, Any] = json.loads(reply.read())
            return stats


@dataclass
class JobFolder:
    """A job of its own in a folder of its own."""

    folder: Path
    base_url: str
    template: str = "Is this positive, negative or neutral? {{ text }}"
    model: str = "test-model"
    concurrency: int = 16
    id_column: str | None = "id"
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def rows(self, rows: list[dict[str, str]]) -> None:
        with (self.folder / "in.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def number_of_rows(self, count: int) -> None:
        self.rows([{"id": f"r{place:05d}", "text": f"text number {place}"} for place in range(count)])

    def write(self) -> Path:
        spec: dict[str, Any] = {
            "input": {"path": "in.csv", **({"id": self.id_column} if self.id_column else {})},
            "prompt": self.template,
            "model": {"name": self.model, "temperature": 0},
            "endpoint": {"base_url": self.base_url, "timeout_s": {"connect": 5, "total": 20}},
            "limits": {"concurrency": self.concurrency},
            "output": "out",
            **self.more,
        }
        path = self.folder / "job.yaml"
        path.write_text(json.dumps(spec))  # JSON is YAML
        return path

    def command(self, *arguments: str) -> list[str]:
        verb, *rest = arguments
        return [sys.executable, "-m", "pipeline", verb, str(self.write()), *rest]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "GPTPROTO_API_KEY": CANARY_KEY}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*(arguments or ("run",))),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*(arguments or ("run",))),
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def results(self) -> pl.DataFrame:
        return pl.read_parquet(self.out / "results.parquet")

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.out / "summary.json").read_bytes())
        return summary


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Looks until it is so; fails with ``what`` when it never is."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr of a process that is about to end."""
    _, errors = process.communicate(timeout=DEADLINE_S)
    return process.returncode, errors


@pytest.fixture
def simulate() -> Iterator[Callable[..., Endpoint]]:
    """Starts simulators; they end with the test."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Endpoint:
            settings.setdefault("latency_s", 0.0)
            return Endpoint(stack.enter_context(in_background(Settings(**settings))))

        yield start


@pytest.fixture
def new_job(tmp_path: Path) -> Callable[..., JobFolder]:
    def make(endpoint: Endpoint, **options: Any) -> JobFolder:
        return JobFolder(tmp_path, endpoint.base_url, **options)

    return make
