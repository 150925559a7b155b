"""An input that grows night by night, and answers that grow old."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.e2e.later import later, start_later
from tests.e2e.rig import Endpoint, JobFolder, ended, wait_until
from tests.e2e.scripted import says, scripted

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]


def day(job: JobFolder, name: str, rows: dict[str, str]) -> None:
    folder = job.folder / "days"
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *rows.items()])


def since(job: JobFolder) -> tuple[int, int, int, int]:
    told = job.summary()["rows_since_last_run"]
    return told["kept"], told["new"], told["changed"], told["gone"]


def test_a_glob_of_daily_files_sends_what_is_new_or_changed_and_the_summary_tells(
    simulate: Simulate, new_job: NewJob
) -> None:
    endpoint = simulate()
    job = new_job(endpoint, more={"input": {"path": "days/*.csv", "id": "id"}})
    day(job, "1", {"a": "one", "b": "two", "c": "three"})
    assert job.run().returncode == 0
    assert since(job) == (0, 3, 0, 0)  # a fresh job: all rows are new
    day(job, "2", {"d": "four", "e": "five"})
    assert job.run().returncode == 0
    assert (endpoint.stats()["requests"], since(job)) == (5, (3, 2, 0, 0))
    assert job.run().returncode == 0
    assert (endpoint.stats()["requests"], since(job)) == (5, (5, 0, 0, 0))  # nothing to do: all rows are kept
    day(job, "1", {"a": "one", "b": "two, edited"})
    day(job, "3", {"f": "six"})
    done = job.run()
    assert done.returncode == 0
    assert (endpoint.stats()["requests"], since(job)) == (7, (3, 1, 1, 1))
    assert "1 rows of the last run are gone from the input" in done.stderr
    assert job.results()["id"].to_list() == ["a", "b", "d", "e", "f"]
    day(job, "4", {"g": "seven"})
    assert job.run().returncode == 0
    assert (endpoint.stats()["requests"], since(job)) == (8, (5, 1, 0, 0))  # what left earlier is not told again
    assert job.summary()["plan"]["removed"] == 2  # the row that left, and the old words of the edited one


def test_a_table_that_grows_at_its_end_sends_its_new_rows_without_ids_too(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint, id_column=None)
    rows = [{"text": f"text {place}"} for place in range(20)]
    for count in (5, 11, 20):
        job.rows(rows[:count])
        assert job.run().returncode == 0
        assert endpoint.stats()["requests"] == count
    assert since(job) == (11, 9, 0, 0)


def test_a_run_with_nothing_to_do_keeps_what_the_summary_knew(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate(), more={"evaluate": {"gold": "label"}})
    job.rows([{"id": "a", "text": "fine", "label": "positive"}, {"id": "b", "text": "so so", "label": "neutral"}])
    assert job.run().returncode == 0
    first = job.summary()
    assert job.run().returncode == 0
    second = job.summary()
    differing = {"started", "seconds", "message", "plan", "rows_since_last_run", "rows_ended_this_run", "run"}
    assert {name: first[name] for name in first.keys() - differing} == {
        name: second[name] for name in second.keys() - differing
    }
    assert (first["rows_ended_this_run"], second["rows_ended_this_run"]) == (2, 0)
    assert (first["plan"]["new"], second["plan"]["done"]) == (2, 2)


def test_a_rerun_whose_options_find_nothing_leaves_the_tables_alone(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.number_of_rows(5)
    assert job.run().returncode == 0
    before = (job.out / "results.parquet").stat()
    assert job.run("run", "--retry-failed").returncode == 0
    after = (job.out / "results.parquet").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


# -- answers that grow old


class Oracle:
    """An endpoint whose word can be changed; counts what it was asked."""

    def __init__(self) -> None:
        self.word = "old"
        self.refuse: Callable[[str], bool] = lambda prompt: False

    def __call__(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.refuse(body["messages"][-1]["content"]):
            return 400, {"error": {"message": "flagged by our content policy", "code": "content_policy_violation"}}
        return says(self.word)


def aged(folder: Path, endpoint: Endpoint, rows: int = 4) -> JobFolder:
    job = JobFolder(folder, endpoint.base_url, more={"expire": "30d", "prices": {"input": 1, "output": 2}})
    job.number_of_rows(rows)
    return job


def test_expired_answers_are_told_and_kept_until_a_run_is_told_to_ask_again(tmp_path: Path) -> None:
    oracle = Oracle()
    with scripted(oracle) as told:
        job = aged(tmp_path, told.endpoint)
        assert later(job, 0).returncode == 0
        before = (job.out / "results.parquet").stat()
        young = later(job, 29)
        assert "older" not in young.stderr
        oracle.word = "new"
        old = later(job, 31)
        assert old.returncode == 0
        assert "4 answers are older than 30d; --refresh-expired asks them again" in old.stderr
        assert job.summary()["plan"]["expired"] == 4
        after = (job.out / "results.parquet").stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        plan = json.loads(later(job, 31, "plan", "--json").stdout)
        assert (plan["plan"]["expired"], plan["plan"]["to_send"], plan["cost_usd"]["expected"]) == (4, 0, 0)
        plan = json.loads(later(job, 31, "plan", "--refresh-expired", "--json").stdout)
        assert (plan["plan"]["expired_again"], plan["plan"]["to_send"]) == (4, 4)
        assert plan["cost_usd"]["expected"] == pytest.approx(4 * (10 + 2 * 3) / 1e6)
        assert len(told.asked) == 4
        done = later(job, 31, "run", "--refresh-expired")
        assert done.returncode == 0, done.stderr
        assert len(told.asked) == 8
        assert job.results()["response"].to_list() == ["new"] * 4
        summary = job.summary()
        assert (summary["requests_billed"], summary["tokens"]["prompt"]) == (8, 80)
        assert summary["cost_usd"] == pytest.approx(8 * (10 + 2 * 3) / 1e6)
        assert since(job) == (4, 0, 0, 0)
        again = later(job, 31, "run", "--refresh-expired")
        assert "nothing to do" in again.stderr
        assert len(told.asked) == 8


def test_new_rows_do_not_drag_the_old_ones_along(tmp_path: Path) -> None:
    oracle = Oracle()
    with scripted(oracle) as told:
        job = aged(tmp_path, told.endpoint)
        later(job, 0)
        oracle.word = "new"
        job.number_of_rows(6)
        done = later(job, 40)
        assert "4 answers are older than 30d" in done.stderr
        assert job.results()["response"].to_list() == ["old"] * 4 + ["new"] * 2
        assert len(told.asked) == 6


def test_a_renewal_that_fails_leaves_the_old_answer_and_is_not_bought_every_night(tmp_path: Path) -> None:
    oracle = Oracle()
    with scripted(oracle) as told:
        job = aged(tmp_path, told.endpoint)
        later(job, 0)
        oracle.word = "new"
        oracle.refuse = lambda prompt: prompt.endswith(("number 1", "number 2"))
        done = later(job, 31, "run", "--refresh-expired")
        assert done.returncode == 0, done.stderr
        assert "2 answers were not renewed, and stay" in done.stderr
        assert job.results()["response"].to_list() == ["new", "old", "old", "new"]
        assert job.results()["status"].to_list() == ["ok"] * 4
        assert pl.read_parquet(job.out / "failed.parquet").height == 0
        assert len(told.asked) == 8
        assert "nothing to do" in later(job, 32, "run", "--refresh-expired").stderr  # refused for good: it is asked
        assert len(told.asked) == 8  # again when another thirty days have gone
        assert json.loads(later(job, 70, "plan", "--json").stdout)["plan"]["expired"] == 4


def test_a_killed_refresh_keeps_what_it_has_renewed_and_goes_on_with_the_rest(
    simulate: Simulate, new_job: NewJob
) -> None:
    endpoint = simulate(latency_s=0.05)
    job = new_job(endpoint, concurrency=4, more={"expire": "1m"})
    job.number_of_rows(60)
    assert job.run().returncode == 0
    assert endpoint.stats()["requests"] == 60
    first = start_later(job, 1, "run", "--refresh-expired")
    wait_until(lambda: endpoint.stats()["answers"] >= 80, "renewals")
    first.kill()
    ended(first)
    plain = later(job, 1)
    assert plain.returncode == 0, plain.stderr
    left = job.summary()["plan"]["expired"]
    assert 0 < left < 45
    assert later(job, 1, "run", "--refresh-expired").returncode == 0
    stats = endpoint.stats()
    assert 120 <= stats["requests"] <= 120 + 4  # what was in flight is asked again
    assert job.results()["status"].to_list() == ["ok"] * 60
    assert "nothing to do" in later(job, 1, "run", "--refresh-expired").stderr


def test_a_refresh_needs_an_age_in_the_spec(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(2)
    for verb in ("plan", "run"):
        refused = job.run(verb, "--refresh-expired")
        assert refused.returncode == 2
        assert "expire: 30d" in refused.stderr
    assert endpoint.stats()["requests"] == 0
