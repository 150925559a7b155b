"""Where a run meets the world: closed pipes and terminals, foreign files, edits in mid-run, faults of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import pipeline.run as runs
from pipeline import after, before
from pipeline.errors import CheckpointError, InputError, PipelineError, RunPaused
from pipeline.job import Job, Ready
from pipeline.records import Row
from pipeline.run import Options
from pipeline.spec import load
from pipeline.storage import output
from pipeline.storage.source import Source
from pipeline.summary import Summary
from tests.e2e.rig import DEADLINE_S, Endpoint, JobFolder, ended, wait_until

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]
CONTROL = {chr(code) for code in [*range(32), *range(127, 160)]} - {"\n"}


def run_here(job: JobFolder, options: Options | None = None, change: Callable[[Job], None] | None = None) -> Summary:
    """The run in this process, where a test can reach into it."""
    before = Path.cwd()
    os.chdir(job.folder)
    try:
        made = Job(load(job.write()))
        if change is not None:
            change(made)
        return runs.run(
            made, lambda: None, options or Options(simulated=None), say=lambda text: None, display=lambda: None
        )
    finally:
        os.chdir(before)


@dataclass
class Server(Endpoint):
    """A chat endpoint of a user's own: no simulator, and each prompt is answered as a test likes."""

    answer: Callable[[str], tuple[int, Any]] = lambda prompt: (200, said(f"heard {prompt}"))
    prompts: list[str] = field(default_factory=list)


def said(text: str) -> dict[str, Any]:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "model": "m", "usage": usage}


@contextmanager
def serving() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][-1]["content"]
            server.prompts.append(prompt)
            status, reply = server.answer(prompt)
            data = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            return

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server = Server(f"http://127.0.0.1:{listener.server_address[1]}/v1")
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


@pytest.fixture(name="server")
def own_server() -> Iterator[Server]:
    with serving() as one:
        yield one


# -- what is not ours


@pytest.mark.parametrize("name", ["results.parquet", "failed.parquet", "attempts.parquet", "summary.json"])
def test_tables_that_no_run_left_there_are_not_overwritten(simulate: Simulate, new_job: NewJob, name: str) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(3)
    job.out.mkdir()
    (job.out / name).write_text("somebody's work of a month")
    with pytest.raises(CheckpointError, match=name) as caught:
        run_here(job)
    assert caught.value.exit_code == 2
    assert (job.out / name).read_text() == "somebody's work of a month"
    assert not (job.out / "checkpoint").exists()
    if name == "results.parquet":
        for verb in ("run", "check"):
            done = job.run(verb)
            assert done.returncode == 2
            assert "Traceback" not in done.stderr
    assert endpoint.stats()["requests"] == 0


def test_a_job_never_reads_the_table_that_it_writes(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.number_of_rows(3)
    run_here(job)
    whole = (job.out / "results.parquet").read_bytes()
    job.more = {"input": {"path": "out/results.parquet", "id": "id"}, "output": {"path": "out", "prefix": "second_"}}
    with pytest.raises(InputError, match="writes itself"):
        run_here(job)
    assert (job.out / "results.parquet").read_bytes() == whole


def test_an_export_does_not_overwrite_the_input(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.number_of_rows(3)
    run_here(job)
    before = (job.folder / "in.csv").read_bytes()
    done = job.run("export", "--to", "in.csv")
    assert done.returncode == 2, done.stderr
    assert (job.folder / "in.csv").read_bytes() == before
    assert job.run("export", "--to", "no/such/folder/table.csv").returncode == 2


@pytest.mark.parametrize(("name", "code"), [("run.log", 2), ("summary.json", 1)])
def test_a_file_that_cannot_be_written_is_told_without_a_traceback(
    simulate: Simulate, new_job: NewJob, name: str, code: int
) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(3)
    run_here(job, Options(simulated=None, max_minutes=0))
    (job.out / name).unlink()
    (job.out / name).mkdir()
    done = job.run()
    assert done.returncode == code, done.stderr
    assert name in done.stderr
    assert "Traceback" not in done.stderr
    (job.out / name).rmdir()
    assert run_here(job).exit_code == 0
    assert endpoint.stats()["requests"] == 3


def test_real_answers_do_not_come_among_simulated_ones_even_when_no_row_of_theirs_is_left(
    simulate: Simulate, new_job: NewJob, server: Server
) -> None:
    job = new_job(simulate())
    job.number_of_rows(3)
    run_here(job)
    job.base_url = server.base_url
    job.rows([{"id": "x", "text": "another input altogether"}])
    summary = run_here(job)
    assert summary.exit_code == 2
    assert "never mixed" in summary.message
    assert len(server.prompts) == 1
    assert summary.simulated


# -- pipes and terminals


def test_a_run_whose_stderr_nobody_reads_does_its_work(simulate: Simulate, new_job: NewJob) -> None:
    # `pipeline run JOB 2>&1 | head -1` sent nothing, and exited 0.
    job = new_job(simulate())
    job.number_of_rows(20)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        job.command("run"), cwd=job.folder, env=job.environment(), stderr=writing, timeout=DEADLINE_S, check=False
    )
    os.close(writing)
    assert done.returncode == 0
    assert job.results().height == 20


def test_whoever_stops_reading_stdout_is_no_fault(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.number_of_rows(2000)
    process = job.start("preview", "-n", "2000")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(DEADLINE_S) == 0
    process.stderr.close()


def test_standard_streams_that_are_closed_do_no_harm(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.number_of_rows(5)
    command = " ".join(job.command("run"))
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {command} <&- >&- 2>&-"],
        cwd=job.folder,
        env=job.environment(),
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0
    assert job.results().height == 5
    assert b"rows" not in (job.out / "checkpoint" / "LOCK").read_bytes()


def test_a_closed_terminal_drains_the_run(simulate: Simulate, new_job: NewJob) -> None:
    # SIGHUP began to stop the run, the first word about it failed with EIO, and the rest of the stop never happened.
    endpoint = simulate(latency_s=0.3)
    job = new_job(endpoint, concurrency=4)
    job.number_of_rows(100)
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        job.command("run"), cwd=job.folder, env=job.environment(), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    wait_until(lambda: endpoint.stats()["requests"] >= 8, "requests")
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(DEADLINE_S) == 75
    stats = endpoint.stats()
    assert stats["requests"] < 100
    assert job.summary()["statuses"]["ok"] == stats["requests"]
    assert job.summary()["requests_maybe_billed"] == 0


@pytest.mark.parametrize("plain", [True, False])
def test_a_terminal_gets_a_bar_unless_it_asks_for_none(simulate: Simulate, new_job: NewJob, plain: bool) -> None:
    job = new_job(simulate())
    job.number_of_rows(5)
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen(
        job.command("run"),
        cwd=job.folder,
        env={**job.environment(), **({"TQDM_DISABLE": "1", "NO_COLOR": "1"} if plain else {})},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # the last one has hung up
        pass
    os.close(ours)
    assert process.wait(DEADLINE_S) == 0
    text = shown.decode().replace("\r\n", "\n")  # the terminal's own doing
    assert b"5 rows" in shown
    assert bool(CONTROL & set(text)) is not plain


def test_under_nohup_a_hangup_stops_nothing(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(latency_s=0.05)
    job = new_job(endpoint, concurrency=4)
    job.number_of_rows(60)
    process = subprocess.Popen(
        ["nohup", *job.command("run")],
        cwd=job.folder,
        env=job.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: endpoint.stats()["requests"] >= 8, "requests")
    process.send_signal(signal.SIGHUP)
    code, errors = ended(process)
    assert code == 0, errors
    assert job.results().height == 60


def test_without_a_terminal_nothing_can_command_one(new_job: NewJob, server: Server) -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07 no \x9b31m such \u202eword\r"
    server.answer = lambda prompt: (400, {"error": {"message": hostile, "type": "invalid_request_error"}})
    job = new_job(server)
    job.rows([{"id": f"{place}\x1b[31m", "text": "x"} for place in range(3)])
    for verb in ("run", "status", "failures", "plan"):
        done = job.run(verb)
        assert done.returncode in (0, 3), done.stderr
        assert not CONTROL & set(done.stderr + done.stdout), (verb, done.stderr, done.stdout)


def test_the_words_of_an_input_cannot_command_a_terminal(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate(), template="{{ nowhere }}")
    job.rows([{"id": "1", "text\x1b[31m": "x"}])
    done = job.run("check")
    assert done.returncode == 2
    assert not CONTROL & set(done.stderr)


def test_log_format_json_makes_every_line_json_to_the_end(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate(faults={"content_policy": 0.3}, seed=5))
    job.number_of_rows(20)
    done = job.run("run", "--log-format", "json")
    assert done.returncode == 3
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert (told[-1]["event"], told[-1]["exit_code"]) == ("end", 3)
    assert {"plan", "start", "row_failed"} & {line["event"] for line in told}
    job.template = "{{ nowhere }}"
    refused = job.run("run", "--log-format", "json")
    assert refused.returncode == 2
    last = json.loads(refused.stderr.splitlines()[-1])
    assert (last["level"], last["event"], last["exit_code"]) == ("error", "end", 2)
    assert "nowhere" in last["message"]


def test_quiet_says_nothing_but_what_is_wrong(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(5)
    for form in ("text", "json"):
        done = job.run("run", "--quiet", "--log-format", form)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
    job.template = "{{ nowhere }}"
    assert "nowhere" in job.run("run", "--quiet").stderr


# -- the input changes, or is not what it seemed


def small_pieces(made: Job) -> None:
    made.source = Source(made.source.selection, 5, 200)


def test_an_input_that_is_edited_during_a_resumed_run_puts_no_answer_beside_another_row(
    new_job: NewJob, server: Server
) -> None:
    # Keys were listed from the old rows, and the answers to the new ones were recorded under them.
    job = new_job(server, template="{{ text }}", concurrency=2, id_column=None)
    rows = [{"text": f"text number {place:04d}"} for place in range(400)]
    job.rows(rows)
    table = (job.folder / "in.csv").read_bytes()
    header, *lines = table.splitlines(keepends=True)

    def answer(prompt: str) -> tuple[int, Any]:
        if len(server.prompts) == 20:
            with (job.folder / "in.csv").open("r+b") as file:  # in place, as an editor or a shell does
                file.write(header + b"".join(reversed(lines)))
        return 200, said(f"heard {prompt}")

    run_here(job, Options(simulated=None), small_limit)
    server.prompts.clear()
    server.answer = answer
    summary = run_here(job, change=small_pieces)
    assert summary.exit_code == 75
    assert "input changed" in summary.message
    server.answer = lambda prompt: (200, said(f"heard {prompt}"))
    assert run_here(job).exit_code == 0
    results = job.results()
    assert results["text"].to_list() == [row["text"] for row in reversed(rows)]
    assert results["response"].to_list() == [f"heard {text}" for text in results["text"]]


def small_limit(made: Job) -> None:
    """Only the first five rows, so that the next run resumes."""
    selection = made.source.selection
    made.source = Source(type(selection)(selection.paths, selection.format, selection.id, limit=5))


def test_an_input_that_is_edited_while_the_tables_are_written_leaves_the_old_ones(
    simulate: Simulate, new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(3)
    publish = output.publish

    def edited(*arguments: Any, **named: Any) -> Any:
        job.rows([{"id": f"r{place:05d}", "text": "swapped"} for place in reversed(range(3))])
        return publish(*arguments, **named)

    monkeypatch.setattr(after, "publish", edited)
    assert run_here(job).exit_code == 75
    assert not (job.out / "results.parquet").exists()
    monkeypatch.undo()
    assert run_here(job).exit_code == 0
    assert endpoint.stats()["requests"] == 6


def test_a_table_that_turns_out_damaged_cuts_off_no_paid_answer(
    simulate: Simulate, new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = simulate(latency_s=0.2)
    job = new_job(endpoint, concurrency=4)
    job.number_of_rows(30)

    def torn(made: Job) -> None:
        rows = made.source.rows

        def some(used: Any, start: int = 0) -> Iterator[list[Row]]:
            for batch in rows(used, start):
                yield batch[:7]
                raise InputError("line 9 is torn; mend the file")

        monkeypatch.setattr(made.source, "rows", some)

    summary = run_here(job, change=torn)
    assert summary.exit_code == 2
    assert "line 9" in summary.message
    stats = endpoint.stats()
    assert summary.statuses == {"ok": stats["requests"], "pending": 30 - stats["requests"]}
    assert summary.totals.maybe_billed == 0


# -- faults of our own


def test_a_bug_costs_its_row_and_mixes_up_no_other(
    new_job: NewJob, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = new_job(server, template="{{ text }}", concurrency=3)
    job.number_of_rows(30)
    ready = Job.ready

    def faulty(self: Job, row: Row) -> Ready:
        if row.ordinal in (0, 11):
            raise ZeroDivisionError("a bug")
        return ready(self, row)

    monkeypatch.setattr(Job, "ready", faulty)
    summary = run_here(job)
    assert summary.exit_code == 3
    assert summary.failures == {"internal_error": 2}
    assert "ZeroDivisionError" in (job.out / "run.log").read_text()
    monkeypatch.undo()
    assert run_here(job).exit_code == 0
    assert len(server.prompts) == 30
    results = job.results()
    assert results["response"].to_list() == [f"heard {text}" for text in results["text"]]


def test_a_bug_that_strikes_every_row_ends_the_run_and_blames_nobody_else(
    simulate: Simulate, new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(30)
    monkeypatch.setattr(Job, "ready", lambda self, row: 1 / 0)
    summary = run_here(job)
    assert summary.exit_code == 1
    assert "fault of this tool" in summary.message
    assert endpoint.stats()["requests"] == 0


def test_a_bug_outside_the_rows_is_in_the_log_too(
    simulate: Simulate, new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = new_job(simulate())
    job.number_of_rows(3)
    monkeypatch.setattr(after, "publish", lambda *arguments, **named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_here(job)
    assert "ZeroDivisionError" in (job.out / "run.log").read_text()
    monkeypatch.undo()
    assert run_here(job).exit_code == 0


# -- stops


@pytest.mark.parametrize("step", ["list_keys", "publish"])
def test_a_signal_while_planning_or_publishing_is_exit_75_and_costs_nothing(
    simulate: Simulate, new_job: NewJob, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(3)
    run_here(job)
    job.number_of_rows(5)
    whole = (job.out / "results.parquet").read_bytes()
    room = before if step == "list_keys" else after
    original = getattr(room, step)

    def interrupted(*arguments: Any, **named: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **named)

    monkeypatch.setattr(room, step, interrupted)
    if step == "publish":
        summary = run_here(job)
        assert (summary.exit_code, summary.finished) == (75, False)
        assert job.summary()["exit_code"] == 75
    else:
        with pytest.raises(RunPaused):
            run_here(job)
    assert (job.out / "results.parquet").read_bytes() == whole
    monkeypatch.undo()
    assert run_here(job).exit_code == 0
    assert endpoint.stats()["requests"] == 5


def test_answers_that_nobody_waits_for_any_more_are_counted_as_perhaps_billed(
    simulate: Simulate, new_job: NewJob
) -> None:
    # Their marks went with the journal segment when it was sealed, and with them the money.
    endpoint = simulate(latency_s=30.0)
    job = new_job(endpoint)
    job.number_of_rows(5)
    summary = run_here(job, Options(simulated=None, max_minutes=0.5 / 60, drain_s=0.01))
    assert summary.exit_code == 75
    assert endpoint.stats()["requests"] == 1
    assert summary.totals.maybe_billed == 1
    assert summary.statuses == {"pending": 5}


def test_a_deadline_that_planning_has_used_up_sends_nothing(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(5)
    assert run_here(job, Options(simulated=None, max_minutes=0)).exit_code == 75
    assert endpoint.stats()["requests"] == 0


def test_a_spent_budget_is_exit_5_and_stays_spent(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint, more={"model": {"name": "m", "max_tokens": 50}, "budget": {"tokens": 2000}})
    job.number_of_rows(200)
    for _ in range(2):
        summary = run_here(job)
        assert summary.exit_code == 5
        assert "budget" in summary.message
    usage = summary.totals.usage
    assert 0 < (usage.prompt_tokens or 0) + (usage.completion_tokens or 0) <= 2000
    assert endpoint.stats()["requests"] < 200


# -- rows that never come out well


def test_a_row_that_breaks_the_endpoint_does_not_hold_up_the_others_for_ever(new_job: NewJob, server: Server) -> None:
    # It was the first, so it was the canary of every run: exit 4, night after night, and nobody else's turn came.
    job = new_job(server, template="{{ text }}", more={"retry": {"max_attempts": 2, "max_wait_s": 0.01}})
    job.number_of_rows(10)
    server.answer = lambda prompt: (500, {}) if prompt.endswith("number 0") else (200, said("fine"))
    for _ in range(2):
        summary = run_here(job)
        assert (summary.exit_code, summary.statuses) == (3, {"failed": 1, "ok": 9})


def test_hopeless_rows_that_are_left_over_end_as_the_finished_run_did(new_job: NewJob, server: Server) -> None:
    job = new_job(server, template="{{ text }}", concurrency=2)
    job.more = {"retry": {"max_attempts": 1, "max_wait_s": 0.01}}
    job.rows([{"id": str(place), "text": "bad" if place % 6 == 5 else "good"} for place in range(12)])
    server.answer = lambda prompt: (500, {}) if prompt == "bad" else (200, said("fine"))
    codes = [run_here(job).exit_code for _ in range(2)]
    assert codes == [3, 3]
    assert job.results()["status"].to_list().count("failed") == 2


def test_an_endpoint_that_breaks_on_every_row_costs_three(new_job: NewJob, server: Server) -> None:
    server.answer = lambda prompt: (500, {})
    job = new_job(server, more={"retry": {"max_attempts": 1, "max_wait_s": 0.01}})
    job.number_of_rows(50)
    summary = run_here(job)
    assert summary.exit_code == 75
    assert len(server.prompts) == 3


def test_a_kind_that_no_row_failed_with_is_told(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate(faults={"content_policy": 0.5}, seed=4))
    job.number_of_rows(10)
    assert run_here(job).exit_code == 3
    done = job.run("run", "--retry-failed", "contentpolicy")
    assert done.returncode == 3
    assert "there are: content_policy" in done.stderr


# -- what was done is looked at again when it must be


def test_repaired_damage_is_bought_again_although_the_tables_are_in_place(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(10)
    run_here(job)
    part = next((job.out / "checkpoint" / "parts").iterdir())
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    assert job.run().returncode == 2
    assert endpoint.stats()["requests"] == 10
    assert job.run("verify", "--repair").returncode == 0
    assert json.loads(job.run("plan", "--json").stdout)["plan"]["to_send"] == 10
    assert run_here(job).exit_code == 0
    assert endpoint.stats()["requests"] == 20


def test_another_prefix_or_price_makes_the_tables_anew_and_sends_nothing(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(10)
    run_here(job)
    job.more = {"output": {"path": "out", "prefix": "llm_"}, "prices": {"input": 1, "output": 2}}
    assert not run_here(job).nothing_to_do
    assert "llm_response" in job.results().columns
    assert job.results()["llm_cost_usd"].null_count() == 0
    assert run_here(job).nothing_to_do
    assert endpoint.stats()["requests"] == 10


def test_a_first_row_that_cannot_be_sent_is_no_error_of_the_job(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.rows([{"id": "a", "text": ""}, {"id": "b", "text": "fine"}])
    done = job.run("check")
    assert done.returncode == 0, done.stderr
    assert "1 of the first 2 rows cannot be sent" in done.stderr


def test_the_tables_of_an_unfinished_job_are_those_of_its_last_finished_run(
    simulate: Simulate, new_job: NewJob
) -> None:
    job = new_job(simulate())
    job.number_of_rows(5)
    run_here(job)
    whole = (job.out / "results.parquet").read_bytes()
    job.number_of_rows(9)
    assert run_here(job, Options(simulated=None, max_minutes=0)).exit_code == 75
    assert (job.out / "results.parquet").read_bytes() == whole
    target = job.folder / "now.parquet"
    assert job.run("export", "--to", str(target)).returncode == 0
    assert pl.read_parquet(target)["status"].to_list() == ["ok"] * 5 + ["pending"] * 4


def test_a_bad_max_failed_is_exit_2_before_anything_is_sent(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(5)
    for text in ("many", "-1", "nan", "5%%", ""):
        with pytest.raises(PipelineError) as caught:
            run_here(job, Options(simulated=None, max_failed=text))
        assert caught.value.exit_code == 2
    assert endpoint.stats()["requests"] == 0


def test_a_run_that_cannot_begin_leaves_no_folder(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate(), template="{{ no_such_column }}")
    job.number_of_rows(3)
    assert job.run().returncode == 2
    assert not job.out.exists()


def test_a_first_run_without_a_key_leaves_no_folder_that_looks_like_a_job(simulate: Simulate, new_job: NewJob) -> None:
    """The folder then belonged to the name of a job without answers, and `check` spoke of resuming."""
    job = new_job(simulate(), more={"endpoint": {"base_url": "https://example.invalid/v1", "api_key_env": "NO_SUCH"}})
    job.number_of_rows(3)
    done = job.run()
    assert done.returncode == 2
    assert "NO_SUCH is not set" in done.stderr
    assert not job.out.exists()
