"""One run in several processes: the promises of one process, and what it means when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage.lock import held
from tests.e2e.gate import gated
from tests.e2e.rig import CANARY_KEY, DEADLINE_S, Endpoint, JobFolder, ended, wait_until
from tests.e2e.scripted import says, scripted
from tests.pictures import png
from tests.rigs.kill_loop import one_job

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]

TWO = ("run", "--processes", "2")
FAST = {"requests_per_minute": 60_000}


def events(job: JobFolder, name: str) -> list[dict[str, Any]]:
    path = job.out / "run.log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if line["event"] == name]


def hands(job: JobFolder) -> list[int]:
    """Process numbers, once they are started."""
    wait_until(lambda: bool(events(job, "processes")), "the processes")
    pids: list[int] = events(job, "processes")[-1]["pids"]
    return pids


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"Z"
    except FileNotFoundError:
        return True


def heartbeat(job: JobFolder) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads((job.out / "checkpoint" / "status.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return told


def working(job: JobFolder) -> int:
    """How many hands have begun and not ended, as the run itself tells it."""
    return int(heartbeat(job).get("processes", 0))


@pytest.mark.parametrize("ids", ["id", None])
def test_the_results_are_those_of_one_process(simulate: Simulate, new_job: NewJob, ids: str | None) -> None:
    endpoint = simulate(latency_s=0.05)
    job = new_job(endpoint, id_column=ids, more={"limits": {"concurrency": 16, **FAST}})
    job.number_of_rows(800)
    done = job.run(*TWO)
    assert done.returncode == 0, done.stderr
    assert endpoint.stats()["requests"] == endpoint.stats()["distinct"] == 800
    table = (job.out / "results.parquet").read_bytes()
    assert job.summary()["requests_billed"] == 800
    assert len(list((job.out / "checkpoint" / "parts").iterdir())) == 2, "both have recorded"
    job.more["output"] = "alone"
    assert job.run("run").returncode == 0
    assert (job.folder / "alone" / "results.parquet").read_bytes() == table
    job.more["output"] = "out"
    assert job.run("run").returncode == 0, "the rows are known to one process, too"
    assert endpoint.stats()["requests"] == 1600


def test_typed_answers_samples_and_streams_are_those_of_one_process(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(120)
    more = {
        "answer": {"fields": {"sentiment": ["positive", "negative", "neutral"], "confidence": "number"}},
        "samples": 3,
        "endpoint": {"base_url": endpoint.base_url, "stream": True},
    }
    job.more = {**more, "prices": {"input": 1.0, "output": 2.0}, "limits": {"concurrency": 16, **FAST}}
    done = job.run(*TWO)
    assert done.returncode == 0, done.stderr
    table, summary = (job.out / "results.parquet").read_bytes(), job.summary()
    assert summary["requests_billed"] == 360
    job.more["output"] = "alone"
    assert job.run("run").returncode == 0
    assert (job.folder / "alone" / "results.parquet").read_bytes() == table
    alone = json.loads((job.folder / "alone" / "summary.json").read_bytes())
    for name in ("statuses", "tokens", "cost_usd", "requests", "requests_billed"):
        assert alone[name] == summary[name], name


def test_a_row_that_is_asked_for_all_is_asked_once(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint, more={"dedupe": True})
    job.rows([{"id": f"r{place}", "text": f"text {place % 50}"} for place in range(200)])
    assert job.run(*TWO).returncode == 0
    assert endpoint.stats()["requests"] == 50
    assert set(job.results()["status"]) == {"ok"}


def test_a_hand_that_is_killed_costs_what_it_had_in_flight(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(latency_s=0.05)
    job = new_job(endpoint, more={"limits": {"concurrency": 8, **FAST}})
    job.number_of_rows(800)
    process = job.start(*TWO)
    pids = hands(job)
    wait_until(lambda: working(job) == 2 and endpoint.stats()["requests"] > 150, "both to work")
    os.kill(pids[1], signal.SIGKILL)
    code, errors = ended(process)
    assert code == 75, errors
    assert f"process 2 of 2 (pid {pids[1]}) died of SIGKILL" in errors
    assert "the same command goes on" in errors.lower()
    told = job.summary()["statuses"]
    # The other one went on with all that was not in hand.
    assert told["ok"] >= 400
    assert told["ok"] + told["pending"] == 800
    first = endpoint.stats()["requests"]
    assert 0 <= first - told["ok"] <= 4
    assert job.run(*TWO).returncode == 0
    assert job.results().height == job.results()["id"].n_unique() == 800
    assert set(job.results()["status"]) == {"ok"}
    assert endpoint.stats()["requests"] == 800 + first - told["ok"]
    summary = job.summary()
    assert first - told["ok"] <= summary["requests_maybe_billed"] <= 4
    assert job.run("verify").returncode == 0


def test_the_first_hand_killed_before_anything_is_known_stops_the_run(new_job: NewJob) -> None:
    with gated(0) as (gate, server):
        job = new_job(server.endpoint)
        job.number_of_rows(50)
        process = job.start(*TWO)
        pids = hands(job)
        wait_until(lambda: gate.waiting == 1, "the first request")
        os.kill(pids[0], signal.SIGKILL)
        code, errors = ended(process)
        assert code == 75, errors
        assert "process 1 of 2" in errors
        assert len(server.asked) == 1
        assert job.summary()["requests_maybe_billed"] == 1


def test_when_the_leader_is_killed_what_is_in_flight_is_still_recorded(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(latency_s=0.1)
    job = new_job(endpoint)
    job.number_of_rows(800)
    process = job.start(*TWO)
    pids = hands(job)
    wait_until(lambda: working(job) == 2 and endpoint.stats()["requests"] > 100, "both to work")
    process.kill()
    ended(process)
    # No other run may begin while they still record.
    wait_until(lambda: not held(str(job.out / "checkpoint" / "LOCK")), "the lock")
    wait_until(lambda: all(map(gone, pids)), "both to end")  # the lock is free a moment before
    stopped = endpoint.stats()
    assert stopped["in_flight"] == 0
    status = json.loads(job.run("status", "--json").stdout)
    assert status["recorded"]["ok"] == stopped["requests"]
    assert {line["process"] for line in events(job, "stopping")} == {1, 2}
    assert job.run(*TWO).returncode == 0
    assert endpoint.stats()["requests"] == 800
    assert endpoint.stats()["repeated"] == 0
    assert set(job.results()["status"]) == {"ok"}


def test_a_second_run_waits_for_hands_that_still_record(new_job: NewJob) -> None:
    with gated(1) as (gate, server):
        job = new_job(server.endpoint, concurrency=4)
        job.number_of_rows(50)
        process = job.start(*TWO)
        wait_until(lambda: gate.waiting == 4, "all places")
        process.kill()
        process.wait()
        second = job.run()
        assert second.returncode == 75
        assert "in use" in second.stderr
        assert len(server.asked) == 5
        gate.opened.set()
        ended(process)  # they have its pipe, too
        wait_until(lambda: not held(str(job.out / "checkpoint" / "LOCK")), "the lock")
        assert job.run().returncode == 0
        assert len(server.asked) == 50


@pytest.mark.parametrize("to", ["leader", "hand", "group"])
def test_a_signal_to_any_of_them_drains_all(simulate: Simulate, new_job: NewJob, to: str) -> None:
    endpoint = simulate(latency_s=0.1)
    job = new_job(endpoint)
    job.number_of_rows(800)
    process = subprocess.Popen(
        job.command(*TWO), cwd=job.folder, env=job.environment(), stderr=subprocess.PIPE, text=True, process_group=0
    )
    pids = hands(job)
    wait_until(lambda: working(job) == 2 and endpoint.stats()["requests"] > 60, "both to work")
    if to == "leader":
        process.send_signal(signal.SIGTERM)
    elif to == "hand":
        os.kill(pids[0], signal.SIGTERM)
    else:  # as a terminal does it
        os.killpg(process.pid, signal.SIGINT)
    code, errors = ended(process)
    assert code == 75, errors
    assert "stopped by SIG" in errors
    stopped = endpoint.stats()
    assert stopped["in_flight"] == 0
    assert job.summary()["statuses"]["ok"] == stopped["requests"]
    assert all(map(gone, pids))
    assert job.run(*TWO).returncode == 0
    assert endpoint.stats()["requests"] == 800
    assert endpoint.stats()["repeated"] == 0


def test_a_second_signal_leaves_at_once_and_keeps_what_was_received(new_job: NewJob) -> None:
    with gated(60) as (gate, server):
        job = new_job(server.endpoint)
        job.number_of_rows(300)
        process = job.start(*TWO)
        pids = hands(job)
        wait_until(lambda: gate.waiting == 16, "all places")
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: len(events(job, "stopping")) == 3, "the drain")
        process.send_signal(signal.SIGTERM)
        code, errors = ended(process)
        assert code == 130, errors
        wait_until(lambda: all(map(gone, pids)), "the hands")
        assert json.loads(job.run("status", "--json").stdout)["recorded"]["ok"] == 60


def test_stop_is_heard_by_all(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(latency_s=0.1)
    job = new_job(endpoint)
    job.number_of_rows(3000)
    process = job.start(*TWO)
    wait_until(lambda: working(job) == 2, "both to work")
    stopped = job.run("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert ended(process)[0] == 75
    assert endpoint.stats()["in_flight"] == 0


def test_a_misspelt_model_costs_one_request(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(models=("other-model",), unknown_model_status=404)
    job = new_job(endpoint)
    job.number_of_rows(300)
    done = job.run("run", "--processes", "3")
    assert done.returncode == 4, done.stderr
    assert endpoint.stats()["requests"] == 1


def test_the_others_wait_for_the_first_answer(new_job: NewJob) -> None:
    with gated(0) as (gate, server):
        job = new_job(server.endpoint)
        job.number_of_rows(50)
        process = job.start("run", "--processes", "3")
        wait_until(lambda: heartbeat(job).get("in_flight") == 1, "the first request to be told of")
        assert (working(job), len(server.asked)) == (1, 1)
        gate.opened.set()
        assert ended(process)[0] == 0
        assert len(server.asked) == 50


def test_a_refusal_in_one_of_them_is_the_end_of_the_run(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(latency_s=0.01, balance_requests=400)
    job = new_job(endpoint, more={"limits": {"concurrency": 16, **FAST}})
    job.number_of_rows(3000)
    done = job.run(*TWO)
    assert done.returncode == 4, done.stderr
    summary = job.summary()
    assert summary["exit_code"] == 4
    assert summary["statuses"]["ok"] == summary["requests_billed"] == endpoint.stats()["billed"] < 3000


def test_a_budget_is_not_passed_by_both_at_once(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(faults={"mixed": 0.1}, seed=5, answer_tokens=(5, 60), latency_s=0.02)
    more = {
        "model": {"name": "test-model", "max_tokens": 40},
        "budget": {"tokens": 9_000},
        "retry": {"max_attempts": 3, "max_wait_s": 0.05},
        "limits": {"concurrency": 128, **FAST},
    }
    job = new_job(endpoint, more=more)
    job.number_of_rows(600)
    done = job.run(*TWO)
    assert done.returncode == 5, done.stderr
    assert "budget.tokens" in done.stderr
    spent = endpoint.stats()["total_tokens"]
    assert 6_000 < spent <= 9_000
    assert job.run(*TWO).returncode == 5
    assert endpoint.stats()["total_tokens"] <= 9_000


def test_requests_per_minute_are_those_of_the_run(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(requests_per_minute=1200, window="bucket", burst=20)
    job = new_job(endpoint, more={"limits": {"concurrency": 8, "requests_per_minute": 1200}})
    job.number_of_rows(100)
    done = job.run(*TWO)
    assert done.returncode == 0, done.stderr
    assert endpoint.stats()["requests"] == 100, "not one was refused"


def test_a_deadline_stops_all(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(latency_s=0.2)
    job = new_job(endpoint)
    job.number_of_rows(5000)
    done = job.run(*TWO, "--max-minutes", "0.05")
    assert done.returncode == 75
    assert "--max-minutes" in done.stderr
    assert endpoint.stats()["in_flight"] == 0


def test_failed_rows_go_again_and_one_that_fails_for_good_does_not(new_job: NewJob) -> None:
    refused = {
        "error": {"message": "your prompt was rejected by the content policy", "code": "content_policy_violation"}
    }
    with scripted(lambda body: (400, refused) if "bad" in str(body) else says("positive")) as server:
        job = new_job(server.endpoint)
        job.rows([{"id": f"r{place}", "text": "bad" if place % 10 == 3 else f"text {place}"} for place in range(200)])
        assert job.run(*TWO).returncode == 3
        assert len(server.asked) == 200
        assert job.summary()["statuses"]["ok"] == 180
        assert job.run(*TWO).returncode == 3
        assert len(server.asked) == 200
        assert job.run(*TWO, "--retry-failed").returncode == 3
        assert len(server.asked) == 220


def test_an_edited_input_is_noticed(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(latency_s=0.05)
    job = new_job(endpoint)
    job.number_of_rows(1000)
    process = job.start(*TWO)
    wait_until(lambda: working(job) == 2, "both to work")
    job.rows([{"id": f"r{place:05d}", "text": f"edited {place}"} for place in range(1000)])
    code, errors = ended(process)
    assert code == 75, errors
    assert "input changed" in errors
    assert not (job.out / "results.parquet").exists()


def test_more_processes_than_there_is_work_for_are_not_started(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate(), concurrency=3)
    job.number_of_rows(20)
    assert job.run("run", "--processes", "9").returncode == 0
    assert len(hands(job)) == 3
    assert job.run("run", "--processes", "9").returncode == 0, "nothing to do"


def test_attached_files_are_refused(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    more = {
        "prompt": {"user": "what is it? {{ text }}", "attachments": [{"column": "file"}]},
        "attachments": {"root": "."},
    }
    job = new_job(endpoint, more=more)
    job.rows([{"id": "a", "text": "t", "file": "in.csv"}])
    done = job.run(*TWO)
    assert done.returncode == 2, done.stderr
    assert "Leave --processes out" in done.stderr
    assert endpoint.stats()["requests"] == 0


def test_the_key_is_in_no_argument_and_in_no_file(new_job: NewJob) -> None:
    with gated(1) as (gate, server):
        job = new_job(server.endpoint)
        job.number_of_rows(50)
        process = job.start(*TWO)
        pids = hands(job)
        wait_until(lambda: gate.waiting == 16, "all places")
        for pid in pids:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                assert CANARY_KEY.encode() not in file.read()
        gate.opened.set()
        assert ended(process)[0] == 0
    files = [path for path in job.out.rglob("*") if path.is_file()]
    assert CANARY_KEY.encode() not in b"".join(path.read_bytes() for path in files)


def test_rows_without_an_answer_are_told_by_whom(new_job: NewJob) -> None:
    """What one hand logs says which one it was."""
    broken = {"error": {"message": "the prompt is too long", "code": "context_length_exceeded"}}
    with scripted(lambda body: (400, broken) if "bad" in str(body) else says("positive")) as server:
        job = new_job(server.endpoint)
        job.rows([{"id": f"r{place}", "text": "bad" if place == 7 else "good"} for place in range(50)])
        began = time.monotonic()
        assert job.run(*TWO).returncode == 3
        assert time.monotonic() - began < DEADLINE_S
        (told,) = events(job, "row_failed")
        assert told["process"] in (1, 2)
        assert told["ordinal"] == 7


def test_what_answers_link_to_is_fetched_by_whoever_has_the_answer_and_once(new_job: NewJob) -> None:
    with scripted(lambda body: says(f"here it is: {server.base_url}/{len(server.asked)}.png")) as server:
        server.show = lambda path: (200, "image/png", png(int(path.rpartition("/")[2].removesuffix(".png"))))
        job = new_job(server.endpoint, more={"media": {"download": True}})
        job.number_of_rows(60)
        done = job.run(*TWO)
        assert done.returncode == 0, done.stderr
        assert len(server.asked) == len({path for path, _ in server.fetched}) == 60
        results = job.results()
        assert all(len(paths) == 1 and (job.out / paths[0]).is_file() for paths in results["media"])
        assert job.run(*TWO).returncode == 0
        assert len(server.fetched) == 60


def test_a_kept_reply_is_not_bought_again(new_job: NewJob) -> None:
    """Two of three samples are there when all are killed: the next run asks for the third alone."""
    with gated(61) as (gate, server):
        job = new_job(server.endpoint, more={"samples": 3, "limits": {"concurrency": 4, **FAST}})
        job.number_of_rows(40)
        process = subprocess.Popen(job.command(*TWO), cwd=job.folder, env=job.environment(), process_group=0)
        wait_until(lambda: gate.waiting == 4, "all places")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: not held(str(job.out / "checkpoint" / "LOCK")), "the lock")
        gate.opened.set()
        assert job.run(*TWO).returncode == 0
        # Three for each row, and what was in flight once more.
        assert len(server.asked) == 120 + 4


def test_a_run_of_two_processes_is_one_of_two_that_share_an_allowance(
    simulate: Simulate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    endpoint = simulate(requests_per_minute=600, window="bucket", burst=20)
    jobs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        job = JobFolder(
            tmp_path / name, endpoint.base_url, more={"limits": {"concurrency": 8, "requests_per_minute": 600}}
        )
        job.number_of_rows(60)
        jobs.append(job)
    running = [jobs[0].start(*TWO), jobs[1].start("run")]
    wait_until(lambda: all(events(job, "sharing") for job in jobs), "both to know of each other")
    assert [ended(process)[0] for process in running] == [0, 0]
    assert endpoint.stats()["requests"] == 120, "not one was refused"
    assert [line["jobs"] for line in events(jobs[1], "sharing")][:1] == [2], "two jobs, and not three"
    assert jobs[0].summary()["limits_found"]["jobs_sharing"] in (1, 2)


def test_killed_at_random_moments_whoever_it_is_nothing_is_lost_and_nothing_invented() -> None:
    """The short form of the kill loop."""
    tally = one_job(seed=5, rows=1200, kills_left=3, processes=2, victim="any")
    assert not tally.broken()
    assert tally.kills == 3
    assert (tally.acknowledged_lost, tally.invented, tally.duplicates) == (0, 0, 0)
