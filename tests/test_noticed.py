"""Oddities are told once each, and memory stays bounded."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.noticed import IDS_REMEMBERED, NAMES_REMEMBERED, Gap, Noticed
from pipeline.records import ApiReply, Usage


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **members: object) -> None:
        self.lines.append((event, members))


def reply(**json: Any) -> ApiReply:
    return ApiReply(200, {}, b"", json, Usage(), 0.1)


@pytest.mark.fault("B15")
def test_each_other_model_is_told_once_and_the_one_asked_never() -> None:
    log = Log()
    noticed = Noticed("asked", log)
    for name in ("asked", "other", "other", "third", "other", None, 7):
        noticed.look(reply(model=name))
    assert log.lines == [
        ("other_model", {"asked": "asked", "answered": "other"}),
        ("other_model", {"asked": "asked", "answered": "third"}),
    ]


def test_a_server_that_makes_up_a_new_name_each_time_does_not_fill_the_log() -> None:
    log = Log()
    noticed = Noticed("asked", log)
    for number in range(1_000):
        noticed.look(reply(model=f"name-{number}"))
    assert len(log.lines) == NAMES_REMEMBERED - 1


@pytest.mark.fault("B18")
def test_an_id_that_two_replies_share_is_told_once() -> None:
    log = Log()
    noticed = Noticed("m", log)
    for id_ in ("a", "b", None, "a", "b", "a"):
        noticed.look(reply(model="m", id=id_))
    assert log.lines == [("reply_id_again", {"id": "a"})]


def test_only_so_many_ids_are_remembered() -> None:
    log = Log()
    noticed = Noticed("m", log)
    for number in range(IDS_REMEMBERED + 2):
        noticed.look(reply(id=str(number)))
    noticed.look(reply(id="0"))
    assert log.lines == []
    noticed.look(reply(id=str(IDS_REMEMBERED)))
    assert log.lines


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.fault("N19")
@pytest.mark.parametrize(
    ("passed_s", "wall_s", "told"), [(2, 2, None), (70, 70, 70), (2, 3600, 3600), (2, -9999, None)]
)
def test_a_suspension_is_a_gap_in_either_clock_and_a_clock_set_back_is_none(
    passed_s: float, wall_s: float, told: float | None
) -> None:
    clock, wall = Clock(), Clock()
    gap = Gap(clock, wall)
    clock.now += passed_s
    wall.now += wall_s
    assert gap.look() == told
    assert gap.look() is None
