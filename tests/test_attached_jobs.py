"""A job's own names, where files that it attaches may change behind its back."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.job import Job
from pipeline.plan import kept_keys, keys_name, list_keys
from pipeline.records import Row
from pipeline.run import Options, run
from pipeline.spec import load
from pipeline.storage import attachments
from pipeline.storage.attachments import Shelf
from pipeline.storage.files import Files
from pipeline.summary import Summary
from tests.attachments.made import pdf, png
from tests.e2e.rig import Endpoint, simulate

__all__ = ["simulate"]

Simulate = Callable[..., Endpoint]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for place in range(4):
        (tmp_path / f"images/{place}.png").write_bytes(png(place))
    (tmp_path / "images/guide.pdf").write_bytes(pdf())
    with open("in.csv", "w", newline="") as file:
        csv.writer(file).writerows([("id", "photo"), *((place, f"{place}.png") for place in range(4))])
    return tmp_path


def job(attached: list[Any] | None = None, base_url: str = "http://127.0.0.1:9/v1", **block: Any) -> Job:
    spec = {
        "input": {"path": "in.csv", "id": "id"},
        "prompt": {"user": "What is it?", "attachments": ["photo"] if attached is None else attached},
        "attachments": {"root": "images", **block},
        "model": "m",
        "endpoint": {"base_url": base_url},
        "output": "out",
    }
    Path("job.yaml").write_text(json.dumps(spec))
    return Job(load("job.yaml"))


def settled() -> int:
    """A time when every file has been at rest for long."""
    return max(os.stat(path).st_ctime_ns for path in Path("images").iterdir()) + 3_000_000_000


def test_a_job_without_attachments_keeps_the_name_that_its_checkpoints_know() -> None:
    """Another one would say to every user that the question changed."""
    assert job([]).question == "2af49a212c84eb2c15deda217dd5253788d85d0f494710b2c23dab8d2d53b3c2"


def test_the_question_names_what_is_attached_and_the_content_of_what_is_fixed() -> None:
    before = job(["photo", {"file": "guide.pdf"}]).question
    assert before == job(["photo", {"file": "guide.pdf"}], max_mb=7, max_tokens=5).question
    Path("images/guide.pdf").write_bytes(pdf("another"))
    questions = {
        before,
        job(["photo", {"file": "guide.pdf"}]).question,
        job(["photo"]).question,
        job([{"column": "photo", "as": "file"}]).question,
        job([]).question,
    }
    assert len(questions) == 5


def test_the_input_is_another_one_when_a_file_or_what_may_be_read_is() -> None:
    def name(**block: Any) -> str:
        return job(**block).fingerprint(settled)

    before = name()
    assert before == name() != ""
    seen = {before, name(max_mb=1)}
    times = os.stat("images/2.png")
    Path("images/2.png").write_bytes(png(200))
    os.utime("images/2.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    seen.add(name())
    Path("images/2.png").unlink()
    seen.add(name())
    Path("images/other.png").write_bytes(png(9))  # no row names it
    assert name() in seen
    assert len(seen) == 4


def test_where_only_addresses_are_attached_the_rows_alone_are_the_input() -> None:
    assert job([{"url": "https://a.example/x.png"}]).fingerprint() == job([]).fingerprint() != ""


def test_a_kept_list_of_keys_is_trusted_only_while_no_file_was_touched(here: Path) -> None:
    path, files = str(here / "keys.bin"), Files()

    def kept() -> bool:
        asked = job()
        return kept_keys(asked, files, path, asked.fingerprint(settled)) is not None

    first = job()
    list_keys(first, None).save(files, path, keys_name(first, first.fingerprint(settled)))
    assert kept()
    Path("images/3.png").write_bytes(png(300))
    assert not kept()


@pytest.mark.parametrize("form", [None, "file", "file_url"])
@pytest.mark.parametrize(
    "cell", ["1.png", "guide.pdf", "gone.png", None, "https://a.example/x.png", "data:,x", "job.yaml"]
)
def test_a_row_is_listed_under_the_question_that_it_is_sent_with(cell: str | None, form: str | None) -> None:
    asked = job([{"column": "photo", "as": form}, {"file": "guide.pdf"}])
    row = Row(0, "a", {"photo": cell})
    assert asked.asked(row) == asked.ready(row).question


def test_files_are_read_in_no_row_that_is_invalid_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(shelf: Shelf, path: str) -> bytes:
        raise AssertionError(path)

    monkeypatch.setattr(Shelf, "read", fail)
    asked = job()
    assert asked.ready(Row(0, "a", {"photo": None})).invalid
    assert asked.ready(Row(0, "a", {"photo": "https://a.example/x.png"})).call


def _run(asked: Job) -> Summary:
    return run(asked, lambda: None, Options(simulated=None), say=lambda text: None, display=lambda: None)


def test_a_finished_job_is_looked_at_by_the_times_of_its_files_alone(
    simulate: Simulate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attachments, "_SETTLED_NS", 0)
    read: list[str] = []
    really = Shelf.read

    def count(shelf: Shelf, path: str) -> bytes:
        read.append(path)
        return really(shelf, path)

    monkeypatch.setattr(Shelf, "read", count)
    endpoint = simulate()
    assert _run(job(base_url=endpoint.base_url)).exit_code == 0
    assert sorted(read) == sorted([f"{place}.png" for place in range(4)] * 2)  # listed, then sent
    tables = os.stat("out/results.parquet").st_mtime_ns
    read.clear()
    again = _run(job(base_url=endpoint.base_url))
    assert again.nothing_to_do
    assert (read, os.stat("out/results.parquet").st_mtime_ns) == ([], tables)
    Path("images/1.png").write_bytes(png(100))
    changed = _run(job(base_url=endpoint.base_url))
    assert (changed.nothing_to_do, changed.ended_this_run) == (False, 1)
    assert endpoint.stats()["requests"] == 5


def test_just_written_files_are_looked_at_again_though_nothing_tells(simulate: Simulate) -> None:
    """Same size, and times that a coarse clock left alike: the list of keys must not be trusted."""
    endpoint = simulate()
    _run(job(base_url=endpoint.base_url))
    again = _run(job(base_url=endpoint.base_url))
    assert (again.nothing_to_do, again.ended_this_run, again.exit_code) == (False, 0, 0)
    assert endpoint.stats()["requests"] == 4
