"""Pictures, documents and sounds through the command, and what of them is bought again."""

from __future__ import annotations

import base64
import json
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipeline.simulator.chance import digest
from tests.attachments.made import pdf, png, wav
from tests.e2e.rig import Endpoint, JobFolder, ended, wait_until

Simulate = Callable[..., Endpoint]


class Album(JobFolder):
    """A job about pictures below ``images``."""

    def ask(self, *attachments: Any, **block: Any) -> None:
        self.more["prompt"] = {"user": self.template, "attachments": list(attachments)}
        self.more["attachments"] = {"root": "images", **block}

    def put(self, name: str, content: bytes) -> None:
        path = self.folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def pictures(self, count: int) -> list[dict[str, str]]:
        for place in range(count):
            self.put(f"{place}.png", png(place))
        rows = [{"id": f"r{place}", "text": f"text {place}", "photo": f"{place}.png"} for place in range(count)]
        self.rows(rows)
        return rows

    def bodies(self, count: int) -> list[Any]:
        shown = self.run("preview", "-n", str(count), "--full")
        assert shown.returncode == 0, shown.stderr
        return [json.loads(line) for line in shown.stdout.splitlines()]


@pytest.fixture
def album(tmp_path: Path, simulate: Simulate) -> Album:
    endpoint = simulate()
    job = Album(tmp_path, endpoint.base_url)
    job.ask("photo")
    return job


def stats(job: JobFolder, bodies: bool = False) -> dict[str, Any]:
    address = job.base_url.removesuffix("/v1") + "/stats" + ("?bodies=1" if bodies else "")
    with urllib.request.urlopen(address, timeout=10) as reply:
        told: dict[str, Any] = json.loads(reply.read())
        return told


def requests(job: JobFolder) -> int:
    count: int = stats(job)["requests"]
    return count


def test_what_is_sent_is_what_preview_shows(album: Album) -> None:
    album.pictures(3)
    album.put("sub/guide.pdf", pdf())
    album.put("beep.wav", wav())
    album.rows(
        [
            {"id": "a", "text": "x", "photo": "1.png", "scan": "sub/guide.pdf", "sound": "beep.wav"},
            {
                "id": "b",
                "text": "x",
                "photo": "https://a.example/b.jpg",
                "scan": "https://a.example/b.pdf",
                "sound": "",
            },
            {
                "id": "c",
                "text": "x",
                "photo": f"data:image/png;base64,{base64.b64encode(png(9)).decode()}",
                "scan": "",
                "sound": "",
            },
        ]
    )
    album.ask(
        {"column": "photo", "detail": "low"},
        {"column": "scan", "as": "file", "optional": True},
        {"column": "sound", "optional": True},
        {"file": "sub/guide.pdf", "as": "image_url"},
        {"url": "https://example.com/legend.png", "as": "image_url"},
    )
    previews = album.bodies(3)
    run = album.run()
    assert run.returncode == 0, run.stderr
    kinds = [[part["type"] for part in shown["body"]["messages"][0]["content"]] for shown in previews]
    assert kinds == [
        ["text", "image_url", "file", "input_audio", "image_url", "image_url"],
        ["text", "image_url", "file", "image_url", "image_url"],
        ["text", "image_url", "image_url", "image_url"],
    ]
    received = set(stats(album, bodies=True)["bodies"])
    sent = {digest(_as_sent(shown["body"])).hex() for shown in previews}
    assert received == sent
    first = previews[0]["body"]["messages"][0]["content"]
    assert base64.b64decode(first[1]["image_url"]["url"].partition("base64,")[2]) == png(1)
    assert first[2]["file"]["filename"] == "guide.pdf"
    assert first[3]["input_audio"] == {"data": base64.b64encode(wav()).decode(), "format": "wav"}


def _as_sent(body: dict[str, Any]) -> bytes:
    """The very bytes that went over the wire, out of what preview shows."""
    stream = body.pop("stream")
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)[:-1] + b',"stream":' + orjson.dumps(stream) + b"}"


def test_a_rerun_sends_nothing_and_moved_files_cost_nothing(album: Album) -> None:
    rows = album.pictures(12)
    assert album.run().returncode == 0
    assert requests(album) == 12
    assert album.run().returncode == 0
    (album.folder / "images/moved").mkdir()
    for place, row in enumerate(rows):
        row["photo"] = f"moved/picture {place}.jpg"
        (album.folder / f"images/{place}.png").rename(album.folder / "images" / row["photo"])
    album.rows(rows)
    assert album.run().returncode == 0
    (album.folder / "images").rename(album.folder / "elsewhere")
    album.ask("photo", root="elsewhere")
    done = album.run()
    assert done.returncode == 0, done.stderr
    assert requests(album) == 12


def test_a_file_whose_content_changed_asks_its_row_again_and_no_other(album: Album) -> None:
    album.pictures(12)
    album.run()
    old = (album.folder / "images/5.png").read_bytes()
    times = os.stat(album.folder / "images/5.png")
    album.put("5.png", png(500))
    os.utime(album.folder / "images/5.png", ns=(times.st_atime_ns, times.st_mtime_ns))  # as rsync -t and cp -p do
    assert len(old) == len(png(500))
    plan = json.loads(album.run("plan", "--json").stdout)["plan"]
    assert (plan["changed"], plan["done"]) == (1, 11)
    assert album.run().returncode == 0  # a changed input needs no flag
    assert requests(album) == 13
    album.put("5.png", old)  # undone
    assert album.run().returncode == 0
    assert requests(album) == 13
    assert stats(album)["repeated"] == 0


def test_the_same_picture_in_the_table_and_as_a_file_is_one_question(album: Album) -> None:
    rows = album.pictures(4)
    album.run()
    for place, row in enumerate(rows):
        row["photo"] = f"data:image/png;base64,{base64.b64encode(png(place)).decode()}"
    album.rows(rows)
    assert album.run().returncode == 0
    assert requests(album) == 4


def test_equal_rows_without_ids_are_told_apart_and_asked_once_each(album: Album) -> None:
    album.id_column = None
    album.put("a.png", png())
    album.put("copy.png", png())
    album.rows([{"text": "x", "photo": name} for name in ("a.png", "copy.png", "a.png", "copy.png", "a.png") * 4])
    done = album.run()
    assert done.returncode == 0, done.stderr
    assert requests(album) == 20
    assert album.run().returncode == 0
    assert requests(album) == 20
    assert album.results().height == 20


def test_a_changed_fixed_file_is_a_changed_question(album: Album) -> None:
    album.pictures(6)
    album.put("guide.pdf", pdf())
    album.ask("photo", {"file": "guide.pdf"})
    album.run()
    album.put("guide.pdf", pdf("other"))
    refused = album.run()
    assert refused.returncode == 2
    assert "6 rows" in refused.stderr
    assert "--accept-changes" in refused.stderr
    assert requests(album) == 6
    assert album.run("run", "--accept-changes").returncode == 0
    assert requests(album) == 12
    album.put("guide.pdf", pdf())
    assert album.run().returncode == 0
    assert requests(album) == 12


def test_rows_whose_file_cannot_go_are_neither_sent_nor_paid_and_come_when_it_can(album: Album) -> None:
    album.put("good.png", png())
    album.put("page.png", b"<html>not found</html>")
    album.put("large.png", png(1, 60_000))
    album.put("empty.png", b"")
    (album.folder / "secret.png").write_bytes(png(77))
    (album.folder / "images/out.png").symlink_to("../secret.png")
    os.mkfifo(album.folder / "images/pipe.png")
    bad = ["page.png", "large.png", "empty.png", "../secret.png", "out.png", "pipe.png", "gone.png", ""]
    album.rows([{"id": name or "blank", "text": "x", "photo": name} for name in ["good.png", *bad]])
    album.ask("photo", max_mb=0.05)
    done = album.run()
    assert done.returncode == 3, done.stderr
    assert requests(album) == 1
    results = album.results()
    assert results["status"].to_list() == ["ok"] + ["invalid_input"] * 8
    assert set(results["prompt_tokens"][1:].to_list()) == {None}
    errors = dict(zip(results["id"], results["error"], strict=True))
    assert "nothing that can be attached" in errors["page.png"]
    assert "max_mb" in errors["large.png"]
    assert "leads out of" in errors["out.png"]
    assert "optional: true" in errors["blank"]
    album.put("gone.png", png(3))
    album.put("page.png", png(4))
    album.ask("photo", max_mb=1)
    assert album.run().returncode == 3
    assert requests(album) == 4
    assert album.results()["status"].to_list().count("ok") == 4


def test_a_killed_run_goes_on_without_paying_twice(tmp_path: Path, simulate: Simulate) -> None:
    endpoint = simulate(latency_s=0.02)
    job = Album(tmp_path, endpoint.base_url, concurrency=8)
    job.ask("photo")
    job.more["limits"] = {"concurrency": 8, "requests_per_minute": 60_000}
    job.pictures(200)
    for after in (40, 110):
        process = job.start()
        wait_until(lambda after=after: endpoint.stats()["requests"] >= after, "requests")  # type: ignore[misc]
        process.kill()
        ended(process)
    done = job.run()
    assert done.returncode == 0, done.stderr
    assert endpoint.stats()["requests"] - 200 <= 16
    results = job.results()
    assert results.height == 200
    assert set(results["status"]) == {"ok"}


def test_a_file_that_changes_during_the_run_is_not_labelled_as_what_it_was(
    tmp_path: Path,
    simulate: Simulate,
) -> None:
    endpoint = simulate(latency_s=0.2)
    job = Album(tmp_path, endpoint.base_url, concurrency=2)
    job.ask("photo")
    job.pictures(60)
    process = job.start()
    wait_until(lambda: endpoint.stats()["requests"] >= 3, "requests")
    job.put("59.png", png(5_000))  # listed as what it was, not sent yet
    code, errors = ended(process)
    assert code == 75, errors
    assert "attached file changed" in errors
    assert not (job.out / "results.parquet").exists()
    sent = endpoint.stats()["requests"]
    assert sent == 59
    assert job.run().returncode == 0
    assert endpoint.stats()["requests"] == 60
    assert endpoint.stats()["repeated"] == 0
    previews = job.bodies(60)
    assert {digest(_as_sent(shown["body"])).hex() for shown in previews} == set(stats(job, bodies=True)["bodies"])


def test_contents_are_in_no_file_of_the_run(album: Album) -> None:
    album.pictures(3)
    album.put("page.png", b"MARK" * 40)
    album.rows([{"id": str(place), "text": "x", "photo": name} for place, name in enumerate(("0.png", "page.png"))])
    album.run()
    marks = (base64.b64encode(png(0))[:40], png(0)[:30], b"MARKMARK", base64.b64encode(b"MARK" * 9))
    for folder, _, names in os.walk(album.out):
        for name in names:
            held = (Path(folder) / name).read_bytes()
            assert not any(mark in held for mark in marks), name


def test_preview_shortens_contents_unless_asked_for_whole(album: Album) -> None:
    album.put("a.png", png(1, 9_000))
    album.rows([{"id": "a", "text": "x", "photo": "a.png"}])
    short = album.run("preview", "-n", "1")
    assert len(short.stdout) < 1_000
    assert "more characters; --full shows them" in short.stdout
    whole = album.run("preview", "-n", "1", "--full")
    assert base64.b64encode(png(1, 9_000)).decode() in whole.stdout


def test_check_tells_what_goes_along_and_what_cannot(album: Album) -> None:
    album.pictures(3)
    album.put("guide.pdf", pdf())
    album.ask("photo", {"file": "guide.pdf"})
    good = album.run("check")
    assert good.returncode == 0, good.stderr
    assert "attachments: ok (1 by column, 1 fixed; files under images, at most 20 MB each" in good.stderr
    album.ask("photo", {"file": "gone.pdf"})
    fixed = album.run("check")
    assert (fixed.returncode, "prompt.attachments[1].file: 'gone.pdf' in images" in fixed.stderr) == (2, True)
    album.ask("phot")
    assert "did you mean 'photo'" in album.run("check").stderr
    album.ask("photo", root="nowhere")
    assert "attachments.root" in album.run("check").stderr
    album.ask("text")
    alike = album.run("check")
    assert alike.returncode == 2
    assert "attachment column 'text': 'text 0' in images: No such file" in alike.stderr


def test_a_root_that_is_gone_ends_the_run_and_costs_no_answer(album: Album) -> None:
    """Else every row would be a failed one, and its paid answer out of the table."""
    album.pictures(3)
    album.run()
    (album.folder / "images").rename(album.folder / "unmounted")
    refused = album.run()
    assert refused.returncode == 2
    assert set(album.results()["status"]) == {"ok"}


def test_a_budget_needs_the_most_that_an_attachment_costs_and_counts_it(album: Album) -> None:
    album.pictures(20)
    for place in range(20):
        album.put(f"{place}.png", png(place, 30_000))
    album.more["model"] = {"name": "m", "max_tokens": 50}
    album.more["budget"] = {"tokens": 6_000}
    refused = album.run()
    assert refused.returncode == 2
    assert "attachments.max_tokens" in refused.stderr
    album.ask("photo", max_tokens=100)
    done = album.run()
    # By their bytes not one of these would fit, by their tokens all do.
    assert done.returncode == 0, done.stderr
    assert requests(album) == 20


def test_typed_answers_about_pictures_resume_as_well(tmp_path: Path, simulate: Simulate) -> None:
    endpoint = simulate()
    job = Album(tmp_path, endpoint.base_url)
    job.ask("photo")
    job.more["answer"] = {"fields": {"label": ["cat", "dog"]}}
    job.pictures(5)
    done = job.run()
    assert done.returncode == 0, done.stderr
    assert set(job.results()["label"]) <= {"cat", "dog"}
    assert job.run().returncode == 0
    assert endpoint.stats()["requests"] == 5
