"""What becomes of the links of an answer, with a fetcher that says what a test tells it to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import polars as pl
import pytest

from pipeline.errors import StorageError
from pipeline.linked import MOST_LINKS, Linked
from pipeline.media import Kind
from pipeline.provider.fetch import Fetcher, Unfetched
from pipeline.records import Outcome, Row, Status
from pipeline.runlog import RunLog
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.noted import media_columns
from pipeline.storage.snapshot import Snapshot
from tests.pictures import png

KEY = f"{7:032x}"
PNG = Kind("image/png", "png")


class Told:
    """In place of a Fetcher: each fetch writes half a picture, then does what is told."""

    def __init__(self, tell: Callable[[str, int], Any]) -> None:
        self.tell = tell
        self.places = asyncio.Semaphore(2)
        self.asked: list[str] = []

    async def __aenter__(self) -> Told:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def fetch(self, address: str, write: Callable[[bytes], None]) -> Kind:
        self.asked.append(address)
        write(png()[:20])
        told = self.tell(address, self.asked.count(address))
        if asyncio.iscoroutine(told):
            await told
        write(png()[20:])
        return PNG


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Checkpoint]:
    opened = Checkpoint.open(str(tmp_path / "checkpoint"), "job")
    yield opened
    opened.abandon()


def record(checkpoint: Checkpoint, text: str, links: int) -> None:
    checkpoint.record(Outcome(KEY, Row(6, None, {}), Status.OK, text, attempts=1), links)


async def get(checkpoint: Checkpoint, told: Told, text: str, tmp_path: Path) -> None:
    log = RunLog(str(tmp_path / "run.log"), "x")
    try:
        async with Linked(cast(Fetcher, told), checkpoint, log, nullcontext) as linked:
            await linked.get({KEY: text})
    finally:
        log.close()


def looked(checkpoint: Checkpoint) -> Snapshot:
    return Snapshot(checkpoint.layout.folder, checkpoint.job.job)


def columns(checkpoint: Checkpoint) -> tuple[list[str], str | None]:
    note = looked(checkpoint).fetched()["fetched"]
    paths, _, error = media_columns(pl.Series([None], dtype=pl.String), note)
    return paths[0].to_list(), error[0]


def files(tmp_path: Path) -> list[str]:
    return sorted(os.listdir(tmp_path / "media")) if (tmp_path / "media").exists() else []


async def test_a_passing_fault_is_tried_once_more_and_half_a_file_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    def tell(address: str, turn: int) -> None:
        if turn == 1 or address.endswith("b.png"):
            raise Unfetched("503", passing=True)

    told = Told(tell)
    await get(checkpoint, told, "https://x.example/a.png https://x.example/b.png", tmp_path)
    paths, error = columns(checkpoint)
    assert [path.rpartition("-")[0] for path in paths] == [f"media/{KEY}-link1"]
    assert (tmp_path / paths[0]).read_bytes() == png()
    assert error == "link 2 (x.example): 503"
    assert len(told.asked) == 4
    assert files(tmp_path) == [paths[0].removeprefix("media/")]


async def test_a_lasting_fault_is_not_tried_again(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def tell(address: str, turn: int) -> None:
        raise Unfetched("404")

    told = Told(tell)
    await get(checkpoint, told, "https://x.example/a.png", tmp_path)
    assert columns(checkpoint) == ([], "link 1 (x.example): 404")
    assert len(told.asked) == 1
    assert files(tmp_path) == []


async def test_of_a_list_of_links_only_the_first_are_fetched(checkpoint: Checkpoint, tmp_path: Path) -> None:
    told = Told(lambda address, turn: None)
    text = " ".join(f"https://x.example/{place}.png" for place in range(MOST_LINKS + 5))
    await get(checkpoint, told, text, tmp_path)
    paths, error = columns(checkpoint)
    assert len(told.asked) == len(paths) == MOST_LINKS
    assert error == "5 further links were not fetched"


async def test_what_is_cut_off_leaves_no_file_and_stays_to_be_fetched(checkpoint: Checkpoint, tmp_path: Path) -> None:
    text = "https://x.example/a.png"
    record(checkpoint, text, 1)
    told = Told(lambda address, turn: asyncio.Event().wait())
    fetching = asyncio.ensure_future(get(checkpoint, told, text, tmp_path))
    while not told.asked:
        await asyncio.sleep(0)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert files(tmp_path) == []
    assert looked(checkpoint).unfetched() == {KEY: text}
    await get(checkpoint, Told(lambda address, turn: None), text, tmp_path)
    assert looked(checkpoint).unfetched() == {}


async def test_a_disk_that_fails_is_told_as_that(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def tell(address: str, turn: int) -> None:
        raise StorageError("the disk is full")

    with pytest.raises(StorageError, match="the disk is full"):
        await get(checkpoint, Told(tell), "https://x.example/a.png", tmp_path)
    assert files(tmp_path) == []


def test_answers_without_links_or_of_jobs_that_fetch_none_wait_for_nothing(checkpoint: Checkpoint) -> None:
    record(checkpoint, "https://x.example/a.png", 0)
    assert looked(checkpoint).unfetched() == {}


def test_what_a_killed_run_left_aside_is_removed_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    first = Checkpoint.open(str(tmp_path / "checkpoint"), "job")
    incoming = first.shelf.incoming(KEY, 1)
    incoming.write(b"half")
    incoming._close()
    (tmp_path / "media" / "holiday.png.tmp").write_text("mine")
    first.abandon()
    assert len(files(tmp_path)) == 2
    Checkpoint.open(str(tmp_path / "checkpoint"), "job").abandon()
    assert files(tmp_path) == ["holiday.png.tmp"]
