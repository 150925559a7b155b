"""The installed command with `endpoint.stream: true`: the same answers, the same promises."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.simulator.faults import GROUPS
from tests.e2e.rig import Endpoint, JobFolder, ended, wait_until

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]


def streaming(job: JobFolder, **more: Any) -> JobFolder:
    timeout = {"connect": 5, "total": 20, "idle": more.pop("idle", 5)}
    job.more = {"endpoint": {"base_url": job.base_url, "timeout_s": timeout, "stream": True}, **more}
    return job


def test_streamed_answers_are_byte_for_byte_those_that_come_whole_and_changing_it_buys_nothing(
    simulate: Simulate, new_job: NewJob
) -> None:
    endpoint = simulate()
    job = new_job(endpoint)
    job.number_of_rows(40)
    assert job.run().returncode == 0
    whole = (job.out / "results.parquet").read_bytes()
    streaming(job)
    assert job.run().returncode == 0
    assert endpoint.stats()["requests"] == 40
    streaming(job, output="out-streamed")
    assert job.run().returncode == 0
    assert endpoint.stats()["requests"] == 80
    assert (job.folder / "out-streamed" / "results.parquet").read_bytes() == whole


def test_preview_shows_that_a_stream_with_its_usage_is_asked_for(simulate: Simulate, new_job: NewJob) -> None:
    job = streaming(new_job(simulate()))
    job.number_of_rows(1)
    body = json.loads(job.run("preview", "-n", "1").stdout.splitlines()[0])["body"]
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})


def test_good_streams_of_any_accent_are_answers(simulate: Simulate, new_job: NewJob) -> None:
    good = ("stream_comments", "stream_accent", "stream_no_done")
    assert set(good) < set(GROUPS["streams"])
    endpoint = simulate(faults=dict.fromkeys(good, 0.3))
    job = streaming(new_job(endpoint))
    job.number_of_rows(60)
    done = job.run()
    assert done.returncode == 0, done.stderr
    assert set(endpoint.stats()["by_fault"]) == set(good)
    results = job.results()
    assert set(results["status"]) == {"ok"}
    assert results["completion_tokens"].sum() == endpoint.stats()["completion_tokens"]


@pytest.mark.parametrize(("kind", "why"), [("stream_cut", "without a finish_reason"), ("stream_stall", "idle")])
def test_a_cut_stream_keeps_its_words_is_paid_once_and_is_not_asked_again(
    simulate: Simulate, new_job: NewJob, kind: str, why: str
) -> None:
    endpoint = simulate(faults={kind: 1.0})
    job = streaming(new_job(endpoint, template="Tell me about {{ text }}."), idle=0.3)
    job.number_of_rows(12)
    done = job.run()
    assert done.returncode == 0, done.stderr
    results = job.results()
    assert set(results["status"]) == {"truncated"}
    assert results["finish_reason"].null_count() == 12
    assert all(text and why in error for text, error in results.select("response", "error").iter_rows())
    assert job.run().returncode == 0
    stats = endpoint.stats()
    assert (stats["requests"], stats["billed"]) == (12, 12)
    assert job.summary()["requests_billed"] == 12


def test_an_error_inside_a_stream_may_be_billed_and_is_tried_once_more(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(faults={"stream_error": 0.3}, seed=5)  # few enough not to be taken for an outage
    job = streaming(new_job(endpoint), retry={"max_attempts": 4, "max_wait_s": 0.05})
    job.number_of_rows(40)
    done = job.run()
    assert done.returncode == 3, done.stderr
    stats = endpoint.stats()
    assert stats["requests"] == 40 + stats["repeated"]
    assert stats["max_repeats"] == 1
    assert job.summary()["requests_maybe_billed"] == stats["by_fault"]["stream_error"]


def test_a_run_killed_in_mid_stream_goes_on_and_pays_again_for_no_more_than_was_in_flight(
    simulate: Simulate, new_job: NewJob
) -> None:
    endpoint = simulate(faults={"slow_body": 1.0}, slow_s=0.4)
    job = streaming(new_job(endpoint, concurrency=8), limits={"concurrency": 8, "requests_per_minute": 60_000})
    job.number_of_rows(60)
    for _ in range(2):
        before = endpoint.stats()["requests"]
        process = job.start()
        wait_until(lambda before=before: endpoint.stats()["requests"] >= before + 15, "requests")  # type: ignore[misc]
        assert endpoint.stats()["in_flight"] > 0
        process.kill()
        ended(process)
    done = job.run()
    assert done.returncode == 0, done.stderr
    assert set(job.results()["status"]) == {"ok"}
    again = endpoint.stats()["requests"] - 60
    assert 0 < again <= 2 * 8
    assert again <= job.summary()["requests_maybe_billed"] <= again + 2 * 8


def test_a_signal_lets_streams_in_flight_come_to_their_end(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(faults={"slow_body": 1.0}, slow_s=0.5)
    job = streaming(new_job(endpoint))
    job.number_of_rows(150)
    process = job.start()
    wait_until(lambda: endpoint.stats()["requests"] >= 12, "requests")
    process.send_signal(signal.SIGTERM)
    code, errors = ended(process)
    assert code == 75, errors
    assert endpoint.stats()["in_flight"] == 0
    recorded = json.loads(job.run("status", "--json").stdout)["recorded"]
    assert recorded == {"ok": endpoint.stats()["billed"]}


def test_a_wrong_key_costs_one_streamed_request(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate(faults={"unauthorized": 1.0})
    job = streaming(new_job(endpoint))
    job.number_of_rows(50)
    assert job.run().returncode == 4
    assert endpoint.stats()["requests"] == 1


def test_typed_answers_come_by_stream_as_well(simulate: Simulate, new_job: NewJob) -> None:
    endpoint = simulate()
    job = streaming(new_job(endpoint), answer={"fields": {"mood": ["good", "bad"], "score": "number"}})
    job.number_of_rows(10)
    done = job.run()
    assert done.returncode == 0, done.stderr
    assert set(job.results()["mood"]) <= {"good", "bad"}
    assert set(job.results()["status"]) == {"ok"}
