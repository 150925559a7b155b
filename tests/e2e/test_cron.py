"""At home in cron and systemd: the README's own lines, overlapping starts, a stop under load."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.stop import DRAIN_S
from tests.e2e.readme import ROOT, block
from tests.e2e.rig import DEADLINE_S, Endpoint, JobFolder, ended, wait_until
from tests.rigs.promises import pairs
from tests.rigs.scale import pick

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]


def test_the_crontab_line_of_the_readme_does_the_night(tmp_path: Path, simulate: Simulate) -> None:
    endpoint = simulate(api_key="made-up")
    comment, line, *_ = block(
        "crontab", "# every night at two, at most four hours; what is left goes on tomorrow. `env` exports the key"
    ).splitlines()
    when, command = line[:9], line[9:].strip().replace("/srv/labels", str(tmp_path))
    assert (comment[0], when) == ("#", "0 2 * * *")
    shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns("out"))
    (tmp_path / "jobs").mkdir()
    spec = (ROOT / "jobs/reviews.yaml").read_text().replace("http://127.0.0.1:8808/v1", endpoint.base_url)
    (tmp_path / "jobs/reviews.yaml").write_text(spec)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "env").write_text("export GPTPROTO_API_KEY=made-up\n")
    bare = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}  # what cron gives
    for turn in range(2):
        done = subprocess.run(
            ["sh", "-c", command], cwd="/", env=bare, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        assert done.returncode == 0, (turn, done.stderr)
        assert endpoint.stats()["requests"] == endpoint.stats()["answers"] == 258
    assert "\r" not in done.stderr  # cron mails it


def test_of_two_starts_at_once_one_works_and_one_leaves_with_75() -> None:
    count = pick(4, 50)
    figures, broken = pairs(count)
    assert not broken
    assert figures["one_worked_one_left_with_75"] == count


def test_a_stop_under_load_ends_within_the_drain(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(latency_s=0.4, latency_sigma=0.4)
    job = new_job(endpoint, concurrency=64)
    job.number_of_rows(3000)
    process = job.start()
    wait_until(lambda: endpoint.stats()["in_flight"] >= 60, "a full load")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, errors = ended(process)
    seconds = time.monotonic() - began
    print(f"{seconds:.2f} s from SIGTERM to exit {code}")
    assert code == 75, errors
    assert seconds < DRAIN_S + 2
    stats = endpoint.stats()
    assert (stats["in_flight"], stats["answers"]) == (0, job.summary()["statuses"]["ok"])


def units() -> dict[str, str]:
    names = ("service", "timer")
    return {f"labels.{name}": block("ini", f"# /etc/systemd/system/labels.{name}") for name in names}


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze, which reads the units, is not here"
)
def test_systemd_has_nothing_to_say_against_the_units_of_the_readme(tmp_path: Path) -> None:
    for name, text in units().items():
        (tmp_path / name).write_text(text.replace("/srv/labels/.venv", sys.prefix))
    for name in units():
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", f"./{name}"],
            cwd=tmp_path,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        # It ends with 0 even when it leaves out a line that it cannot read.
        assert str(tmp_path) not in done.stdout + done.stderr, done.stderr
        assert done.returncode == 0, done.stderr


def test_the_unit_gives_a_stop_more_time_than_the_drain_takes_and_takes_75_for_fine() -> None:
    service = units()["labels.service"]
    found = re.search(r"^TimeoutStopSec=(\d+)$", service, re.MULTILINE)
    assert found is not None
    assert int(found[1]) > DRAIN_S + 2
    assert "\nSuccessExitStatus=75\n" in service
    assert "\nKillSignal=SIGTERM\n" in service
    assert not re.search(r"^[A-Z]\w+=.*#", service, re.MULTILINE)  # systemd knows no comment at the end of a line
