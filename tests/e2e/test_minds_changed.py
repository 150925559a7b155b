"""A policy that is changed while a row is half way: what it has paid for is judged anew, and not bought again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.gate import gated
from tests.e2e.rig import JobFolder, ended, wait_until
from tests.e2e.scripted import Said, says

NewJob = Callable[..., JobFolder]

FIELDS = {"fields": {"label": ["good", "bad"]}}


@pytest.mark.parametrize(
    ("before", "after", "first", "status"),
    [
        (
            {"on": {"truncated": "retry_with_more_tokens"}},
            {"on": {"truncated": "keep"}},
            says("posi", "length"),
            "truncated",
        ),
        (
            {"on": {"truncated": "retry_with_more_tokens"}},
            {"on": {"truncated": "fail"}},
            says("posi", "length"),
            "failed",
        ),
        ({"on": {"empty": "retry"}}, {"on": {"empty": "keep"}}, says(""), "empty"),
        ({"answer": {**FIELDS, "repair": 1}}, {"answer": {**FIELDS, "repair": 0}}, says("ugly"), "invalid_answer"),
    ],
    ids=["more-keep", "more-fail", "empty-keep", "repair-none"],
)
def test_a_reply_that_is_paid_for_is_judged_by_the_policy_of_the_day(
    new_job: NewJob, before: dict[str, Any], after: dict[str, Any], first: Said, status: str
) -> None:
    with gated(1, [first]) as (gate, server):
        job = new_job(server.endpoint, more={"model": {"name": "m", "max_tokens": 10}, **before})
        job.number_of_rows(1)
        process = job.start()
        wait_until(lambda: gate.waiting == 1, "the second request of the row")
        process.kill()
        ended(process)
        gate.opened.set()
        job.more |= after
        done = job.run()
        assert len(server.asked) == 2, done.stderr
        assert job.results()["status"].to_list() == [status]
        summary = job.summary()
        assert (summary["requests_billed"], summary["requests_maybe_billed"]) == (1, 1)
        assert job.results()["prompt_tokens"].to_list() == [10]
