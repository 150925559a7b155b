"""Pictures and other media in answers: files beside the results, whatever interrupts the run."""

from __future__ import annotations

import hashlib
import io
import signal
import stat
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from tests.e2e.rig import JobFolder, ended, wait_until
from tests.e2e.scripted import Said, Scripted, Shown, says, scripted
from tests.pictures import data_url, markdown, png


def shade_of(body: dict[str, Any]) -> int:
    return int(body["messages"][-1]["content"].rpartition(" ")[2])


def draws(body: dict[str, Any]) -> Said:
    shade = shade_of(body)
    return says(f"Number {shade}:\n\n{markdown(png(shade))}")


def job_at(folder: Path, endpoint: Scripted, media: Any = True, **more: Any) -> JobFolder:
    return JobFolder(folder, endpoint.base_url, concurrency=4, more={"media": media, **more})


def files_of(job: JobFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (job.out / "media").iterdir()}


def test_pictures_of_answers_are_files_that_open_and_the_table_names_them(tmp_path: Path) -> None:
    with scripted(draws) as endpoint:
        job = job_at(tmp_path, endpoint)
        job.number_of_rows(12)
        done = job.run()
        assert done.returncode == 0, done.stderr
    results = job.results()
    assert results.columns[2:5] == ["response", "media", "media_sha256"]
    for place, (response, paths, digests) in enumerate(results.select(results.columns[2:5]).iter_rows()):
        assert response == f"Number {place}:\n\n![image]({paths[0]})"
        data = (job.out / paths[0]).read_bytes()
        assert data == png(place)
        assert digests == [hashlib.sha256(data).hexdigest()]
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            assert picture.getpixel((1, 1)) == place
    assert len(files_of(job)) == 12
    assert stat.S_IMODE((job.out / "media").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (job.out / "media").iterdir()} == {0o600}


def test_without_the_block_an_answer_stays_as_it_came_and_with_it_later_the_files_come_for_free(
    tmp_path: Path,
) -> None:
    with scripted(draws) as endpoint:
        job = job_at(tmp_path, endpoint, media=False)
        job.number_of_rows(3)
        assert job.run().returncode == 0
        before = job.results()
        assert "media" not in before.columns
        assert before["response"][2] == f"Number 2:\n\n{markdown(png(2))}"
        assert not (job.out / "media").exists()
        job.more["media"] = {}
        assert job.run().returncode == 0
        assert len(endpoint.asked) == 3
    assert sorted(files_of(job).values()) == sorted(png(place) for place in range(3))
    assert [(job.out / paths[0]).read_bytes() for paths in job.results()["media"]] == [png(n) for n in range(3)]


def test_different_interruptions_give_the_same_bytes_and_the_same_files(tmp_path: Path) -> None:
    seen: list[tuple[bytes, dict[str, bytes]]] = []
    for schedule in range(3):
        gate = threading.Event()

        def draws_slowly(body: dict[str, Any], gate: threading.Event = gate) -> Said:
            gate.wait(0.01)
            return draws(body)

        with scripted(draws_slowly) as endpoint:
            job = job_at(tmp_path, endpoint, output=f"out{schedule}")
            job.number_of_rows(60)
            for turn in range(schedule):
                process = job.start()
                goal = len(endpoint.asked) + 12 + 5 * turn
                wait_until(lambda goal=goal, at=endpoint: len(at.asked) >= goal, "requests")  # type: ignore[misc]
                process.send_signal(signal.SIGKILL if turn else signal.SIGTERM)
                assert ended(process)[0] in (-9, 75)
            assert job.run().returncode == 0
        out = tmp_path / f"out{schedule}"
        files = {path.name: path.read_bytes() for path in (out / "media").iterdir()}
        seen.append(((out / "results.parquet").read_bytes(), files))
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0][1]) == 60


def test_an_export_during_a_run_names_the_files_and_holds_no_base64(tmp_path: Path) -> None:
    answers = threading.Semaphore(5)

    def draws_some(body: dict[str, Any]) -> Said:
        answers.acquire()
        return draws(body)

    with scripted(draws_some) as endpoint:
        job = job_at(tmp_path, endpoint)
        job.number_of_rows(20)
        process = job.start()
        wait_until(lambda: len(endpoint.asked) >= 9, "five answers")
        exported = job.run("export", "--to", "now.csv")
        assert exported.returncode == 0, exported.stderr
        for _ in range(100):
            answers.release()
        assert ended(process)[0] == 0
        assert job.run("export", "--to", "then.csv").returncode == 0
    now, then = pl.read_csv(tmp_path / "now.csv"), pl.read_csv(tmp_path / "then.csv")
    told = now.filter(pl.col("status") == "ok")
    assert told.height >= 4
    assert not any("base64" in text for text in told["response"])
    assert told.equals(then.filter(pl.col("id").is_in(told["id"].implode())))


def test_a_missing_file_is_told_by_verify_and_buys_nothing(tmp_path: Path) -> None:
    with scripted(draws) as endpoint:
        job = job_at(tmp_path, endpoint)
        job.number_of_rows(3)
        job.run()
        first, second, _ = sorted((job.out / "media").iterdir())
        (job.out / "media" / "notes.txt").write_text("mine")
        first.unlink()
        second.write_bytes(b"edited")
        told = job.run("verify")
        assert told.returncode == 0
        assert f"media/{first.name} is missing" in told.stdout + told.stderr
        assert f"media/{second.name} is not as it was written" in told.stdout + told.stderr
        assert "notes.txt" not in told.stdout + told.stderr
        assert job.run().returncode == 0
        assert len(endpoint.asked) == 3
    assert (job.out / "media" / "notes.txt").read_text() == "mine"


def test_parts_and_pictures_beside_the_content_are_read_as_well(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Said:
        said = says("")
        message = said[1]["choices"][0]["message"]
        part = {"type": "image_url", "image_url": {"url": data_url(png(shade_of(body)))}}
        if shade_of(body):
            message["content"] = [{"type": "text", "text": "look: "}, part]
        else:
            message["content"], message["images"] = None, [part]
        return said

    with scripted(script) as endpoint:
        job = job_at(tmp_path, endpoint)
        job.number_of_rows(2)
        assert job.run().returncode == 0
    results = job.results()
    paths = results["media"].to_list()
    assert results["response"].to_list() == [f"![image]({paths[0][0]})", f"look: ![image]({paths[1][0]})"]


# -- links


def links_to(endpoint: Scripted, name: str) -> Said:
    return says(f"Done: ![image]({endpoint.base_url.removesuffix('/v1')}/{name}?sig=a%2Bb)")


def shows(path: str) -> Shown:
    return 200, "image/png", png(int(path.partition("?")[0].strip("/").removesuffix(".png")))


def test_links_are_kept_as_text_and_fetched_only_on_request(tmp_path: Path) -> None:
    with scripted(lambda body: links_to(endpoint, f"{shade_of(body)}.png")) as endpoint:
        endpoint.show = shows
        job = job_at(tmp_path, endpoint)
        job.number_of_rows(3)
        assert job.run().returncode == 0
        assert endpoint.fetched == []
        assert not (job.out / "media").exists()
        assert job.results()["media"].to_list() == [[], [], []]
        job.more |= {"media": {"download": True}, "output": "fetched"}
        job.run()
        results = pl.read_parquet(tmp_path / "fetched" / "results.parquet")
        assert [(tmp_path / "fetched" / paths[0]).read_bytes() for paths in results["media"]] == [
            png(place) for place in range(3)
        ]
        assert results["media_error"].to_list() == [None] * 3
        assert results["response"][1].endswith("/1.png?sig=a%2Bb)")
        # To the letter, and with nothing of ours: no key, no cookie, no header of the job.
        assert sorted(path for path, _ in endpoint.fetched) == [f"/{place}.png?sig=a%2Bb" for place in range(3)]
        assert {name for _, headers in endpoint.fetched for name in headers} == {
            "Host", "Accept", "Accept-Encoding", "User-Agent", "Connection"
        }  # fmt: skip


def test_a_link_that_cannot_be_had_is_told_and_fails_no_row(tmp_path: Path) -> None:
    shown = {
        "/0.png": (200, "text/html", b"<!doctype html><title>expired</title>"),
        "/1.png": (302, "image/png", b"/5.png"),
        "/2.png": (404, "image/png", b""),
        "/3.png": (200, "image/png", png() + bytes(200_000)),
        "/4.png": (503, "text/plain", b""),
    }
    with scripted(lambda body: links_to(endpoint, f"{shade_of(body)}.png")) as endpoint:
        endpoint.show = lambda path: shown[path.partition("?")[0]]
        job = job_at(tmp_path, endpoint, {"download": True, "max_mb": 0.1})
        job.number_of_rows(5)
        assert job.run().returncode == 0
        assert len(endpoint.asked) == 5
        assert sorted(path[1] for path, _ in endpoint.fetched) == ["0", "1", "2", "3", "4", "4"]
        errors = job.results()["media_error"].to_list()
        for error, words in zip(errors, ["text/html", "302", "404", "0.1 MB", "503"], strict=True):
            assert error.startswith("link 1 (127.0.0.1): ")
            assert words in error
        assert files_of(job) == {}
        summary = job.summary()
        assert job.run().returncode == 0
        assert len(endpoint.fetched) == 6
        assert summary["statuses"] == {"ok": 5}


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_links_of_answers_that_were_recorded_are_fetched_by_the_next_run(tmp_path: Path, name: str) -> None:
    gate = threading.Event()

    def shows_later(path: str) -> Shown:
        gate.wait(60)
        return shows(path)

    with scripted(lambda body: links_to(endpoint, f"{shade_of(body)}.png")) as endpoint:
        endpoint.show = shows_later
        job = job_at(tmp_path, endpoint, {"download": True})
        job.number_of_rows(1)
        process = job.start()
        wait_until(lambda: len(endpoint.fetched) == 1, "the fetch to begin")
        process.send_signal(signal.Signals[name])
        if name == "SIGTERM":  # it waits for what is under way, until it is told again
            wait_until(lambda: '"stopping"' in (job.out / "run.log").read_text(), "the drain to begin")
            process.send_signal(signal.SIGTERM)
        assert ended(process)[0] in (-9, 130)
        assert not list((job.out / "media").glob("*.png"))
        gate.set()
        assert job.run().returncode == 0
        assert len(endpoint.asked) == 1
        assert list(files_of(job).values()) == [png(0)]
        assert job.results()["media"][0].to_list() == [f"media/{next(iter(files_of(job)))}"]
        results = (job.out / "results.parquet").read_bytes()
        assert job.run().returncode == 0
        assert (job.out / "results.parquet").read_bytes() == results
    assert len(endpoint.asked) == 1
