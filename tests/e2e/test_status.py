"""Looking at a run while it goes on, and stopping it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline import status as looking
from pipeline.ledger import Prices
from pipeline.status import Reader, follow, status_lines
from pipeline.storage.files import Files
from pipeline.storage.snapshot import Snapshot
from tests.e2e.gate import Gate, gated
from tests.e2e.rig import DEADLINE_S, JobFolder, ended, wait_until
from tests.e2e.scripted import Said, refuses, says

NewJob = Callable[..., JobFolder]
PRICES = {"input": 1.0, "output": 10.0}


@contextmanager
def a_run(
    new_job: NewJob, rows: int, passing: int, said: list[Said] | None = None
) -> Iterator[tuple[JobFolder, subprocess.Popen[str], Gate]]:
    """A run that stands still behind the gate, with all that can pass answered and four rows in flight."""
    with gated(passing, said) as (gate, server):
        job = new_job(server.endpoint, concurrency=4, more={"limits": {"concurrency": 4}, "prices": PRICES})
        job.number_of_rows(rows)
        process = job.start()
        try:
            wait_until(lambda: gate.waiting == 4, "four requests behind the gate")
            wait_until(lambda: heartbeat(job).get("in_flight") == 4, "the heartbeat to tell of them")
            yield job, process, gate
        finally:
            process.kill()
            process.communicate()


def heartbeat(job: JobFolder) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads((job.out / "checkpoint" / "status.json").read_bytes())
    except FileNotFoundError:
        return {}
    return told


def members(job: JobFolder) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(job.run("status", "--json").stdout)
    return told


def test_a_run_that_goes_on_tells_rows_tokens_money_failures_and_what_is_in_flight(new_job: NewJob) -> None:
    with a_run(new_job, 20, 8, [says("fine"), refuses("no such thing"), says("cut", "length")]) as (job, process, gate):
        told = members(job)
        assert (told["running"], told["phase"], told["process"]["pid"]) == (True, "sending", process.pid)
        assert told["recorded"] == {"failed": 1, "ok": 6, "truncated": 1}
        assert told["failures"] == {"bad_request": 1}
        assert (told["requests"], told["requests_billed"]) == (8, 7)
        assert told["cost_usd"] == pytest.approx(7 * (10 * 1.0 + 3 * 10.0) / 1e6)
        assert (told["now"]["rows"], told["now"]["done"], told["now"]["in_flight"]) == (20, 8, 4)
        assert {slow["id"] for slow in told["now"]["slowest_in_flight"]} == {f"r{row:05d}" for row in range(8, 12)}
        assert told["now"]["limits"]["concurrency"] >= 1
        lines = job.run("status").stdout.splitlines()
        assert lines[0].startswith(f"job: sending (process {process.pid} since ")
        assert "  rows       8 of 20 (40.0 %), 8 in this run" in lines
        assert "  failed     1 bad_request" in lines
        assert any("row r00008 for " in line for line in lines)
        assert lines[-1].startswith("  limits     none on requests found yet, ")
        gate.opened.set()
        assert ended(process)[0] == 3
    told = members(job)
    assert told["running"] is False
    assert told["recorded"] == {"failed": 1, "ok": 18, "truncated": 1}
    assert told["cut_off"] is None
    assert "  last run   " in job.run("status").stdout


@pytest.mark.parametrize(
    ("given", "found", "said"),
    [
        (600.0, None, "600 requests a minute (the spec's), 8 in flight at most, refused 3 x"),
        (None, 58.6, "59 requests a minute (found), 8 in flight at most, refused 3 x"),
        (None, None, "none on requests found yet, 8 in flight at most, refused 3 x"),
    ],
)
def test_limits_are_told_as_given_or_as_found(given: float | None, found: float | None, said: str) -> None:
    limits = {"requests_per_minute_given": given, "requests_per_minute": found, "concurrency": 8.0, "refused": 3.0}
    assert looking._limits(limits) == said


def test_a_look_at_a_run_reads_no_answers(new_job: NewJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("the answers were read")

    with a_run(new_job, 20, 8) as (job, _process, _gate):
        monkeypatch.setattr(looking, "Snapshot", read)
        told = Reader(str(job.out), Prices()).look()
        assert told is not None
        assert told["recorded"] == {"ok": 8}


def test_without_a_run_the_answers_are_read_again_only_when_they_changed(
    new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    class Counted(Snapshot):
        def __init__(self, folder: str, job: str, files: Files | None = None) -> None:
            reads.append(folder)
            super().__init__(folder, job, files)

    monkeypatch.setattr(looking, "Snapshot", Counted)
    with gated(100) as (_gate, server):
        job = new_job(server.endpoint)
        job.number_of_rows(5)
        assert job.run().returncode == 0
        reader = Reader(str(job.out), Prices())
        first = reader.look()
        assert reader.look() == first
        assert len(reads) == 1
        job.number_of_rows(6)
        assert job.run().returncode == 0
        told = reader.look()
        assert told is not None
        assert told["recorded"] == {"ok": 6}
        assert len(reads) == 2


def test_rows_that_failed_before_are_counted_once(new_job: NewJob) -> None:
    with gated(3, [says("fine"), refuses("never"), refuses("never")]) as (gate, server):
        job = new_job(server.endpoint, concurrency=1)
        job.number_of_rows(3)
        assert job.run().returncode == 3
        gate.passing = 1
        process = job.start("run", "--retry-failed")
        try:
            wait_until(lambda: heartbeat(job).get("done_this_run") == 1, "one row")
            told = members(job)
            assert (told["recorded"], told["failures"]) == ({"ok": 2}, {})
        finally:
            gate.opened.set()
            assert ended(process)[0] == 0


def test_a_run_that_was_killed_is_told_as_cut_off_until_the_next_one(new_job: NewJob) -> None:
    with a_run(new_job, 20, 8) as (job, process, gate):
        process.kill()
        process.wait()
        told = members(job)
        assert told["running"] is False
        assert told["cut_off"]["done"] == 8
        assert "the last run was cut off" in job.run("status").stdout
        gate.opened.set()
        assert job.run().returncode == 0
        assert members(job)["cut_off"] is None


def test_what_an_earlier_run_said_is_not_taken_for_this_one(new_job: NewJob, tmp_path: Path) -> None:
    with a_run(new_job, 20, 8) as (job, process, _gate):
        told = heartbeat(job)
        process.send_signal(signal.SIGSTOP)  # or it would say something itself
        path = job.out / "checkpoint" / "status.json"
        path.write_text(json.dumps({**told, "pid": told["pid"] + 1, "done": 9999}))
        seen = Reader(str(job.out), Prices()).look()
        assert seen is not None
        assert (seen["phase"], seen["now"]) == ("starting", None)
        assert seen["recorded"] == {"ok": 8}
        assert "starting (process" in status_lines(seen)[0]


def test_a_run_that_was_not_heard_of_is_told_as_silent(new_job: NewJob) -> None:
    with a_run(new_job, 20, 8) as (job, process, _gate):
        process.send_signal(signal.SIGSTOP)
        path = job.out / "checkpoint" / "status.json"
        path.write_text(json.dumps({**heartbeat(job), "at": time.time() - 600}))
        assert "silent     for 10m0" in job.run("status").stdout


# -- watching


def test_watching_waits_for_a_run_and_ends_with_it(new_job: NewJob) -> None:
    with gated(4) as (gate, server):
        job = new_job(server.endpoint, concurrency=4)
        job.number_of_rows(12)
        watcher = job.start("status", "--watch")
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "no checkpoint yet; waiting for a run to begin (Ctrl-C ends this)\n"
        process = job.start()
        told: list[str] = []
        while not told or not told[-1].startswith("  in flight"):
            told.append(watcher.stdout.readline())
            assert told[-1], "the watcher has left"
        gate.opened.set()
        assert ended(process)[0] == 0
        rest, errors = watcher.communicate(timeout=DEADLINE_S)
        assert (watcher.returncode, errors) == (0, "")
        blocks = rest.strip().split("\n\n")
        assert blocks[-1].startswith("job: not running\n")
        assert "answers    12 ok" in blocks[-1]
        assert all(line.isprintable() for line in rest.splitlines())


def test_watching_as_json_is_one_object_a_line(new_job: NewJob) -> None:
    with a_run(new_job, 12, 4) as (job, process, gate):
        watcher = job.start("status", "--watch", "--json")
        assert watcher.stdout is not None
        first = json.loads(watcher.stdout.readline())
        assert (first["running"], first["now"]["done"]) == (True, 4)
        gate.opened.set()
        assert ended(process)[0] == 0
        rest, _ = watcher.communicate(timeout=DEADLINE_S)
        assert json.loads(rest.splitlines()[-1])["running"] is False
        assert watcher.returncode == 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_whoever_has_seen_enough_leaves_with_0_and_the_run_goes_on(new_job: NewJob, name: str) -> None:
    with a_run(new_job, 12, 4) as (job, process, gate):
        watcher = job.start("status", "--watch")
        assert watcher.stdout is not None
        watcher.stdout.readline()
        watcher.send_signal(signal.Signals[name])
        _, errors = watcher.communicate(timeout=DEADLINE_S)
        assert (watcher.returncode, errors) == (0, "")
        gate.opened.set()
        assert ended(process)[0] == 0


def test_a_run_that_came_and_went_between_two_looks_is_not_missed() -> None:
    class Told:
        lock = 1

        def look(self) -> dict[str, Any]:
            return {"running": False}

        def runs(self) -> object:
            return self.lock

        def taken(self) -> bool:
            return len(sleeps) == 3  # a run has the lock, and has made nothing else yet

    told = Told()
    sleeps: list[float] = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        told.lock += len(sleeps) == 3

    shown: list[object] = []
    follow(told, shown.append, sleep)  # type: ignore[arg-type]
    assert len(sleeps) == 4
    assert len(shown) == 2


# -- stopping


def test_a_stop_waits_for_what_is_paid_for_and_says_how_it_ended(new_job: NewJob) -> None:
    with a_run(new_job, 20, 8) as (job, process, gate):
        stopper = job.start("stop")
        wait_until(lambda: heartbeat(job).get("phase") == "stopping", "the drain")
        assert stopper.poll() is None
        assert members(job)["phase"] == "stopping"
        gate.opened.set()
        code, said = ended(stopper)
        assert code == 0, said
        assert f"process {process.pid} on " in said
        assert "exit 75, 12 ok, 8 pending" in said
        assert ended(process)[0] == 75


def test_a_second_stop_cuts_nothing_off(new_job: NewJob) -> None:
    # The run leaves at once on a second signal, and would lose what it waits for.
    with a_run(new_job, 20, 8) as (job, process, gate):
        assert job.run("stop", "--no-wait").returncode == 0
        wait_until(lambda: heartbeat(job).get("phase") == "stopping", "the drain")
        again = job.run("stop", "--no-wait")
        assert again.returncode == 0
        assert "stopping already" in again.stderr
        gate.opened.set()
        assert ended(process)[0] == 75
        assert job.summary()["statuses"] == {"ok": 12, "pending": 8}


def test_a_stop_without_a_run_is_fine_and_says_so(new_job: NewJob) -> None:
    with gated(10) as (_gate, server):
        job = new_job(server.endpoint)
        job.number_of_rows(3)
        for _ in range(2):
            done = job.run("stop")
            assert (done.returncode, done.stdout) == (0, "")
            assert "not running" in done.stderr
            assert job.run().returncode == 0


def test_a_stop_that_cannot_tell_whom_it_stops_refuses(new_job: NewJob) -> None:
    with a_run(new_job, 20, 8) as (job, process, _gate):
        lock = job.out / "checkpoint" / "LOCK"
        note = json.loads(lock.read_text())
        lock.write_text(json.dumps({**note, "pid": os.getpid()}))
        done = job.run("stop")
        assert done.returncode == 75
        assert "Nothing was signalled" in done.stderr
        assert process.poll() is None
