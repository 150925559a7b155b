"""Bits flipped in what was acknowledged: all are told, none starts a silent re-send, repair costs what was hit."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from functools import partial
from pathlib import Path

import pytest

from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.files import Files
from pipeline.storage.journal import scan
from pipeline.storage.keys import KEY_BYTES, Keys
from pipeline.storage.packing import PACKED
from tests.rigs.disk import Disk
from tests.rigs.flips import Flips, bits_of, flip, opens, prepare, try_damage, try_flip
from tests.rigs.oracle import read_folder
from tests.rigs.scale import pick
from tests.rigs.work import NAME, Truth, outcome_of


@pytest.mark.fault("C02", "C04", "C05", "C10")
@pytest.mark.parametrize("name", ["journal/0005.jsonl", "manifest.jsonl", "parts/part-0001.parquet"])
def test_every_flipped_bit_in_acknowledged_data_is_told(name: str, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "whole")
    flips, rng = Flips(), random.Random(8)
    for bit in bits_of(folder / name, pick(40, 1000), rng):
        try_flip(folder, tmp_path / "copy", name, bit, flips)
    assert not flips.wrong
    print(f"{name}: {flips.told} of {flips.made} flips told")
    # What is left over hit the note of the last sync: every record is there, and stands as it was.
    assert flips.told >= 0.97 * flips.made


@pytest.mark.fault("C01", "C02")
def test_a_flipped_newline_costs_no_record(tmp_path: Path) -> None:
    folder = prepare(tmp_path / "whole")
    data = (folder / "journal/0005.jsonl").read_bytes()
    flips = Flips()
    for at, bit in itertools.product([at for at, byte in enumerate(data) if byte == 10], range(0, 8, pick(3, 1))):
        try_flip(folder, tmp_path / "copy", "journal/0005.jsonl", 8 * at + bit, flips)
    assert not flips.wrong


@pytest.mark.fault("C03", "C04", "C10")
@pytest.mark.parametrize("name", ["manifest.jsonl", "parts/part-0002.parquet"])
def test_a_file_cut_anywhere_is_told(name: str, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "whole")
    size = (folder / name).stat().st_size
    flips = Flips()
    for length in range(0, size, size // pick(8, 100)):
        try_damage(folder, tmp_path / "copy", name, partial(os.truncate, length=length), f"cut at {length}", flips)
    try_damage(folder, tmp_path / "copy", name, os.unlink, "removed", flips)
    assert not flips.wrong
    assert flips.told == flips.made


@pytest.mark.fault("C01")
def test_a_journal_cut_at_any_byte_gives_every_whole_line_before_the_cut(tmp_path: Path) -> None:
    disk = Disk(str(tmp_path))
    checkpoint = Checkpoint.open(str(tmp_path / "checkpoint"), NAME, files=disk)
    truth = Truth()
    for number in range(pick(50, 200)):
        key = f"{number:032x}"
        checkpoint.sent(key)
        checkpoint.record(outcome_of(truth.say(key, "answer", number)))
        if number % 7 == 0:
            checkpoint.writer.commit()
    checkpoint.lock.release()
    disk.die()
    path = tmp_path / "checkpoint/journal/0001.jsonl"
    data, job = path.read_bytes(), checkpoint.job.job
    whole = scan(data, job).lines
    for length in range(len(data) + 1):
        held = scan(data[:length], job)
        assert held.lines == whole[: len(held.lines)]
        assert not held.damaged
        assert len(held.lines) == sum(line in (b"o", b"s") for line in kinds(data[:length]))
    for length in range(0, len(data) + 1, max(1, len(data) // pick(25, 2000))):
        cut = tmp_path / "cut"
        shutil.copytree(tmp_path / "checkpoint", cut)
        os.truncate(cut / "journal/0001.jsonl", length)
        answers = kinds(data[:length]).count(b"o")
        assert opens(cut), length
        assert sum(each.what == "answer" for each in read_folder(str(cut))) == answers
        shutil.rmtree(cut)


def kinds(data: bytes) -> list[bytes]:
    """What sort of line each whole line is. Answers alone are long enough to stand packed."""
    return [b"o" if line.startswith(PACKED) else line[6:7] for line in data.split(b"\n")[:-1]]


def test_every_flipped_bit_in_the_kept_keys_means_that_they_are_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "keys.bin"
    keys = Keys(has_ids=True)
    for number in range(5):
        keys.add(str(number), b"question")
    keys.save(Files(), str(path), "the input")
    assert path.stat().st_size == 64 + 5 * KEY_BYTES
    for bit in range(0, path.stat().st_size * 8, pick(7, 1)):
        flip(path, bit)
        assert Keys.load(Files(), str(path), "the input", has_ids=True) is None
        flip(path, bit)
    again = Keys.load(Files(), str(path), "the input", has_ids=True)
    assert again is not None
    assert [again.hex(number) for number in range(5)] == [keys.hex(number) for number in range(5)]
