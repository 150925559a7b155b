"""What a run tells when it has ended, and when it keeps silent."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gate import gated
from tests.e2e.rig import CANARY_KEY, DEADLINE_S, Endpoint, JobFolder, ended, wait_until

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]

TELL = "cat >> told; env > environment; echo sent the mail"


def told(job: JobFolder) -> list[dict[str, Any]]:
    """Every summary that was told so far."""
    path = job.folder / "told"
    if not path.exists():
        return []
    found, text, decoder = [], path.read_text().strip(), json.JSONDecoder()
    while text:
        one, end = decoder.raw_decode(text)
        found.append(one)
        text = text[end:].strip()
    return found


def notices(job: JobFolder) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (job.out / "run.log").read_text().splitlines()]
    return [line for line in lines if line["event"] == "notify"]


def test_a_run_that_ended_tells_its_summary_and_a_rerun_with_nothing_to_do_tells_nothing(
    simulate: Simulate, new_job: NewJob
) -> None:
    job = new_job(simulate(), more={"notify": TELL})
    job.number_of_rows(3)
    done = job.run()
    assert done.returncode == 0
    assert "sent the mail" not in done.stderr + done.stdout
    assert told(job) == [job.summary()]
    assert [(line["fault"], line["output"], line["run"]) for line in notices(job)] == [
        (None, "sent the mail\n", job.summary()["run"])
    ]
    assert job.run().returncode == 0
    assert len(told(job)) == 1


def test_the_key_is_not_in_the_commands_environment_and_not_in_the_log(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.more["notify"] = f"env > environment; printf %s {CANARY_KEY[:6]}; echo {CANARY_KEY[6:]}"
    job.number_of_rows(3)
    assert job.run().returncode == 0
    environment = (job.folder / "environment").read_text()
    assert "PATH=" in environment
    assert CANARY_KEY not in environment
    assert "GPTPROTO_API_KEY" not in environment
    assert notices(job)[0]["output"] == "[key]\n"


@pytest.mark.parametrize(
    ("faults", "code"), [({"content_policy": 1.0}, 3), ({"unauthorized": 1.0}, 4), ({"server_error": 1.0}, 75)]
)
def test_trouble_is_told_with_its_exit_code(
    simulate: Simulate, new_job: NewJob, faults: dict[str, float], code: int
) -> None:
    job = new_job(
        simulate(faults=faults),
        more={"notify": {"command": TELL, "when": "trouble"}, "retry": {"max_attempts": 1, "max_wait_s": 0.01}},
    )
    job.number_of_rows(3)
    done = job.run()
    assert done.returncode == code, done.stderr
    assert [one["exit_code"] for one in told(job)] == [code]
    assert told(job)[0]["statuses"] == job.summary()["statuses"]


def test_a_run_that_could_not_begin_is_told_in_the_same_form(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate(), more={"notify": TELL})
    done = job.run()  # there is no input
    assert done.returncode == 2
    assert [(one["exit_code"], one["finished"], one["job"]) for one in told(job)] == [(2, False, "job")]
    assert "in.csv" in told(job)[0]["message"]
    assert not job.out.exists()


def test_when_all_is_well_trouble_is_silent_and_so_are_rehearse_and_check(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate(), more={"notify": {"command": TELL, "when": "trouble"}})
    job.number_of_rows(3)
    assert job.run().returncode == 0
    job.more["notify"] = TELL
    assert job.run("rehearse").returncode == 0
    check = job.run("check")
    assert check.returncode == 0
    assert f"notify: ok (/bin/sh -c {TELL}; always)" in check.stderr
    assert told(job) == []


@pytest.mark.parametrize("command", ["exit 7", ["no-such-program"], "kill -9 $$"])
def test_its_failure_is_said_and_changes_no_exit_code(
    simulate: Simulate, new_job: NewJob, command: str | list[str]
) -> None:
    job = new_job(simulate(), more={"notify": command})
    job.number_of_rows(3)
    done = job.run()
    assert done.returncode == 0, done.stderr
    assert "notify: " in done.stderr
    assert "exit code stays 0" in done.stderr
    assert notices(job)[0]["level"] == "warning"


def test_one_that_hangs_keeps_no_other_run_out_and_ends_with_its_run(new_job: NewJob) -> None:
    with gated(100) as (_gate, server):
        job = new_job(server.endpoint, more={"notify": "echo $$ > here.new; mv here.new here; sleep 600"})
        job.number_of_rows(3)
        process = job.start()
        wait_until((job.folder / "here").exists, "the command to hang")
        job.more = {}
        job.number_of_rows(4)
        assert job.run().returncode == 0  # the lock is free
        assert process.poll() is None
        process.terminate()
        code, errors = ended(process)
        assert code == 0, errors
        assert "was stopped by a signal" in errors
        assert not Path(f"/proc/{int((job.folder / 'here').read_text())}").exists()


def test_a_run_that_meets_another_one_at_work_tells_nobody(new_job: NewJob) -> None:
    with gated(1) as (gate, server):
        job = new_job(server.endpoint, concurrency=1, more={"notify": TELL})
        job.number_of_rows(3)
        process = job.start()
        wait_until(lambda: gate.waiting > 0, "the first run to be at work")
        assert job.run().returncode == 75
        assert told(job) == []
        gate.opened.set()
        assert ended(process)[0] == 0
        assert len(told(job)) == 1


# -- the environment


def run_with(job: JobFolder, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if name != "GPTPROTO_API_KEY"}
    return subprocess.run(
        job.command(*arguments),
        cwd=job.folder,
        env={**plain, **environ},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_the_key_comes_out_of_the_env_file_when_it_is_named_and_never_unasked(
    simulate: Simulate, new_job: NewJob
) -> None:
    endpoint = simulate(api_key=CANARY_KEY)
    job = new_job(endpoint)
    job.number_of_rows(3)
    env_file = job.folder / ".env"
    env_file.write_text(f"# the account of the team\nexport GPTPROTO_API_KEY='{CANARY_KEY}'\n")
    env_file.chmod(0o600)
    assert "is not set" in run_with(job, "check").stderr
    assert "key: ok (GPTPROTO_API_KEY is set)" in run_with(job, "check", "--env-file", ".env").stderr
    assert run_with(job, "run").returncode == 4
    assert run_with(job, "run", "--env-file", ".env", GPTPROTO_API_KEY="another").returncode == 4
    done = run_with(job, "run", "--env-file", ".env")
    assert done.returncode == 0, done.stderr
    assert all(CANARY_KEY.encode() not in path.read_bytes() for path in job.out.rglob("*") if path.is_file())


def test_an_env_file_that_others_can_read_is_refused_before_anything_is_sent(
    simulate: Simulate, new_job: NewJob
) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(3)
    (job.folder / ".env").write_text(f"GPTPROTO_API_KEY={CANARY_KEY}\n")
    (job.folder / ".env").chmod(0o640)
    done = run_with(job, "run", "--env-file", ".env")
    assert done.returncode == 2
    assert "chmod 600" in done.stderr
    assert CANARY_KEY not in done.stderr
    assert endpoint.stats()["requests"] == 0


def test_a_proxy_of_the_environment_is_not_used_and_that_is_said_once(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.number_of_rows(3)
    proxies = {"HTTP_PROXY": f"http://me:{CANARY_KEY}@127.0.0.1:9", "ALL_PROXY": "127.0.0.1:9"}
    check = run_with(job, "check", **proxies)
    assert "HTTP_PROXY is set (127.0.0.1:9) and ignored" in check.stderr
    done = run_with(job, "run", **proxies)
    assert done.returncode == 0, done.stderr
    log = (job.out / "run.log").read_text()
    assert log.count('"proxy_ignored"') == 1
    assert "127.0.0.1:9" in log
    assert CANARY_KEY not in log + check.stderr
    assert stat.S_IMODE((job.out / "run.log").stat().st_mode) == 0o600
