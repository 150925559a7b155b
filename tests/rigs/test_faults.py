"""A fault at every call of the disk, one run per call and fault; and disks that stay full or broken."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import CheckpointError, StorageError
from pipeline.storage.checkpoint import Checkpoint
from tests.rigs.disk import KINDS, Disk, Fault, Killed, lay_out
from tests.rigs.oracle import judge
from tests.rigs.power import Volume
from tests.rigs.scale import TORTURE
from tests.rigs.work import Run, Truth

ROWS, SEAL_ROWS = (30, 8) if TORTURE else (8, 4)
STEP = 1 if TORTURE else 4  # the short form takes every fourth call, beginning at another one for each fault
WHATS = ("kill", "ENOSPC", "EIO", "dead")
CASES = [(kind, what) for kind in KINDS if kind != "truncate" for what in WHATS] + [("write", "short")]


def strike(
    root: Path, *faults: Fault, rows: int = ROWS, seal_rows: int = SEAL_ROWS, media: bool = False
) -> tuple[Disk, list[str]]:
    """One run with faults, and what is wrong with what it leaves (also after a power cut at its end)."""
    os.makedirs(root)
    disk, truth = Disk(str(root), *faults), Truth(media=media)
    run = Run(str(root / "checkpoint"), disk, truth, seal_rows=seal_rows, seed=7)
    killed = False
    try:
        run.go(range(rows))
    except (StorageError, CheckpointError):  # the latter when not even the folder could be made
        pass
    except Killed:
        killed = True
    disk.die()
    safe = run.safe()
    wrong = []
    if not killed:  # a kill alone is covered by the images of test_power.py
        cut = root / "cut"
        lay_out(Volume(disk, disk.ops).worst(), str(cut))
        wrong += [
            f"after a power cut: {each}" for each in judge(str(cut / "checkpoint"), truth, safe, files=Disk(str(cut)))
        ]
    whole = not disk.broken
    wrong += judge(str(root / "checkpoint"), truth, safe, files=Disk(str(root)), whole=whole, rows=rows)
    if disk.synced_again:
        wrong.append("a descriptor was synced again after its sync had failed")
    return disk, wrong


def full_disk(root: Path, room: int) -> list[str]:
    """Others leave the disk so many bytes once the run has begun; what is wrong with how it ends."""
    os.makedirs(root)
    disk, truth = Disk(str(root), room=1 << 30), Truth()
    run = Run(str(root / "checkpoint"), disk, truth, seal_rows=100, seed=7)
    told: list[int] = []

    def fill(checkpoint: Checkpoint) -> None:
        disk.room = room
        checkpoint.writer.on_failure = lambda: told.append(len(truth.written))

    run.opened = fill
    wrong = []
    try:
        run.go(range(40))
    except StorageError as exc:
        wrong.append(f"not enough room for what was in flight: {exc}")
    disk.die()
    if not told:
        wrong.append("nobody was told that the disk is full")
    elif len(truth.sends) >= 40:
        wrong.append("rows were sent although the disk was full")
    if truth.tried.keys() - {said.text for said in truth.written}:
        wrong.append("an answer in flight was lost")
    disk = Disk(str(root))
    return wrong + judge(str(root / "checkpoint"), truth, run.safe(), files=disk, whole=True, rows=40)


def every_call(
    kind: str, what: str, tmp_path: Path, *more: Fault, media: bool = False
) -> Iterator[tuple[int, list[str]]]:
    start = 1 + (KINDS.index(kind) + len(what)) % STEP
    for at in itertools.count(start, STEP):
        disk, wrong = strike(tmp_path / f"{at}", Fault(kind, at, what), *more, media=media)
        if not disk.fired:
            return
        yield at, wrong


@pytest.mark.fault("P01", "P06", "P07")
@pytest.mark.parametrize("media", [False, True])
@pytest.mark.parametrize(("kind", "what"), CASES)
def test_a_fault_at_any_call_costs_nothing_that_was_recorded(kind: str, what: str, media: bool, tmp_path: Path) -> None:
    cases = 0
    for at, wrong in every_call(kind, what, tmp_path, media=media):
        cases += 1
        assert not wrong, (kind, at, what, wrong)
    assert cases >= (3 if STEP == 1 else 1)
    print(f"{kind} x {what}: {cases} cases")


@pytest.mark.fault("P06")
@pytest.mark.parametrize("what", WHATS)
def test_a_short_write_that_cannot_be_cut_back_glues_nothing(what: str, tmp_path: Path) -> None:
    for at, wrong in every_call("write", "short", tmp_path, Fault("truncate", 1, what)):
        assert not wrong, (at, wrong)


@pytest.mark.fault("P06")
@pytest.mark.parametrize("room", [0, 50, 700, 3000, 6001])
def test_on_a_full_disk_the_ballast_takes_what_is_in_flight(room: int, tmp_path: Path) -> None:
    assert full_disk(tmp_path / "full", room) == []
