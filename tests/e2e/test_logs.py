"""run.log: a file of its own for each run that sends, and never a prompt or an answer in it."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gate import gated
from tests.e2e.rig import Endpoint, JobFolder
from tests.e2e.scripted import Said, says, scripted

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]

PROMPT = "PROMPTCANARY"
ANSWER = "ANSWERCANARY"


def logs(job: JobFolder) -> list[Path]:
    return sorted(job.out.glob("run*.log"))


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_run_that_sends_has_its_own_log_and_one_with_nothing_to_do_touches_none(
    simulate: Simulate, new_job: NewJob
) -> None:
    job = new_job(simulate())
    for rows in (3, 5):
        job.number_of_rows(rows)
        assert job.run().returncode == 0
    assert [path.name for path in logs(job)] == ["run.1.log", "run.log"]
    newest, before = events(job.out / "run.log"), events(job.out / "run.1.log")
    assert [line["event"] for line in newest] == ["plan", "start", "end"]
    assert [line["event"] for line in before] == ["start", "end"]
    assert len({line["run"] for line in newest + before}) == 2
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in logs(job))
    seen = {path: path.stat().st_mtime_ns for path in logs(job)}
    for _ in range(2):
        assert "nothing to do" in job.run().stderr
    assert {path: path.stat().st_mtime_ns for path in logs(job)} == seen


def test_a_refused_run_adds_its_reason_to_the_log_that_is_there(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.number_of_rows(3)
    assert job.run().returncode == 0
    job.template = "Another question: {{ text }}"
    assert job.run().returncode == 2
    assert [path.name for path in logs(job)] == ["run.log"]
    last = events(job.out / "run.log")[-1]
    assert (last["event"], last["exit_code"]) == ("stopped", 2)
    assert "--accept-changes" in last["message"]


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 422, 429, 500, 503])
def test_a_reply_that_repeats_the_prompt_does_not_bring_it_into_the_log(new_job: NewJob, status: int) -> None:
    def script(body: dict[str, Any]) -> Said:
        words = body["messages"][-1]["content"]
        return status, {"error": {"message": f"cannot do {words}", "type": "invalid_request_error"}}

    with scripted(script) as server:
        job = new_job(server.endpoint, more={"retry": {"max_attempts": 2, "max_wait_s": 0.01}})
        job.rows([{"id": f"r{row}", "text": f"{PROMPT} {row}"} for row in range(4)])
        process = job.start("run", "--max-minutes", "0.03")
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (3, 4, 75), errors
        told = [line for path in logs(job) for line in events(path)]
        assert {line["event"] for line in told} >= {"start", "end"}
        assert any(line.get("kind") for line in told), "the log does not even name the kind of the failure"
        assert all(PROMPT.encode() not in path.read_bytes() for path in logs(job))


def test_no_answer_is_in_the_log_whether_it_fits_or_not(new_job: NewJob) -> None:
    answers = [says(json.dumps({"label": "good"}))]
    answers += [says(text) for text in (ANSWER, json.dumps({"label": ANSWER}), f"{{{ANSWER}", "")]
    with gated(100, answers * 5) as (_gate, server):
        job = new_job(server.endpoint, more={"answer": {"fields": {"label": ["good", "bad"]}, "mode": "json"}})
        job.rows([{"id": f"r{row}", "text": f"{PROMPT} {row}"} for row in range(8)])
        done = job.run("run", "--log-format", "json")
        assert done.returncode == 3, done.stderr
        text = (job.out / "run.log").read_text()
        assert '"invalid_answer"' in text
        assert ANSWER not in text
        assert PROMPT not in text


def test_a_damaged_input_is_not_quoted_in_the_log(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.rows([{"id": f"r{row}", "text": "fine"} for row in range(3)])
    assert job.run().returncode == 0
    (job.folder / "in.csv").write_text(f'id,text\nr1,fine\n{PROMPT},"{PROMPT},{PROMPT}\n')
    assert job.run().returncode == 2
    assert PROMPT not in (job.out / "run.log").read_text()


def test_without_a_terminal_there_is_no_bar_even_where_colour_is_forced(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.number_of_rows(5)
    done = job.run()
    assert done.returncode == 0
    assert done.stderr.replace("\n", "").isprintable()
    assert done.stderr.splitlines()[1].startswith("5/5 rows, ")  # the one line at the end
