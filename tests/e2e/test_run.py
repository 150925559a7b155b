"""A job from the command line to its tables."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.e2e.rig import CANARY_KEY, Endpoint, JobFolder

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]

AWKWARD_IDS = ["007", "1e5", "12345678901234567890", "null", "NA", "true", "1.0", " spaced ", "ümläut", "-0"]


def test_every_row_has_its_answer_and_the_tokens_are_those_the_server_counted(
    simulate: Simulate, new_job: NewJob
) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(120)
    done = job.run()
    assert done.returncode == 0, done.stderr
    results = job.results()
    assert results["id"].to_list() == [f"r{place:05d}" for place in range(120)]
    assert set(results["status"]) == {"ok"}
    stats = endpoint.stats()
    assert stats["requests"] == 120
    assert results["prompt_tokens"].sum() == stats["prompt_tokens"]
    assert results["completion_tokens"].sum() == stats["completion_tokens"]


def test_ids_come_out_as_they_went_in(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.rows([{"id": name, "text": f"about {name}"} for name in AWKWARD_IDS])
    assert job.run().returncode == 0
    assert job.results()["id"].to_list() == AWKWARD_IDS


def test_the_same_command_again_sends_nothing_and_leaves_the_tables_alone(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(30)
    assert job.run().returncode == 0
    before = (job.out / "results.parquet").stat()
    again = job.run()
    assert again.returncode == 0
    assert "nothing to do" in again.stderr
    after = (job.out / "results.parquet").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert endpoint.stats()["requests"] == 30


def test_a_lost_table_is_made_again_without_a_request(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(30)
    job.run()
    whole = (job.out / "results.parquet").read_bytes()
    (job.out / "results.parquet").unlink()
    assert job.run().returncode == 0
    assert (job.out / "results.parquet").read_bytes() == whole
    assert endpoint.stats()["requests"] == 30


def test_rows_that_fail_are_told_apart_and_the_exit_code_says_so(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(faults={"content_policy": 0.2}, seed=3)
    job = new_job(endpoint)
    job.number_of_rows(100)
    done = job.run()
    assert done.returncode == 3, done.stderr
    failed = pl.read_parquet(job.out / "failed.parquet")
    results = job.results()
    assert 0 < failed.height < 100
    assert results.height == 100
    assert results.filter(pl.col("status") == "failed")["id"].to_list() == failed["id"].to_list()
    assert set(failed["kind"]) == {"content_policy"}
    assert job.summary()["failures"] == {"content_policy": failed.height}
    assert endpoint.stats()["requests"] == 100  # a refused row is not tried again
    assert job.run("run", "--max-failed", "50%").returncode == 0
    assert job.run().returncode == 3
    assert endpoint.stats()["requests"] == 100


def test_failed_rows_go_again_when_told_to_and_success_replaces_failure(simulate: Simulate, new_job: NewJob) -> None:
    broken = simulate(faults={"content_policy": 0.3}, seed=5)
    job = new_job(broken)
    job.number_of_rows(60)
    assert job.run().returncode == 3
    lost = pl.read_parquet(job.out / "failed.parquet").height
    healthy = simulate()
    job.base_url = healthy.base_url
    assert job.run("run", "--retry-failed", "bad_request").returncode == 3
    assert healthy.stats()["requests"] == 0
    assert job.run("run", "--retry-failed", "content_policy").returncode == 0
    assert healthy.stats()["requests"] == lost
    assert set(job.results()["status"]) == {"ok"}
    assert pl.read_parquet(job.out / "failed.parquet").height == 0


def test_a_null_in_a_used_column_is_neither_sent_nor_paid_for(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.rows([{"id": "a", "text": "fine"}, {"id": "b", "text": ""}, {"id": "c", "text": "fine too"}])
    assert job.run().returncode == 3
    assert job.results()["status"].to_list() == ["ok", "invalid_input", "ok"]
    assert endpoint.stats()["requests"] == 2


def test_all_failed_and_all_fine_have_the_same_columns_and_types(
    simulate: Simulate, new_job: NewJob, tmp_path: Path
) -> None:
    fine = new_job(simulate())
    fine.number_of_rows(3)
    fine.run()
    good = fine.results().schema
    failing = new_job(simulate(faults={"content_policy": 1.0}), more={"output": "out2", "name": "other"})
    failing.number_of_rows(3)
    failing.run()
    assert pl.read_parquet(tmp_path / "out2" / "results.parquet").schema == good


def test_two_equal_rows_without_ids_get_an_answer_each(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint, id_column=None)
    job.rows([{"text": "same"}, {"text": "same"}, {"text": "other"}])
    assert job.run().returncode == 0
    assert endpoint.stats()["requests"] == 3
    assert job.results()["status"].to_list() == ["ok"] * 3


def test_the_key_is_in_no_file_and_on_no_stream(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate(faults={"mixed": 0.3}, seed=2), more={"retry": {"max_attempts": 2, "max_wait_s": 0.1}})
    job.number_of_rows(60)
    done = job.run()
    assert CANARY_KEY not in done.stderr + done.stdout
    for path in job.folder.rglob("*"):
        if path.is_file():
            assert CANARY_KEY.encode() not in path.read_bytes(), path


def test_what_is_written_is_for_the_owner_alone(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.number_of_rows(3)
    job.run()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in job.out.rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o600}, modes


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_export_gives_the_results_in_three_forms(simulate: Simulate, new_job: NewJob, suffix: str) -> None:
    job = new_job(simulate())
    job.rows([{"id": "1", "text": "=SUM(A1)"}, {"id": "2", "text": 'a "quoted", line\nand more 🎈'}])
    job.run()
    target = job.folder / f"table.{suffix}"
    assert job.run("export", "--to", str(target)).returncode == 0
    read = {
        "csv": lambda: pl.read_csv(target, infer_schema=False),
        "jsonl": lambda: pl.read_ndjson(target),
        "parquet": lambda: pl.read_parquet(target),
    }[suffix]()
    results = job.results()
    assert read["id"].to_list() == results["id"].to_list()
    assert read["response"].to_list() == results["response"].to_list()
    assert read["text"][0] == ("'=SUM(A1)" if suffix == "csv" else "=SUM(A1)")
    assert read["text"][1] == results["text"][1]


def test_preview_shows_the_body_that_is_then_sent(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(2)
    shown = [json.loads(line) for line in job.run("preview", "-n", "5").stdout.splitlines()]
    assert [line["id"] for line in shown] == ["r00000", "r00001"]
    assert shown[0]["body"]["stream"] is False
    assert shown[0]["body"]["messages"][-1]["content"].endswith("text number 0")
    assert endpoint.stats()["requests"] == 0


def test_status_failures_and_plan_tell_how_it_stands(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate(faults={"content_policy": 0.5}, seed=4))
    job.number_of_rows(40)
    job.run()
    status = json.loads(job.run("status", "--json").stdout)
    assert sum(status["recorded"].values()) == 40
    assert status["running"] is False
    failures = [json.loads(line) for line in job.run("failures", "--json").stdout.splitlines()]
    assert failures[0]["kind"] == "content_policy"
    assert failures[0]["rows"] == status["recorded"]["failed"]
    plan = json.loads(job.run("plan", "--json").stdout)["plan"]
    assert (plan["done"], plan["failed_kept"], plan["to_send"]) == (
        status["recorded"]["ok"],
        status["recorded"]["failed"],
        0,
    )


def test_a_rehearsal_needs_no_key_and_sends_nothing_to_the_endpoint(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(10)
    assert job.run("rehearse", "--latency", "0").returncode == 0
    assert endpoint.stats()["requests"] == 0
    assert pl.read_parquet(job.out / "rehearsal" / "results.parquet").height == 10
    assert not (job.out / "results.parquet").exists()


def test_a_trial_with_a_limit_is_paid_for_once(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(50)
    assert job.run("run", "--limit", "5").returncode == 0
    assert job.results().height == 5
    assert job.run().returncode == 0
    assert job.results().height == 50
    assert endpoint.stats()["requests"] == 50
