"""A planted key is searched for in every byte that is written, whatever the endpoint does with it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from pipeline.simulator.faults import FAULTS, GROUPS
from tests.e2e import impatient
from tests.e2e.rig import CANARY_KEY, DEADLINE_S, Endpoint, JobFolder

Simulate = Callable[..., Endpoint]

STOPPING = ("quota", "unauthorized", "payment_required", "balance", "redirect", "model_not_found")
REFUSALS = [kind for kind in GROUPS["any"] if FAULTS[kind].status == 429]
MATRIX = [kind for kind in GROUPS["any"] if kind not in REFUSALS]
RARE = dict.fromkeys(REFUSALS, 0.004)  # many would slow the run down, as they should
HEAVY = {"big_header": 0.02, "huge_body": 0.01, "gzip_bomb": 0.01, "echo_key": 0.06}
SECRETS = (CANARY_KEY, CANARY_KEY[3:], CANARY_KEY[::-1])


def a_job(folder: Path, endpoint: Endpoint, rows: int) -> JobFolder:
    folder.mkdir()
    job = JobFolder(folder, endpoint.base_url)
    job.more = {
        "retry": {"max_attempts": 2, "max_wait_s": 0.05},
        "endpoint": {
            "base_url": endpoint.base_url,
            "timeout_s": {"connect": 5, "total": 5},
        },
    }
    job.number_of_rows(rows)
    return job


def assert_kept(job: JobFolder, *streams: str) -> None:
    for secret in SECRETS:
        for stream in streams:
            assert secret not in stream
        for path in job.folder.rglob("*"):
            if path.is_file():
                assert secret.encode() not in path.read_bytes(), path


def test_no_byte_of_the_key_is_written_under_any_fault(simulate: Simulate, tmp_path: Path) -> None:
    endpoint = simulate(faults={**dict.fromkeys(MATRIX, 0.8 / len(MATRIX)), **RARE, **HEAVY}, seed=8, slow_s=0.05)
    job = a_job(tmp_path / "any", endpoint, 200)
    job.more["limits"] = {"concurrency": 32, "requests_per_minute": 60_000}  # or refusals by chance would slow it down
    done = subprocess.run(
        impatient.command(job, "--log-format", "json"),
        cwd=job.folder,
        env=impatient.environment(job, DEADLINE_S),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    seen = endpoint.stats()["by_fault"]
    assert len(seen) > 45
    assert seen["echo_key"] > 0
    shown = [job.run(verb) for verb in ("status", "failures", "plan")]
    assert_kept(job, *(stream for each in (done, *shown) for stream in (each.stdout, each.stderr)))
    assert "[key]" in done.stderr


def test_no_byte_of_the_key_is_written_when_the_run_is_refused(simulate: Simulate, tmp_path: Path) -> None:
    jobs = [
        a_job(tmp_path / kind, simulate(faults={kind: 1.0}), 5) for kind in (*STOPPING, "echo_key") if kind in FAULTS
    ]
    processes = [job.start() for job in jobs]
    said = [process.communicate(timeout=DEADLINE_S) for process in processes]
    for job, process, (out, errors) in zip(jobs, processes, said, strict=True):
        assert process.returncode in (4, 75), (job.folder.name, errors)
        assert_kept(job, out, errors)
