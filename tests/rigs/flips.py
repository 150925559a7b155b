"""Flipped bits in every file of a checkpoint: each must be told, and mended at the price of what it hit."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from pipeline.errors import CheckpointError, PipelineError
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.verify import verify
from tests.rigs.disk import Disk
from tests.rigs.oracle import Found, read_folder, rows_of
from tests.rigs.work import NAME, Run, Truth, outcome_of


@dataclass(slots=True)
class Flips:
    """What came of many flips."""

    made: int = 0
    told: int = 0  # the others hit nothing that had been acknowledged
    wrong: list[str] = field(default_factory=list)


def prepare(folder: Path) -> Path:
    """A checkpoint with parts and, as a kill leaves it, an open segment, all of it acknowledged."""
    folder.mkdir()
    disk, truth = Disk(str(folder)), Truth()
    Run(str(folder / "checkpoint"), disk, truth, seal_rows=6, seed=3).go(range(14))
    disk.revive()
    checkpoint = Checkpoint.open(str(folder / "checkpoint"), NAME, files=disk)
    for number in range(8):
        key = f"{1000 + number:032x}"
        checkpoint.sent(key)
        checkpoint.record(outcome_of(truth.say(key, "answer", 60 * number)))
        if number % 3 == 1:
            checkpoint.writer.commit()
    checkpoint.lock.release()
    disk.die()
    return folder / "checkpoint"


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


def opens(folder: Path) -> bool:
    """Whether a run would begin; it is left as a run leaves it."""
    try:
        checkpoint = Checkpoint.open(str(folder), NAME, files=Disk(str(folder)))
    except CheckpointError:
        return False
    checkpoint.seal()
    checkpoint.release()
    return True


def try_flip(folder: Path, scratch: Path, name: str, bit: int, flips: Flips) -> None:
    try_damage(folder, scratch, name, lambda path: flip(path, bit), f"bit {bit}", flips)


def try_damage(folder: Path, scratch: Path, name: str, hurt: Callable[[Path], None], how: str, flips: Flips) -> None:
    """Hurt a file in a copy of a checkpoint: is it told, is nothing sent, does repair cost only what was hit?"""
    shutil.copytree(folder, scratch)
    hurt(scratch / name)
    flips.made += 1
    try:
        wrong = _judge(folder, scratch, name, flips)
    except (PipelineError, AssertionError, OSError, pl.exceptions.PolarsError, ValueError) as exc:
        wrong = [f"{type(exc).__name__}: {exc}"]
    flips.wrong += [f"{name} {how}: {each}" for each in wrong]
    shutil.rmtree(scratch)


def _judge(folder: Path, scratch: Path, name: str, flips: Flips) -> list[str]:
    wrong = []
    told = bool(verify(str(scratch)).damage)
    flips.told += told
    if told:
        if opens(scratch):
            wrong.append("a run begins on a damaged checkpoint")
        report = verify(str(scratch), repair=True, files=Disk(str(scratch)))
        if not report.repaired or verify(str(scratch)).damage:
            wrong.append("not mended")
    if not opens(scratch):
        wrong.append("no run can begin")
    before, after = records(folder), records(scratch)
    wrong += [f"invented {each}" for each in after - before]
    return wrong + _loss(folder, name, told, before - after)


def records(folder: Path) -> set[Found]:
    """All but what is in doubt: an answer that was lost leaves its request in doubt, rightly."""
    return {each for each in read_folder(str(folder)) if each.what != "in_doubt"}


def _loss(folder: Path, name: str, told: bool, lost: set[Found]) -> list[str]:
    if not told:
        return [f"{len(lost)} acknowledged records gone, and nobody told"] if lost else []
    if name.startswith("parts"):
        with open(folder / name, "rb") as file:
            hit = set(rows_of(file.read()))
        return [] if lost == hit else [f"{len(lost)} records lost instead of the {len(hit)} of the part"]
    allowed = 1 if name.startswith("journal") else 0  # the parts are whole when a line of the manifest is not
    return [f"{len(lost)} records lost for one bit"] if len(lost) > allowed else []


def bits_of(path: Path, count: int, rng: random.Random) -> list[int]:
    """Bits to flip: all of them when ``count`` allows, else so many at random."""
    size = path.stat().st_size * 8
    return list(range(size)) if size <= count else sorted(rng.sample(range(size), count))
