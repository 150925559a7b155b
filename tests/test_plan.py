from __future__ import annotations

import csv
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError, SpecError
from pipeline.job import Job, same_ids
from pipeline.look import forecast
from pipeline.plan import ALL_KINDS, Plan, Standing, Wish, kept_keys, keys_name, list_keys, make, since_last_run, stand
from pipeline.records import Billed, Outcome, Status, Usage
from pipeline.spec import load
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.files import Files
from pipeline.storage.keys import Keys
from pipeline.storage.ranged import Ranged
from pipeline.storage.snapshot import Snapshot

FILES = Files()


class Desk:
    """A job whose rows are answered by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prompt = "Say {{ text }}"
        self.id: str | None = "id"
        self.model: dict[str, Any] = {"name": "m", "max_tokens": 10}
        self.more: dict[str, Any] = {}

    def rows(self, *rows: tuple[str, str]) -> None:
        with (self.folder / "in.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("id", "text", "other"), *((id, text, f"o-{id}") for id, text in rows)])

    @property
    def job(self) -> Job:
        spec = {
            "input": {"path": "in.csv", **({"id": self.id} if self.id else {})},
            "prompt": self.prompt,
            "model": self.model,
            "prices": {"input": 1, "output": 2},
            "output": "out",
            **self.more,
        }
        (self.folder / "job.yaml").write_text(json.dumps(spec))
        return Job(load(Path("job.yaml")))

    def answer(self, *texts: str, status: Status = Status.OK, kind: str | None = None, permanent: bool = False) -> None:
        """Record an outcome for every row with one of these texts (all rows without one), as a run would."""
        job = self.job
        checkpoint = Checkpoint.open("out/checkpoint", "job")
        checkpoint.update(question=job.question)
        keys = Keys(has_ids=self.id is not None)
        for rows in job.source.rows(job.used):
            for row in rows:
                key = keys.add(row.id, job.ready(row).question)
                if not texts or row.fields["text"] in texts:
                    checkpoint.record(
                        Outcome(
                            key,
                            row,
                            status,
                            "answer" if status is Status.OK else None,
                            kind=kind,
                            usage=Usage(10, 5, 15),
                            billed=Billed.YES,
                            attempts=1,
                            permanent=permanent,
                        )
                    )
        checkpoint.seal()
        checkpoint.release()

    def look(self) -> tuple[Standing, Ranged, Snapshot | None, str]:
        job = self.job
        if not (self.folder / "out/checkpoint").exists():
            return *stand(list_keys(job, None), None), None, ""
        checkpoint = Checkpoint.open("out/checkpoint", "job")
        known, question = checkpoint.job.job, checkpoint.job.question
        checkpoint.seal()
        checkpoint.release()
        snapshot = Snapshot("out/checkpoint", known, FILES)
        return *stand(list_keys(job, None), snapshot), snapshot, question

    def plan(self, retry_failed: str | None = None) -> Plan:
        return self.plan_of(Wish(retry_failed))

    def plan_of(self, wish: Wish) -> Plan:
        standing, gone, snapshot, question = self.look()
        plan = make(self.job, standing, gone, snapshot, wish=wish, asked_before=question)
        to_do = standing.each(wish.to_do())
        assert plan.to_send == sum(to_do)
        assert plan.expired == standing.expired(wish) <= plan.done
        assert plan.done + plan.failed_kept + plan.failed_again + plan.new + plan.changed == plan.rows == len(to_do)
        assert min(plan.removed, plan.new, plan.failed_kept) >= 0
        return plan


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path)


ABC = (("1", "a"), ("2", "b"), ("3", "c"))


def test_all_rows_of_a_new_job_are_new(desk: Desk) -> None:
    desk.rows(*ABC)
    plan = desk.plan()
    assert (plan.rows, plan.new, plan.to_send, plan.again, plan.removed) == (3, 3, 3, 0, 0)


def test_answered_rows_are_done_and_the_rest_is_new(desk: Desk) -> None:
    desk.rows(*ABC)
    desk.answer("a", "c")
    plan = desk.plan()
    assert (plan.done, plan.new, plan.to_send) == (2, 1, 1)


def test_an_edit_is_a_change_and_undoing_it_costs_nothing(desk: Desk) -> None:
    desk.rows(*ABC)
    desk.answer()
    desk.rows(("1", "a"), ("2", "edited"), ("4", "d"))
    plan = desk.plan()
    assert (plan.done, plan.changed, plan.new, plan.removed, plan.again) == (1, 1, 1, 1, 0)
    desk.answer("edited")
    assert desk.plan().done == 2
    desk.rows(*ABC)
    assert (desk.plan().done, desk.plan().to_send) == (3, 0)


def test_rows_that_moved_are_done(desk: Desk) -> None:
    desk.rows(*ABC)
    desk.answer()
    desk.rows(*reversed(ABC))
    assert desk.plan().done == 3


def test_equal_rows_without_ids_are_each_a_row(desk: Desk) -> None:
    desk.id = None
    desk.rows(("1", "a"), ("2", "a"), ("3", "a"))
    desk.answer()
    assert desk.plan().done == 3
    desk.rows(("1", "a"), ("2", "a"), ("3", "a"), ("4", "a"), ("5", "b"))
    assert (desk.plan().done, desk.plan().new, desk.plan().removed) == (3, 2, 0)
    desk.rows(("1", "a"))
    assert (desk.plan().done, desk.plan().removed) == (1, 2)


# -- failures


def test_passing_failures_go_again_and_permanent_ones_when_told(desk: Desk) -> None:
    desk.rows(*ABC)
    desk.answer("a")
    desk.answer("b", status=Status.FAILED, kind="server_error")
    desk.answer("c", status=Status.FAILED, kind="content_policy", permanent=True)
    plan = desk.plan()
    assert (plan.done, plan.failed_again, plan.failed_kept, plan.to_send) == (1, 1, 1, 1)
    assert desk.plan(ALL_KINDS).failed_again == 2
    assert desk.plan("content_policy").failed_again == 2
    assert desk.plan("server_error").failed_again == 1
    assert desk.plan("no_such_kind").failed_again == 1


def test_a_success_replaces_a_failure_and_never_the_other_way(desk: Desk) -> None:
    desk.rows(*ABC)
    desk.answer("a", status=Status.FAILED, kind="server_error")
    desk.answer("a")
    desk.answer("a", status=Status.FAILED, kind="server_error")
    assert (desk.plan().done, desk.plan().failed_again) == (1, 0)


# -- answers that expire


LATER = 2**32 - 1.0


def test_answers_older_than_allowed_are_asked_again_only_when_told(desk: Desk) -> None:
    desk.rows(*ABC)
    desk.answer("a", "b")
    desk.answer("c", status=Status.FAILED, kind="content_policy", permanent=True)
    kept = desk.plan_of(Wish(None, LATER))
    assert (kept.done, kept.expired, kept.expired_again, kept.to_send) == (2, 2, 0, 0)
    asked = desk.plan_of(Wish(None, LATER, refresh_expired=True))
    assert (asked.done, asked.expired, asked.expired_again, asked.failed_again, asked.to_send) == (2, 2, 2, 0, 2)
    young = desk.plan_of(Wish(None, 1.0, refresh_expired=True))
    assert (young.expired, young.to_send) == (0, 0)
    both = desk.plan_of(Wish(ALL_KINDS, LATER, refresh_expired=True))
    assert (both.expired_again, both.failed_again, both.to_send) == (2, 1, 3)


def test_a_forecast_counts_and_prices_what_has_expired(desk: Desk) -> None:
    desk.rows(*ABC)
    desk.answer()
    desk.more = {"expire": "2h"}
    now = time.time()
    young = forecast(desk.job, None, refresh_expired=True, clock=lambda: now)
    assert (young.plan.expired, young.plan.to_send) == (0, 0)
    old = forecast(desk.job, None, clock=lambda: now + 7202)
    assert (old.plan.expired, old.plan.to_send, old.cost_usd) == (3, 0, 0.0)
    again = forecast(desk.job, None, refresh_expired=True, clock=lambda: now + 7202)
    assert (again.plan.expired_again, again.plan.to_send) == (3, 3)
    assert again.cost_usd == pytest.approx(3 * (10 + 2 * 5) / 1e6)


def test_a_refresh_without_an_age_is_refused(desk: Desk) -> None:
    desk.rows(*ABC)
    with pytest.raises(SpecError, match="expire: 30d"):
        forecast(desk.job, None, refresh_expired=True)


# -- what came and went since the last run


def since(desk: Desk, listed: Keys | None) -> tuple[dict[str, int], Keys]:
    standing, gone, snapshot, question = desk.look()
    plan = make(desk.job, standing, gone, snapshot, wish=Wish(), asked_before=question)
    return since_last_run(plan, gone, listed), list_keys(desk.job, None)


def test_rows_that_left_are_told_once_and_an_edit_is_no_leaving(desk: Desk) -> None:
    desk.rows(*ABC)
    desk.answer()
    _, listed = since(desk, None)
    desk.rows(("1", "a"), ("2", "edited"), ("4", "d"))
    told, listed = since(desk, listed)
    assert told == {"kept": 1, "new": 1, "changed": 1, "gone": 1}
    desk.answer()
    desk.rows(("1", "a"), ("2", "edited"), ("4", "d"), ("5", "e"))
    told, listed = since(desk, listed)
    assert told == {"kept": 3, "new": 1, "changed": 0, "gone": 0}
    desk.answer()
    desk.rows(("5", "e"))
    assert since(desk, listed)[0] == {"kept": 1, "new": 0, "changed": 0, "gone": 3}


def test_without_a_list_of_the_last_run_all_that_was_ever_asked_counts(desk: Desk) -> None:
    desk.rows(*ABC)
    desk.answer("a", "b")
    desk.rows(("1", "a"), ("3", "c"))
    assert since(desk, None)[0] == {"kept": 1, "new": 1, "changed": 0, "gone": 1}


# -- another question


def test_another_prompt_would_buy_every_answer_again(desk: Desk) -> None:
    desk.rows(*ABC)
    desk.answer("a", "b")
    desk.answer("c", status=Status.FAILED, kind="content_policy", permanent=True)
    desk.prompt = "Shout {{ text }}"
    plan = desk.plan()
    assert (plan.again, plan.changed, plan.to_send) == (2, 3, 3)  # a failed row has no answer to lose
    desk.answer()
    assert desk.plan().again == 0
    desk.prompt = "Say {{ text }}"
    assert (desk.plan().again, desk.plan().done) == (0, 2)


@pytest.mark.parametrize("change", [{"name": "n", "max_tokens": 10}, {"name": "m", "max_tokens": 11}])
def test_another_model_or_parameter_would_too(desk: Desk, change: dict[str, Any]) -> None:
    desk.rows(*ABC)
    desk.answer()
    desk.model = change
    assert desk.plan().again == 3


def test_with_ids_rows_that_were_never_answered_are_not_bought_again(desk: Desk) -> None:
    desk.rows(*ABC)
    desk.answer()
    desk.prompt = "Shout {{ text }}"
    desk.rows(("7", "x"), ("8", "y"))
    assert (desk.plan().again, desk.plan().new) == (0, 2)


def test_without_ids_no_more_rows_are_bought_again_than_have_an_answer(desk: Desk) -> None:
    desk.id = None
    desk.rows(*ABC)
    desk.answer("a", "b")
    desk.prompt = "Shout {{ text }}"
    desk.rows(*ABC, ("4", "d"))
    assert (desk.plan().again, desk.plan().new) == (2, 4)


@pytest.mark.parametrize(("before", "after"), [(None, "id"), ("id", None), ("id", "other")])
def test_naming_rows_by_another_column_would_buy_them_again_and_says_so(
    desk: Desk, before: str | None, after: str | None
) -> None:
    # Adding `id:` to a finished job bought all of it a second time without a word.
    desk.rows(*ABC)
    desk.id = before
    desk.answer()
    desk.id = after
    assert desk.plan().again == 3


def test_the_end_of_a_question_names_the_id_column_alone(desk: Desk) -> None:
    desk.rows(*ABC)
    first = desk.job.question
    desk.prompt = "Shout {{ text }}"
    second = desk.job.question
    assert first != second
    assert same_ids(first, second)
    desk.id = "other"
    assert not same_ids(second, desk.job.question)


@pytest.mark.parametrize(
    ("parameters", "most"),
    [
        ({}, None),
        ({"max_tokens": 50}, 50),
        ({"max_completion_tokens": 70, "max_tokens": 50}, 70),
        ({"max_tokens": 50, "n": 3}, 150),  # each choice may be as long
        ({"max_tokens": True}, None),
    ],
)
def test_the_most_that_a_call_may_answer(desk: Desk, parameters: dict[str, Any], most: int | None) -> None:
    desk.rows(*ABC)
    desk.model = {"name": "m", **parameters}
    assert desk.job.max_output_tokens == most


# -- anything may happen between runs


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("has_ids", [True, False])
def test_the_counts_add_up_whatever_was_edited(desk: Desk, seed: int, has_ids: bool) -> None:
    chance = random.Random(seed)
    desk.id = "id" if has_ids else None
    rows = {str(place): chance.choice("abcdef") for place in range(8)}
    for _ in range(4):
        desk.rows(*rows.items())
        desk.plan(chance.choice([None, ALL_KINDS, "server_error"]))
        desk.answer(*chance.sample("abcdef", 2))
        desk.answer(chance.choice("abcdef"), status=Status.FAILED, kind="server_error", permanent=chance.random() < 0.5)
        before = desk.plan()
        for name in chance.sample(sorted(rows), 2):
            del rows[name]
        for _ in range(chance.randint(0, 3)):
            rows[f"n{chance.random()}"] = chance.choice("abcdef")
        rows = dict(chance.sample(sorted(rows.items()), len(rows)))
        assert before.again == 0
        if chance.random() < 0.3:
            desk.prompt = chance.choice(["Say {{ text }}", "Shout {{ text }}"])


# -- what is kept


def test_kept_keys_serve_only_the_same_input_and_question(desk: Desk) -> None:
    desk.rows(*ABC)
    job = desk.job
    keys = list_keys(job, None)
    path = str(desk.folder / "keys.bin")
    keys.save(FILES, path, keys_name(job, job.source.fingerprint()))
    kept = kept_keys(job, FILES, path, job.source.fingerprint())
    assert kept is not None
    assert kept.frame().equals(keys.frame())
    assert kept_keys(job, FILES, path, "") is None
    desk.prompt = "Shout {{ text }}"
    assert kept_keys(desk.job, FILES, path, job.source.fingerprint()) is None
    desk.prompt = "Say {{ text }}"
    desk.rows(*ABC, ("4", "d"))
    assert kept_keys(desk.job, FILES, path, desk.job.source.fingerprint()) is None


def test_a_forecast_learns_from_what_is_there(desk: Desk) -> None:
    desk.rows(*ABC)
    guessed = forecast(desk.job, None)
    assert (guessed.learned_from, guessed.completion_tokens, guessed.cost_usd) == (0, None, None)
    desk.answer("a")
    learned = forecast(desk.job, None)
    assert (learned.plan.to_send, learned.prompt_tokens, learned.completion_tokens) == (2, 20, 10)
    assert learned.cost_usd == pytest.approx(2 * (10 + 2 * 5) / 1e6)


def test_a_forecast_refuses_what_a_run_would_refuse(desk: Desk) -> None:
    desk.rows(("1", "a"), ("1", "b"))
    with pytest.raises(InputError, match="repeats"):
        forecast(desk.job, None)
