"""Power cuts at random points of random histories, also while the recovery from one is under way."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from tests.rigs.disk import KINDS, Disk, Fault, Killed, lay_out
from tests.rigs.oracle import judge
from tests.rigs.power import Tree, Volume
from tests.rigs.work import NAME, Run, Truth

ROWS = 16
SEAL_ROWS = 6
IMAGES_PER_HISTORY = 12


@dataclass(frozen=True, slots=True)
class History:
    """What one to three runs on a folder called, and what was safe before each call (and at the end)."""

    disk: Disk
    truth: Truth
    safe: list[frozenset[str]]

    def image(self, rng: random.Random) -> tuple[Tree, frozenset[str]]:
        cut = cut_in(self.disk, rng)
        return Volume(self.disk, self.disk.ops[:cut]).image(rng.randrange(2**32)), self.safe[cut]


def cut_in(disk: Disk, rng: random.Random) -> int:
    """Half of the cuts fall anywhere, half close behind a call that the order of the protocol is about."""
    turns = [at for at, op in enumerate(disk.ops) if op.kind in ("rename", "unlink", "lose")]
    if not turns or rng.random() < 0.5:
        return rng.randint(0, len(disk.ops))
    turn = rng.choice(turns)
    return min(len(disk.ops), turn + rng.randint(1, 12 if disk.ops[turn].kind == "lose" else 4))


def history(root: Path, rng: random.Random, kinds: Sequence[str], media: bool = False) -> History:
    """Runs of which all but the last are killed at some call (or fail at some sync, as a failing disk makes them)."""
    root.mkdir()
    disk, truth = Disk(str(root)), Truth(media=media)
    safe: list[frozenset[str]] = []
    for more in reversed(range(rng.choice([1, 2, 2, 3]))):
        disk.revive(*([_fault(rng, kinds)] if more else []))
        run = Run(str(root / "checkpoint"), disk, truth, seal_rows=SEAL_ROWS, seed=rng.randrange(2**32))
        disk.before_op = lambda run=run: safe.append(run.safe())  # type: ignore[misc]
        try:
            run.go(range(ROWS))
        except (Killed, PipelineError):
            continue
        finally:
            truth.safe = set(run.safe())
    disk.die()
    safe.append(frozenset(truth.safe))
    return History(disk, truth, safe)


def _fault(rng: random.Random, kinds: Sequence[str]) -> Fault:
    kind = rng.choice(kinds)
    what = "EIO" if kind == "datasync" and rng.random() < 0.5 else "kill"
    return Fault(kind, rng.randint(1, 50 if kind == "write" else 20), what)


def images(folder: Path, seed: int, kinds: Sequence[str] = KINDS[:-1], *, media: bool = False) -> Iterator[list[str]]:
    """For each image what is wrong with it, without end. ``kinds``: the calls at which earlier runs met their ends."""
    rng = random.Random(seed)
    while True:
        try:
            past = history(folder / "history", rng, kinds, media)
        except (PipelineError, OSError, ValueError, KeyError) as exc:  # only a mutant gets here
            yield [f"{type(exc).__name__}: {exc}"]
            past = None
        for number in range(IMAGES_PER_HISTORY if past else 0):
            assert past is not None
            tree, safe = past.image(rng)
            if number % 2:
                tree, wrong = _cut_again(folder / "again", tree, rng)
            else:
                wrong = []
            lay_out(tree, str(folder / "image"))
            disk = Disk(str(folder / "image"))
            rows = ROWS if number % 4 == 0 else 0
            yield wrong or judge(str(folder / "image" / "checkpoint"), past.truth, safe, files=disk, rows=rows)
            shutil.rmtree(folder / "image")
        shutil.rmtree(folder / "history")


def _cut_again(folder: Path, tree: Tree, rng: random.Random) -> tuple[Tree, list[str]]:
    """The power fails a second time while the first failure is being recovered from."""
    lay_out(tree, str(folder))
    disk = Disk(str(folder))
    try:
        run = Run(str(folder / "checkpoint"), disk, Truth(), seal_rows=SEAL_ROWS, seed=0)
        run.go(range(0))
    except (PipelineError, OSError, ValueError, KeyError) as exc:
        return tree, [f"{type(exc).__name__} in recovery of {NAME}: {exc}"]
    finally:
        disk.die()
        shutil.rmtree(folder)
    return Volume(disk, disk.ops[: cut_in(disk, rng)]).image(rng.randrange(2**32)), []
