"""The README's exit table, row by row, through a shell and the installed command: how it comes about, and what to do.

Each row is provoked, and then the table's own advice is followed: the same job ends with 0.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.readme import ROOT
from tests.e2e.rig import DEADLINE_S, Endpoint, JobFolder, ended, wait_until

Simulate = Callable[..., Endpoint]

BIN = Path(sys.executable).parent


@dataclass
class Desk:
    """A user's shell in the folder of one job."""

    job: JobFolder
    simulate: Simulate

    def arguments(self, line: str) -> dict[str, Any]:
        self.job.write()
        environment = {**self.job.environment(), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        return {"args": ["sh", "-c", line], "cwd": self.job.folder, "env": environment}

    def shell(self, line: str) -> int:
        return subprocess.run(**self.arguments(line), capture_output=True, timeout=DEADLINE_S, check=False).returncode

    def start(self, line: str) -> subprocess.Popen[str]:
        """``exec``, so that the process is the command itself."""
        return subprocess.Popen(
            **self.arguments(f"exec {line}"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def moves_to(self, **settings: Any) -> Endpoint:
        endpoint = self.simulate(**settings)
        self.job.base_url = endpoint.base_url
        return endpoint


RUN = "pipeline run job.yaml --no-progress"


def every_row_has_its_answer(desk: Desk) -> int:
    return desk.shell(RUN)


def the_disk_fails(desk: Desk) -> int:
    return desk.shell(f"ulimit -f 16; {RUN}")


def free_the_disk(desk: Desk) -> int:
    return desk.shell(RUN)


def the_spec_is_wrong(desk: Desk) -> int:
    desk.job.template = "{{ txet }}"
    return desk.shell(RUN)


def mend_the_file(desk: Desk) -> int:
    desk.job.template = "{{ text }}"
    return desk.shell(RUN)


def rows_fail_for_good(desk: Desk) -> int:
    desk.moves_to(faults={"content_policy": 0.3}, seed=5)
    return desk.shell(RUN)


def retry_what_failed(desk: Desk) -> int:
    desk.moves_to()
    return desk.shell(f"{RUN} --retry-failed")


def the_key_is_refused(desk: Desk) -> int:
    desk.moves_to(api_key="another")
    return desk.shell(RUN)


def mend_the_account(desk: Desk) -> int:
    desk.moves_to()
    return desk.shell(RUN)


def the_budget_is_spent(desk: Desk) -> int:
    desk.job.more = {"model": {"name": "m", "max_tokens": 9}, "budget": {"tokens": 500}}
    return desk.shell(RUN)


def raise_it(desk: Desk) -> int:
    return desk.shell(f"{RUN} --set budget.tokens=100000")


def time_is_up(desk: Desk) -> int:
    return desk.shell(f"{RUN} --max-minutes 0")


def hung_on(desk: Desk) -> subprocess.Popen[str]:
    """A run that waits for an answer that does not come."""
    endpoint = desk.moves_to(faults={"hang": 1.0})
    process = desk.start(RUN)
    wait_until(lambda: endpoint.stats()["in_flight"] > 0, "the first request")
    return process


def another_run_holds_it(desk: Desk) -> int:
    first = hung_on(desk)
    try:
        return desk.shell(RUN)
    finally:
        first.kill()
        ended(first)


def a_signal_stops_it(desk: Desk) -> int:
    endpoint = desk.moves_to(latency_s=0.2)
    process = desk.start(RUN)
    wait_until(lambda: endpoint.stats()["requests"] >= 20, "requests")
    process.send_signal(signal.SIGTERM)
    return ended(process)[0]


def the_endpoint_is_in_trouble(desk: Desk) -> int:
    desk.moves_to(faults={"unavailable": 1.0})
    return desk.shell(f"{RUN} --set retry.max_attempts=2 --set retry.max_wait_s=0.1")


def ctrl_c_twice(desk: Desk) -> int:
    process = hung_on(desk)
    process.send_signal(signal.SIGINT)
    wait_until(lambda: '"stopping"' in (desk.job.out / "run.log").read_text(), "the drain to begin")
    process.send_signal(signal.SIGINT)
    return ended(process)[0]


def run_it_again(desk: Desk) -> int:
    desk.moves_to()
    return desk.shell(RUN)


TABLE: list[tuple[int, Callable[[Desk], int], Callable[[Desk], int]]] = [
    (0, every_row_has_its_answer, run_it_again),
    (1, the_disk_fails, free_the_disk),
    (2, the_spec_is_wrong, mend_the_file),
    (3, rows_fail_for_good, retry_what_failed),
    (4, the_key_is_refused, mend_the_account),
    (5, the_budget_is_spent, raise_it),
    (75, time_is_up, run_it_again),
    (75, another_run_holds_it, run_it_again),
    (75, a_signal_stops_it, run_it_again),
    (75, the_endpoint_is_in_trouble, run_it_again),
    (130, ctrl_c_twice, run_it_again),
]


@pytest.mark.parametrize(("code", "provoke", "cure"), TABLE, ids=[f"{code}-{how.__name__}" for code, how, _ in TABLE])
def test_the_exit_table(
    code: int, provoke: Callable[[Desk], int], cure: Callable[[Desk], int], tmp_path: Path, simulate: Simulate
) -> None:
    job = JobFolder(tmp_path, simulate().base_url)
    job.number_of_rows(60)
    desk = Desk(job, simulate)
    assert provoke(desk) == code
    told = job.out / "summary.json"
    if code in (0, 3, 4, 5) or provoke in (time_is_up, a_signal_stops_it, the_endpoint_is_in_trouble):
        assert json.loads(told.read_bytes())["exit_code"] == code
    assert cure(desk) == 0
    assert job.results()["status"].to_list() == ["ok"] * 60


def test_readme_and_help_list_these_codes_and_no_other() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("| exit | meaning") :].split("\n\n")[0]
    told = subprocess.run([BIN / "pipeline", "run", "--help"], capture_output=True, text=True, check=True).stdout
    provoked = {code for code, _, _ in TABLE}
    assert {int(code) for code in re.findall(r"^\| (\d+) ", table, re.MULTILINE)} == provoked
    assert {
        int(code) for code in re.findall(r"^ +(\d+)  +\S", told[told.index("Exit codes:") :], re.MULTILINE)
    } == provoked
