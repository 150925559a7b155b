"""Alarms: a finished run held against the one before, through the command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pipeline import after, comparison
from pipeline.cli import call
from tests.e2e.rig import JobFolder
from tests.e2e.scripted import Said, Scripted, refuses, says, scripted

NewJob = Callable[..., JobFolder]
FIELDS = {"fields": {"mood": ["good", "bad"]}}


@dataclass
class Labeller:
    """Says of each text what it was told to; refuses what it was not."""

    labels: dict[str, str] = field(default_factory=dict)

    def __call__(self, body: dict[str, Any]) -> Said:
        text = body["messages"][-1]["content"].split("\n")[0].split()[-1]
        label = self.labels.get(text)
        return refuses("no") if label is None else says(json.dumps({"mood": label}))

    def label(self, rows: int, bad: int, prefix: str = "t") -> None:
        self.labels |= {f"{prefix}{n}": "bad" if n < bad else "good" for n in range(rows)}


@pytest.fixture
def labeller() -> Labeller:
    return Labeller()


@pytest.fixture
def told(labeller: Labeller) -> Iterator[Scripted]:
    with scripted(labeller) as server:
        yield server


@pytest.fixture
def job(told: Scripted, new_job: NewJob) -> JobFolder:
    job = new_job(told.endpoint, template="Mood of {{ text }}")
    job.more["answer"] = FIELDS
    texts(job, 20)
    return job


def texts(job: JobFolder, rows: int, prefix: str = "t") -> None:
    job.rows([{"id": f"r{n}", "text": f"{prefix}{n}"} for n in range(rows)])


def log(job: JobFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.out / "run.log").read_text().splitlines()]


def tables(job: JobFolder) -> dict[str, tuple[int, int]]:
    """Which files they are, and how large: their times tell make whether the run was content with them."""
    return {path.name: (path.stat().st_ino, path.stat().st_size) for path in job.out.glob("*.parquet")}


def looks_finished(job: JobFolder) -> bool:
    return (job.out / "results.parquet").stat().st_mtime > (job.folder / "in.csv").stat().st_mtime


def test_a_label_shift_is_an_alarm_until_the_next_run_or_until_the_alarm_is_removed(
    labeller: Labeller, told: Scripted, job: JobFolder
) -> None:
    labeller.label(20, bad=5)
    job.more["alarm"] = {"label_share_change": 0.1}
    first = job.run()
    assert first.returncode == 0, first.stderr
    assert job.summary()["alarm"] == []

    labeller.label(20, bad=9)
    job.template = "What is the mood of {{ text }}"
    assert job.run().returncode == 2  # another question: not without --accept-changes
    second = job.run("run", "--accept-changes")
    assert second.returncode == 3, second.stderr
    reason = "the share of a label of mood changed from 25.0 % to 45.0 %"
    summary = job.summary()
    assert reason in second.stderr
    assert reason in summary["message"]
    assert [reason in one for one in summary["alarm"]] == [True]
    assert summary["exit_code"] == 3
    assert "'bad' 25.0 % of the rows before, 45.0 % now" in second.stderr
    alarms = [line for line in log(job) if line["event"] == "alarm"]
    assert len(alarms) == 1
    assert reason in alarms[0]["reasons"][0]
    assert job.results()["mood"].to_list().count("bad") == 9  # published all the same

    before, asked = tables(job), len(told.asked)
    again = job.run()
    assert again.returncode == 3
    assert not looks_finished(job)
    assert reason in again.stderr
    assert "nothing to do" in again.stderr
    del job.more["alarm"]
    assert job.run().returncode == 0
    assert looks_finished(job)
    job.more["alarm"] = {"label_share_change": 0.25}
    assert job.run().returncode == 0
    job.more["alarm"] = {"label_share_change": 0.1}
    assert job.run().returncode == 3
    assert (tables(job), len(told.asked)) == (before, asked)

    job.rows([{"id": f"r{n}", "text": f"t{n}"} for n in range(19)])  # a new run: one row fewer, nothing else
    settled = job.run()
    assert settled.returncode == 0, settled.stderr


def test_rows_that_flip_are_counted_over_the_rows_of_both_runs(labeller: Labeller, job: JobFolder) -> None:
    labeller.label(20, bad=10)
    job.more["alarm"] = {"flip_rate": 0.15}
    assert job.run().returncode == 0
    # r0 to r3 are edited and come back good, r18 and r19 go, two come: 4 of 18 flip. Shares move by less.
    rows = [{"id": f"r{n}", "text": f"e{n}" if n < 4 else f"t{n}"} for n in range(18)]
    job.rows([*rows, {"id": "n0", "text": "n0"}, {"id": "n1", "text": "n1"}])
    labeller.label(4, bad=0, prefix="e")
    labeller.label(2, bad=2, prefix="n")
    done = job.run()
    assert done.returncode == 3, done.stderr
    assert "4 of 18 rows changed their mood, 22.2 % (flip_rate: 0.15)" in done.stderr
    assert job.summary()["drift"]["flips"] == [{"field": "mood", "flipped": 4, "compared": 18, "rate": 4 / 18}]
    assert job.run("run", "--set", "alarm.flip_rate=0.23").returncode == 0
    assert job.run("run").returncode == 3


def test_without_ids_a_row_is_followed_by_what_it_holds(labeller: Labeller, job: JobFolder) -> None:
    labeller.label(20, bad=10)
    job.id_column = None
    job.more["alarm"] = {"flip_rate": 0.1}
    assert job.run().returncode == 0
    labeller.label(20, bad=13)
    job.template = "Tell the mood of {{ text }}"
    done = job.run("run", "--accept-changes")
    assert done.returncode == 3, done.stderr
    assert "3 of 20 rows changed their mood, 15.0 %" in done.stderr


def test_a_first_run_can_only_fail(labeller: Labeller, job: JobFolder) -> None:
    labeller.label(18, bad=9)  # the last two are refused
    job.more["alarm"] = {"failure_rate": 0.05, "flip_rate": 0.0, "label_share_change": 0.0}
    done = job.run("run", "--max-failed", "2")
    assert done.returncode == 3, done.stderr
    assert "alarm: 2 of 20 rows failed, 10.0 % (failure_rate: 0.05)" in done.stderr
    assert job.run("run", "--max-failed", "2").returncode == 3
    job.more["alarm"]["failure_rate"] = 0.1
    assert job.run("run", "--max-failed", "2").returncode == 0
    both = job.run("run", "--set", "alarm.failure_rate=0.01")
    assert both.returncode == 3
    assert "2 rows failed, see `pipeline failures`" in both.stderr
    assert "alarm: 2 of 20" in both.stderr


def test_tables_made_anew_from_the_same_answers_keep_the_alarm(labeller: Labeller, job: JobFolder) -> None:
    labeller.label(20, bad=5)
    job.more["alarm"] = {"label_share_change": 0.1}
    assert job.run().returncode == 0
    labeller.label(20, bad=9)
    job.template = "What is the mood of {{ text }}"
    assert job.run("run", "--accept-changes").returncode == 3
    job.more["prices"] = {"input": 1, "output": 2}
    priced = job.run()
    assert priced.returncode == 3, priced.stderr
    assert "nothing to do" not in priced.stderr
    os.unlink(job.out / "results.parquet")
    assert job.run().returncode == 3
    assert not list((job.out / "checkpoint" / "history").glob("*.parquet"))


def test_results_that_went_away_leave_flips_uncompared_and_say_so(labeller: Labeller, job: JobFolder) -> None:
    labeller.label(20, bad=5)
    job.more["alarm"] = {"flip_rate": 0.0, "label_share_change": 0.5}
    assert job.run().returncode == 0
    os.unlink(job.out / "results.parquet")
    labeller.label(20, bad=19)
    job.template = "What is the mood of {{ text }}"
    done = job.run("run", "--accept-changes")
    assert done.returncode == 3
    assert "not compared: flips: the results of the run before are no longer there" in done.stderr
    assert "label_share_change" in job.summary()["alarm"][0]


def test_a_run_that_is_killed_while_it_publishes_is_compared_with_the_same_run_again(
    labeller: Labeller, job: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    labeller.label(20, bad=5)
    job.more["alarm"] = {"flip_rate": 0.1}
    monkeypatch.chdir(job.folder)

    def go(*more: str) -> int:
        return call(["run", str(job.write()), "--quiet", *more])

    assert go() == 0
    labeller.label(20, bad=9)
    job.template = "What is the mood of {{ text }}"

    class Killed(Exception):
        pass

    def killed(*args: object) -> None:
        raise Killed

    # After and before the statistics are kept; the tables have their names in both cases.
    for room, name in ((after, "evaluated"), (comparison.Comparison, "end")):
        with monkeypatch.context() as patch:
            patch.setattr(room, name, killed)
            assert go("--accept-changes") == 1
        assert job.results()["mood"].to_list().count("bad") == 9
        assert [path.name for path in (job.out / "checkpoint" / "history").glob("*.parquet")] == ["0001.parquet"]
    assert go() == 3
    assert job.summary()["drift"]["flips"][0]["flipped"] == 4
    assert job.summary()["drift"]["against_run"] == 1
    assert go() == 3
    assert not list((job.out / "checkpoint" / "history").glob("*.parquet"))
    assert sorted(path.name for path in (job.out / "checkpoint" / "history").iterdir()) == ["0001.json", "0002.json"]


def test_a_run_that_was_killed_before_it_was_settled_is_no_run_before(
    labeller: Labeller, job: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    labeller.label(20, bad=5)
    monkeypatch.chdir(job.folder)
    assert call(["run", str(job.write()), "--quiet"]) == 0
    labeller.label(20, bad=9)
    job.template = "What is the mood of {{ text }}"

    def killed(*args: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(after, "evaluated", killed)
        assert call(["run", str(job.write()), "--quiet", "--accept-changes"]) == 1
    texts(job, 19)  # what goes on is another run than the one that was killed, though not against it
    assert call(["run", str(job.write()), "--quiet"]) == 0
    drift = job.summary()["drift"]
    assert (drift["run"], drift["against_run"]) == (2, 1)
    assert drift["flips"] == [{"field": "mood", "flipped": 4, "compared": 19, "rate": 4 / 19}]


def test_a_history_that_cannot_be_read_is_no_history(labeller: Labeller, job: JobFolder) -> None:
    labeller.label(20, bad=5)
    job.more["alarm"] = {"label_share_change": 0.1}
    assert job.run().returncode == 0
    history = job.out / "checkpoint" / "history"
    assert oct((history / "0001.json").stat().st_mode & 0o777) == "0o600"
    (history / "0001.json").write_text("{")
    labeller.label(20, bad=9)
    job.template = "What is the mood of {{ text }}"
    done = job.run("run", "--accept-changes")
    assert done.returncode == 0, done.stderr
    assert job.summary()["drift"]["against_run"] is None


@pytest.mark.parametrize(
    ("alarm", "cure"),
    [
        ({"flip_rate": 2}, "alarm.flip_rate must be at most 1"),
        ({"failure_rate": "5%"}, "alarm.failure_rate must be a number"),
        ({"flip_rat": 0.1}, "did you mean flip_rate"),
    ],
)
def test_an_alarm_that_is_none_is_refused(job: JobFolder, alarm: dict[str, Any], cure: str) -> None:
    job.more["alarm"] = alarm
    done = job.run("check")
    assert done.returncode == 2
    assert cure in done.stderr
