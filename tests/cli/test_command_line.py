"""Command lines as people type them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli import call
from tests.e2e.rig import Endpoint, JobFolder, new_job, simulate

__all__ = ["new_job", "simulate"]

SPEC = 'input: in.csv\nprompt: "{{ text }}"\nmodel: test-model\nendpoint: {base_url: "http://127.0.0.1:9/v1"}\n'


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job in a folder of its own; the working directory is another one."""
    folder, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "in.csv").write_text("text\na\n")
    (folder / "job.yaml").write_text(SPEC)
    monkeypatch.chdir(elsewhere)
    return folder


def test_every_kind_is_meant_where_the_job_follows_retry_failed(
    simulate: Callable[..., Endpoint], new_job: Callable[..., JobFolder]
) -> None:
    """``pipeline run --retry-failed JOB`` took the job for a kind, and missed a JOB."""
    endpoint = simulate(faults={"content_policy": 1.0})
    refused = new_job(endpoint)
    refused.number_of_rows(3)
    assert refused.run().returncode == 3
    path = str(refused.write())
    assert call(["run", "--quiet", "-C", str(refused.folder), "--retry-failed", path]) == 3
    assert endpoint.stats()["requests"] == 6
    assert call(["run", "--quiet", "--retry-failed", "content_policy", "-C", str(refused.folder), path]) == 3
    assert endpoint.stats()["requests"] == 9
    assert call(["run", "--quiet", "--retry-failed", "-C", str(refused.folder), path]) == 3
    assert endpoint.stats()["requests"] == 12


@pytest.mark.parametrize("place", ["before", "after", "both"])
def test_the_directory_may_stand_before_the_verb_as_with_make(
    job: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ["-C", str(job.parent if place == "both" else job)] if place != "after" else []
    after = ["-C", job.name if place == "both" else str(job)] if place != "before" else []
    assert call([*before, "preview", *after, "job.yaml"]) == 0
    assert '"content":"a"' in capsys.readouterr().out


def test_a_directory_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["-C", "/nowhere/at/all", "schema"]) == 2
    assert "-C /nowhere/at/all: No such file or directory" in capsys.readouterr().err


def test_a_starter_in_place_of_a_folder_is_refused_with_a_name_that_works(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["init", str(job)]) == 2
    assert str(job / "my-job.yaml") in capsys.readouterr().err
    assert call(["init", str(job / "my-job.yaml")]) == 0


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("Is it good? {text}", ["{text} is sent as it stands; the column's value is written {{ text }}"]),
        ("Is it good?", ["no column is used, so every row asks the very same"]),
        ("{text} is {{ text }}", []),
        ('Answer as {"label": ...}: {{ text }}', []),
    ],
)
def test_a_prompt_that_forgets_the_row_is_told_before_it_is_paid(
    job: Path, capsys: pytest.CaptureFixture[str], prompt: str, told: list[str]
) -> None:
    """``{text}`` bought the same answer for every row, and nobody said a word."""
    spec = SPEC.replace('"{{ text }}"', json.dumps(prompt))
    (job / "job.yaml").write_text(spec)
    for verb in ("check", "rehearse"):
        assert call([verb, "-C", str(job), "job.yaml"]) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("prompts: ")]
        doubts = [line for line in said if not line.startswith("prompts: ok")]
        assert len(doubts) == len(told)
        assert all(word in line for word, line in zip(told, doubts, strict=True))


def test_the_menu_says_what_each_verb_does_to_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--help"]) == 0
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]


def test_failures_of_an_earlier_question_are_not_said_to_be_sent_again(
    simulate: Callable[..., Endpoint], new_job: Callable[..., JobFolder]
) -> None:
    """The folder remembers what failed under another model; ``--retry-failed model_not_found`` sent nothing."""
    endpoint = simulate(models=("right",))
    job = new_job(endpoint, model="wrong")
    job.rows([{"id": "a", "text": "x"}, {"id": "b", "text": ""}])
    assert job.run().returncode == 4
    assert "kept; --retry-failed model_not_found sends" in job.run("failures").stdout
    job.model = "right"
    assert job.run().returncode == 3
    told = job.run("failures").stdout.splitlines()
    assert "1 x model_not_found (of an earlier question, or of rows that are gone; not sent)" in told
    assert "1 x invalid_input (kept; --retry-failed invalid_input sends)" in told
