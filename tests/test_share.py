from __future__ import annotations

from dataclasses import dataclass
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.share import FOOT_SHARE, Claim, Need, Share, Stake, claim, divided, packed, room, take, unpacked

RPM = "requests_per_minute"
TPM = "tokens_per_minute"
A_HAIR = 1 + 1e-9

wants = st.none() | st.floats(0, 10_000)
limits = st.sampled_from([5.0, 60.0, 1500.0, 3000.0])


@dataclass
class Job:
    """One that looks at the table when it is told to."""

    need: Need
    held: float = 0.0
    on_the_table: bool = False

    @property
    def claim(self) -> Claim:
        return {RPM: Stake(self.need.limit, self.need.want, self.held)}

    def look(self, jobs: list[Job]) -> Share:
        share = take({RPM: self.need}, [job.claim for job in jobs if job is not self and job.on_the_table])[RPM]
        self.held, self.on_the_table = share.mine, True
        return share


def looked(*needs: Need, times: int = 3) -> list[float]:
    """What each holds after all have looked so many times."""
    jobs = [Job(need) for need in needs]
    for _ in range(times):
        for job in jobs:
            job.look(jobs)
    return [job.held for job in jobs]


def test_a_job_alone_has_all_of_it_whatever_it_wants() -> None:
    assert looked(Need(3000, 0.0), times=1) == [3000]
    assert looked(Need(3000, None), times=1) == [3000]


def test_jobs_that_want_all_they_can_get_have_equal_parts() -> None:
    assert looked(*[Need(3000, None)] * 4) == pytest.approx([2997 / 4] * 4)


def test_what_a_modest_job_leaves_goes_to_those_that_wait() -> None:
    assert looked(Need(3000, 100), Need(3000, None), Need(3000, None)) == pytest.approx([100, 1449, 1449])


def test_an_idle_job_keeps_a_foot_in_the_door_and_no_more() -> None:
    idle, busy = looked(Need(3000, 0.0), Need(3000, None))
    assert 0 < idle <= 15
    assert idle + busy == pytest.approx(2999)


def test_the_smallest_limit_holds_for_all_as_long_as_its_job_runs() -> None:
    jobs = [Job(Need(3000, None)), Job(Need(600, None))]
    for _ in range(3):
        for job in jobs:
            job.look(jobs)
    assert [job.held for job in jobs] == pytest.approx([299.5, 299.5])
    jobs.pop().on_the_table = False
    assert jobs[0].look(jobs) == Share(3000, 3000, 1)


def test_each_limit_is_shared_by_those_that_name_it() -> None:
    other = {TPM: Stake(10_000, None, 10_000)}
    shares = take({RPM: Need(60, None), TPM: Need(10_000, None)}, [other])
    assert shares == {RPM: Share(60, 60, 1), TPM: Share(0, 10_000, 2)}


def test_a_newcomer_takes_nothing_before_the_others_have_made_room() -> None:
    old, new = Job(Need(3000, None)), Job(Need(3000, None))
    jobs = [old, new]
    old.look(jobs)
    assert new.look(jobs).mine == 0
    assert old.look(jobs).mine == 1499.5
    assert new.look(jobs).mine == 1499.5


def test_the_share_of_a_job_that_died_is_free_with_the_next_look() -> None:
    jobs = [Job(Need(3000, None)) for _ in range(4)]
    for _ in range(3):
        for job in jobs:
            job.look(jobs)
    jobs.pop().on_the_table = False
    for job in jobs:
        job.look(jobs)
    assert sum(job.held for job in jobs) == pytest.approx(2998)


class Table:
    """Jobs that come, look and go in any order."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.unsettled: set[int] = set()  # those who have not looked since the room became smaller

    @property
    def room(self) -> float:
        there = [job for job in self.jobs if job.on_the_table]
        return room(min(job.need.limit for job in there), len(there))

    def look(self, job: Job) -> None:
        before = self.room if any(job.on_the_table for job in self.jobs) else float("inf")
        job.look(self.jobs)
        if self.room < before:
            self.unsettled = {id(other) for other in self.jobs if other is not job and other.on_the_table}
        self.unsettled.discard(id(job))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("come"), limits, wants),
        st.tuples(st.just("look"), st.integers(0, 9), wants),
        st.tuples(st.just("go"), st.integers(0, 9), st.none()),
    ),
    max_size=60,
)


@given(steps)
def test_what_is_held_never_exceeds_the_allowance_in_whatever_order_jobs_come_look_and_go(
    steps: list[tuple[str, float, float | None]],
) -> None:
    table = Table()
    for what, number, want in steps:
        if what == "come":
            table.jobs.append(Job(Need(number, want)))
        elif table.jobs:
            job = table.jobs[int(number) % len(table.jobs)]
            if what == "go":
                table.jobs.remove(job)
                table.unsettled.discard(id(job))
                continue
            job.need = Need(job.need.limit, want)
            table.look(job)
            assert job.held >= 0
        there = [job for job in table.jobs if job.on_the_table]
        if there and not table.unsettled:
            assert sum(job.held for job in there) <= table.room * A_HAIR


@given(st.lists(st.tuples(limits, wants), min_size=1, max_size=6))
def test_after_three_looks_all_of_it_is_held_and_nobody_starves(told: list[tuple[float, float | None]]) -> None:
    held = looked(*(Need(limit, want) for limit, want in told))
    whole = room(min(limit for limit, _ in told), len(told))
    assert sum(held) == pytest.approx(whole)
    for (_, want), mine in zip(told, held, strict=True):
        wanted = whole if want is None else max(want, FOOT_SHARE * whole / len(told))
        assert mine * A_HAIR >= min(wanted, whole / len(told))


@given(st.floats(1, 10_000), st.lists(wants, min_size=1, max_size=8))
def test_nobody_gets_more_than_it_wants_while_another_wants_more_than_it_gets(
    whole: float, wants: list[float | None]
) -> None:
    parts = divided(whole, wants)
    assert sum(parts) == pytest.approx(whole)
    foot = FOOT_SHARE * whole / len(wants)
    short = [part for part, want in zip(parts, wants, strict=True) if want is None or part < want * (1 - 1e-9)]
    if short and len(short) < len(parts):
        for part, want in zip(parts, wants, strict=True):
            if want is not None and part >= want:
                assert part <= max(want, foot) * A_HAIR + A_HAIR * whole * 1e-9


@given(st.integers(2, 5000), st.lists(wants, min_size=1, max_size=8))
def test_calls_that_come_whole_fit_into_any_minute(limit: int, wants: list[float | None]) -> None:
    """A job at an even pace of 7.3 calls a minute sends 8 in some minutes, and so do all the others."""
    parts = divided(room(limit, len(wants)), wants)
    if len(wants) <= limit / 2:
        assert sum(floor(part * 0.993) + 1 for part in parts) <= limit


def test_a_claim_is_read_as_it_was_written() -> None:
    needs = {RPM: Need(3000, None), TPM: Need(1e6, 12.5)}
    mine = claim(needs, {RPM: Share(10, 3000, 2), TPM: Share(20, 1e6, 2)})
    assert unpacked([packed(mine, pid=7, look=1)]) == [{RPM: Stake(3000, None, 10), TPM: Stake(1e6, 12.5, 20)}]


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"limits": 7}',
        b'{"limits": {"requests_per_minute": 7}}',
        b'{"limits": {"requests_per_minute": {"limit": 0, "want": 1, "held": 1}}}',
        b'{"limits": {"requests_per_minute": {"limit": -5, "want": 1, "held": 1}}}',
        b'{"limits": {"requests_per_minute": {"limit": 5, "want": "all", "held": 1}}}',
        b'{"limits": {"requests_per_minute": {"limit": 5, "want": null, "held": true}}}',
        b'{"limits": {"requests_per_minute": {"limit": 5, "want": 1}}}',
        b"\xff\x00" * 99,
    ],
)
def test_words_that_are_no_claim_are_left_out(words: bytes) -> None:
    good = packed({RPM: Stake(5, None, 1)})
    assert unpacked([words, good]) == [{RPM: Stake(5, None, 1)}]


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(words: bytes) -> None:
    unpacked([words])
