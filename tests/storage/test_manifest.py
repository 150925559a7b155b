from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.storage import manifest
from pipeline.storage.files import Files
from pipeline.storage.journal import Segment
from pipeline.storage.manifest import Listing, Manifest, Part, dropped_line, part_line
from tests.rigs.disk import Disk, Fault

JOB = "0011223344556677"
ONE = Part(1, "part-0001.parquet", 10, 100, "aa")
TWO = Part(2, "part-0002.parquet", 20, 200, "bb")


def lines(*parts: Part) -> bytes:
    return b"".join(part_line(part, JOB) for part in parts)


def read(data: bytes) -> Listing:
    return manifest.read(data, JOB)


def test_parts_come_back_as_they_were_listed() -> None:
    assert read(lines(ONE, TWO)).parts == {1: ONE, 2: TWO}


def test_the_last_line_of_a_segment_counts() -> None:
    again = Part(1, "part-0001.parquet", 11, 110, "cc")
    assert read(lines(ONE, TWO, again)).parts == {1: again, 2: TWO}
    given_up = read(lines(ONE, TWO) + dropped_line(1, JOB))
    assert (given_up.parts, given_up.dropped) == ({2: TWO}, frozenset({1}))
    back = read(lines(ONE) + dropped_line(1, JOB) + lines(ONE))
    assert (back.parts, back.dropped) == ({1: ONE}, frozenset())


@pytest.mark.fault("C10")
def test_a_bad_last_line_is_torn_and_a_bad_line_before_a_good_one_is_damage() -> None:
    first, second = lines(ONE), lines(TWO)
    torn = read(first + second[:-5])
    assert (torn.parts, torn.damaged, torn.good_size) == ({1: ONE}, 0, len(first))
    hurt = read(first.replace(b"100", b"101") + second)
    assert (hurt.parts, hurt.damaged) == ({2: TWO}, 1)


def test_the_lines_of_another_job_are_none_of_ours() -> None:
    assert manifest.read(lines(ONE), "another").parts == {}


def test_the_header_of_a_removed_segment_in_an_old_block_is_no_part(tmp_path: Path) -> None:
    segment = Segment(Files(), str(tmp_path / "0001.jsonl"), JOB, 1)
    header = Files().read(segment.path)
    assert read(lines(ONE) + header).parts == {1: ONE}


def test_opening_cuts_a_torn_last_line_off(tmp_path: Path) -> None:
    (tmp_path / manifest.NAME).write_bytes(lines(ONE) + lines(TWO)[:-5])
    index = Manifest(Disk(str(tmp_path)), str(tmp_path), JOB)
    index.add(part_line(TWO, JOB))
    assert (tmp_path / manifest.NAME).read_bytes() == lines(ONE, TWO)


@pytest.mark.parametrize("fault", [Fault("write", 1, "ENOSPC"), Fault("write", 1, "EIO")])
def test_a_line_that_cannot_be_added_leaves_no_trace(fault: Fault, tmp_path: Path) -> None:
    index = Manifest(Disk(str(tmp_path), fault), str(tmp_path), JOB)
    with pytest.raises(OSError):
        index.add(part_line(ONE, JOB))
    index.add(part_line(TWO, JOB))
    assert read((tmp_path / manifest.NAME).read_bytes()) == Listing({2: TWO}, frozenset(), 0, len(lines(TWO)))


def test_a_line_is_durable_when_it_is_added(tmp_path: Path) -> None:
    disk = Disk(str(tmp_path))
    Manifest(disk, str(tmp_path), JOB).add(part_line(ONE, JOB))
    assert [op.kind for op in disk.ops][-2:] == ["write", "sync"]


def test_rewriting_keeps_what_is_listed_and_what_is_given_up(tmp_path: Path) -> None:
    listing = read(lines(ONE, TWO) + dropped_line(3, JOB))
    manifest.rewrite(Files(), str(tmp_path), JOB, listing)
    again = read((tmp_path / manifest.NAME).read_bytes())
    assert (again.parts, again.dropped, again.damaged) == (listing.parts, listing.dropped, 0)


def test_a_fault_of_a_part_is_told_in_words() -> None:
    assert ONE.fault((100, "aa")) is None
    assert ONE.fault(None) == "part-0001.parquet is missing (10 records)"
    assert "99 bytes instead of 100" in (ONE.fault((99, "aa")) or "")
    assert "SHA-256" in (ONE.fault((100, "ab")) or "")
