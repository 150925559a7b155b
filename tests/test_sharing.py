from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from pipeline.runlog import RunLog
from pipeline.share import Need, Share
from pipeline.sharing import Sharing, in_thread, start_sharing
from pipeline.storage.leases import STALE_S, Leases, Step

RPM = "requests_per_minute"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Job:
    """What a run is to the clockwork: its needs, and the shares it was told."""

    def __init__(self, home: Path, *, limit: float = 600.0, leases: Leases | None = None) -> None:
        self.limit = limit
        self.told: list[Mapping[str, Share]] = []
        self.news = asyncio.Event()
        self.log = home.with_suffix(f".{id(self)}.log")
        self.clock = Clock()
        log = RunLog(str(self.log), "run")
        log.begin()
        self.sharing = Sharing(
            leases or Leases(str(home), "http://127.0.0.1/v1", None, 1),
            self.needs,
            self.keep_to,
            log,
            clock=self.clock,
            every_s=0.005,
            patience_s=20.0,
        )

    def needs(self) -> dict[str, Need]:
        return {RPM: Need(self.limit, None)}

    def keep_to(self, shares: Mapping[str, Share]) -> None:
        self.told.append(dict(shares))
        self.news.set()

    async def until(self, condition: Callable[[Mapping[str, Share]], bool]) -> None:
        """Waits until it is told such shares."""
        async with asyncio.timeout(20):
            while not self.told or not condition(self.told[-1]):
                self.news.clear()
                await self.news.wait()

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.log.read_text().splitlines()]


def half(shares: Mapping[str, Share]) -> bool:
    return RPM in shares and shares[RPM] == Share(299.5, 600.0, 2)


def all_of_it(shares: Mapping[str, Share]) -> bool:
    return RPM in shares and shares[RPM] == Share(600.0, 600.0, 1)


async def test_a_job_has_nothing_before_its_first_look(tmp_path: Path) -> None:
    assert Job(tmp_path / "home").told == [{RPM: Share(0.0, 600.0, 1)}]


async def test_two_jobs_come_to_halves_and_the_one_that_stays_has_all_again(tmp_path: Path) -> None:
    one, two = Job(tmp_path / "home"), Job(tmp_path / "home")
    going = asyncio.ensure_future(one.sharing.go())
    await one.until(all_of_it)
    other = asyncio.ensure_future(two.sharing.go())
    await one.until(half)
    await two.until(half)
    two.sharing.stop()
    await other
    await one.until(all_of_it)
    assert one.events() == ["sharing", "sharing"]
    one.sharing.stop()
    await going
    assert not list(tmp_path.rglob("*.lease"))


async def test_a_folder_that_cannot_be_made_is_told_once_and_the_job_goes_on_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_bytes(b"a file where the folder should be")
    job = Job(home)
    going = asyncio.ensure_future(job.sharing.go())
    await job.until(lambda shares: shares == {})
    job.told.clear()
    await job.until(lambda shares: shares == {})  # it has tried again
    assert job.events() == ["not_sharing"]
    home.unlink()
    await job.until(all_of_it)
    job.sharing.stop()
    await going


class Failing(Leases):
    failure: BaseException | None = None
    tries = 0

    def exchange(self, step: Step) -> None:
        self.tries += 1
        if self.failure is not None:
            raise self.failure
        super().exchange(step)


async def test_a_share_lasts_as_long_as_others_believe_in_it_when_the_disk_fails(tmp_path: Path) -> None:
    leases = Failing(str(tmp_path / "home"), "http://127.0.0.1/v1", None, 1)
    job = Job(tmp_path / "home", leases=leases)
    going = asyncio.ensure_future(job.sharing.go())
    await job.until(all_of_it)
    leases.failure = OSError(5, "the disk is gone")
    tried = leases.tries
    while leases.tries < tried + 3:
        await asyncio.sleep(0.001)
    assert {} not in job.told
    job.clock.now += STALE_S
    await job.until(lambda shares: shares == {})
    assert "the disk is gone" in job.log.read_text()
    job.sharing.stop()
    await going


async def test_a_bug_of_ours_ends_the_sharing_and_not_the_run(tmp_path: Path) -> None:
    leases = Failing(str(tmp_path / "home"), "http://127.0.0.1/v1", None, 1)
    leases.failure = ZeroDivisionError()
    job = Job(tmp_path / "home", leases=leases)
    await job.sharing.go()
    assert job.told[-1] == {}
    assert job.events() == ["fault_of_ours"]


async def test_a_disk_that_never_answers_holds_up_neither_the_run_nor_its_end(tmp_path: Path) -> None:
    stuck, never = threading.Event(), threading.Event()

    def step(others: Sequence[bytes]) -> bytes:
        stuck.set()
        never.wait()
        return b""

    leases = Leases(str(tmp_path / "home"), "http://127.0.0.1/v1", None, 1, lock_wait_s=0.01)
    thread = threading.Thread(target=leases.exchange, args=(step,), daemon=True)
    thread.start()
    stuck.wait()
    job = Job(tmp_path / "home", leases=leases)
    going = asyncio.ensure_future(job.sharing.go())
    await job.until(lambda shares: shares == {})
    job.sharing.stop()
    await going
    job.sharing.leave()
    never.set()
    thread.join()


async def test_what_a_thread_raises_reaches_who_waits() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)
    assert await in_thread(threading.get_ident) != threading.get_ident()


def test_without_a_limit_there_is_nothing_to_share(tmp_path: Path) -> None:
    log = RunLog(str(tmp_path / "log"), "run")
    log.begin()
    assert start_sharing("http://127.0.0.1/v1", None, dict, lambda shares: None, log) is None
    assert os.listdir(tmp_path) == ["log"]


class Slow(Leases):
    """Looks when it is let."""

    def __init__(self, home: str) -> None:
        super().__init__(home, "http://127.0.0.1/v1", None, 1)
        self.asked, self.let = threading.Event(), threading.Event()

    def exchange(self, step: Step) -> None:
        self.asked.set()
        self.let.wait()
        super().exchange(step)


async def test_a_look_that_ends_after_the_job_has_left_changes_nothing(tmp_path: Path) -> None:
    """Once it told a job that had just ended that it was alone, and its summary did not say whom it had shared with."""
    leases = Slow(str(tmp_path / "home"))
    job = Job(tmp_path / "home", leases=leases)
    told = list(job.told)
    going = asyncio.ensure_future(job.sharing.go())
    await in_thread(leases.asked.wait)
    job.sharing.leave()
    leases.let.set()
    async with asyncio.timeout(20):
        await going
    assert job.told == told
