from __future__ import annotations

import os
from copy import copy
from pathlib import Path

import pytest

from pipeline.storage import journal
from pipeline.storage.files import Files
from pipeline.storage.journal import (
    Scan,
    Segment,
    body_of,
    checked,
    job_seed,
    line_of,
    lines_of,
    mended,
    scan,
    segment_name,
    segment_number,
)
from pipeline.storage.packing import PACKED, Packer
from tests.descriptors import open_under
from tests.rigs.disk import Disk, Fault

JOB = "0011223344556677"


def record(number: int, text: str = "") -> bytes:
    return body_of({"e": "o", "k": f"{number:032x}", "t": text})


def segment(folder: Path, *faults: Fault) -> Segment:
    return Segment(Disk(str(folder), *faults), str(folder / "0001.jsonl"), JOB, 1)


def put(segment: Segment, *records: bytes) -> None:
    segment.append(lines_of(records, segment.seed, Packer()), records)


def on_disk(segment: Segment) -> bytes:
    return Files().read(segment.path)


def bodies(data: bytes, job: str = JOB) -> list[bytes]:
    return [line[:-1] for line in scan(data, job).lines]


def test_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    log = segment(tmp_path)
    written = [record(number, text) for number, text in enumerate(["", "a\nb", '{"e":"o","k":"x"}', "\u2028\0é"])]
    put(log, *written)
    assert bodies(on_disk(log)) == written
    assert scan(on_disk(log), JOB).tail == b""


def test_a_line_is_good_under_its_own_seed_only() -> None:
    line = line_of(b'{"e":"o"', 7)[:-1]
    assert checked(line, 7)
    assert not checked(line, 8)
    assert not checked(line.replace(b"o", b"p"), 7)
    assert not checked(b"", 7)


def test_two_segments_never_share_a_salt(tmp_path: Path) -> None:
    first, second = (Segment(Files(), str(tmp_path / segment_name(number)), JOB, number) for number in (1, 2))
    put(first, record(1))
    put(second, record(2))
    mixed = on_disk(second) + on_disk(first)
    assert bodies(mixed) == [record(2)]


@pytest.mark.fault("C11")
def test_a_segment_of_another_job_holds_nothing_of_ours(tmp_path: Path) -> None:
    log = segment(tmp_path)
    put(log, record(1))
    log.sync()
    log.note_synced()
    held = scan(on_disk(log), "another job")
    assert held.lines == []
    assert held.damaged


@pytest.mark.fault("C01")
def test_a_line_without_its_newline_was_cut(tmp_path: Path) -> None:
    log = segment(tmp_path)
    put(log, record(1), record(2))
    held = scan(on_disk(log)[:-1], JOB)
    assert len(held.lines) == 1
    assert held.tail.startswith(b'{"e":"o"')
    assert not held.damaged


@pytest.mark.fault("C02")
def test_a_bad_line_is_damage_when_a_sync_had_confirmed_it_and_a_torn_one_else(tmp_path: Path) -> None:
    log = segment(tmp_path)
    put(log, record(1, "first"))
    log.sync()
    log.note_synced()
    put(log, record(2, "second"))
    assert scan(on_disk(log).replace(b"first", b"fjrst"), JOB).damaged == 1
    torn = scan(on_disk(log).replace(b"second", b"sec\0nd"), JOB)
    assert (torn.damaged, len(torn.lines)) == (0, 1)


@pytest.mark.parametrize("first", [10, 300])
@pytest.mark.parametrize("second", [10, 300])
def test_a_lost_newline_costs_neither_of_the_lines_it_parted(first: int, second: int, tmp_path: Path) -> None:
    """The longer ones stand packed."""
    log = segment(tmp_path)
    put(log, record(1, "a " * first), record(2, "b " * second))
    assert (PACKED in on_disk(log)) == (max(first, second) == 300)
    log.sync()
    log.note_synced()
    data = on_disk(log)
    for at in [at for at, byte in enumerate(data) if byte == 10][:-1]:
        held = scan(data[:at] + b"?" + data[at + 1 :], JOB)
        assert len(held.lines) == 2
        assert held.damaged


def test_a_lost_header_does_not_take_its_lines_with_it(tmp_path: Path) -> None:
    log = segment(tmp_path)
    put(log, record(1))
    log.sync()
    log.note_synced()
    put(log, record(2))
    held = scan(on_disk(log).replace(b'"salt":"', b'"sqlt":"'), JOB)
    assert len(held.lines) == 2
    assert held.damaged == 1


def test_a_header_cut_off_at_birth_is_no_damage(tmp_path: Path) -> None:
    data = on_disk(segment(tmp_path))
    for length in range(len(data) + 1):
        held = scan(data[:length], JOB)
        assert (held.lines, held.damaged) == ([], 0)


@pytest.mark.fault("P06")
def test_a_short_write_is_cut_back_before_anything_follows_it(tmp_path: Path) -> None:
    log = segment(tmp_path, Fault("write", 2, "short"))
    with pytest.raises(OSError, match="could be written"):
        put(log, record(1))
    assert os.path.getsize(log.path) == log.size
    put(log, record(2))
    assert bodies(on_disk(log)) == [record(2)]


def test_what_could_not_be_cut_back_is_cut_back_before_the_next_line(tmp_path: Path) -> None:
    log = segment(tmp_path, Fault("write", 2, "short"), Fault("truncate", 1, "EIO"))
    with pytest.raises(OSError):
        put(log, record(1))
    assert os.path.getsize(log.path) > log.size
    put(log, record(2))
    assert bodies(on_disk(log)) == [record(2)]
    assert scan(on_disk(log), JOB).tail == b""


@pytest.mark.parametrize("fault", [Fault("write", 1, "ENOSPC"), Fault("datasync", 1, "EIO"), Fault("fsync", 1, "EIO")])
def test_a_segment_that_cannot_begin_leaves_no_descriptor(fault: Fault, tmp_path: Path) -> None:
    with pytest.raises(OSError):
        segment(tmp_path, fault)
    assert open_under(tmp_path) == []


def test_a_mended_segment_holds_the_good_lines_alone(tmp_path: Path) -> None:
    log = segment(tmp_path)
    put(log, record(1), record(2, "two"), record(3))
    log.sync()
    log.note_synced()
    held = scan(on_disk(log).replace(b"two", b"tvo"), JOB)
    whole = mended(held, JOB, 1)
    assert bodies(whole) == [record(1), record(3)]
    assert (scan(whole, JOB).damaged, scan(whole, JOB).tail, scan(whole, JOB).synced > 0) == (0, b"", True)


@pytest.mark.fault("C06")
def test_only_our_own_names_are_segments() -> None:
    assert segment_number(segment_name(12345)) == 12345
    assert [segment_number(name) for name in ("a.jsonl", "0001.jsonl.tmp", ".jsonl", "1.txt", "-1.jsonl")] == [None] * 5
    assert job_seed("a") != job_seed("b")


# -- what a writer remembers of its file -------------------------------------------------------------------------------


@pytest.fixture
def taken_apart(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time a file was."""
    seen: list[int] = []

    def spy(data: bytes, job: str) -> Scan:
        seen.append(len(data))
        return scan(data, job)

    monkeypatch.setattr(journal, "scan", spy)
    return seen


def test_a_file_as_it_was_written_is_not_taken_apart(tmp_path: Path, taken_apart: list[int]) -> None:
    log = segment(tmp_path)
    log.append(line_of(b'{"e":"s","k":"mark"', log.seed))
    put(log, record(1), record(2, "a " * 300))
    log.sync()
    log.note_synced()
    put(log, record(3))
    assert log.held().lines == [line + b"}" for line in (record(1), record(2, "a " * 300), record(3))]
    assert not taken_apart


def test_a_changed_byte_is_seen_whatever_is_remembered(tmp_path: Path) -> None:
    log = segment(tmp_path)
    put(log, record(1), record(2, "a " * 300))
    log.sync()
    log.note_synced()
    whole = on_disk(log)
    for at in range(len(whole)):
        Path(log.path).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        held = copy(log).held()
        assert held == scan(on_disk(log), JOB)
        assert held.damaged or held.tail  # the last line, a sync note, was never acknowledged itself


def test_a_record_whose_writing_was_broken_into_is_found_in_the_file(tmp_path: Path, taken_apart: list[int]) -> None:
    log = segment(tmp_path)
    put(log, record(1))
    line = line_of(record(2), log.seed)
    log.files.write(log.fd, line)  # ... and then an exception struck, before anyone took note
    assert len(log.held().lines) == 2
    assert len(taken_apart) == 1


def test_a_file_cut_back_to_what_was_durable_is_read_anew(tmp_path: Path) -> None:
    log = segment(tmp_path)
    put(log, record(1))
    log.sync()
    put(log, record(2))
    log.give_up()
    assert log.held().lines == [record(1) + b"}"]


@pytest.mark.parametrize("limit", ["REMEMBERED_BYTES", "REMEMBERED_RECORDS"])
def test_a_long_segment_is_not_remembered(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken_apart: list[int]
) -> None:
    monkeypatch.setattr(journal, limit, 15)
    log = segment(tmp_path)
    for number in range(20):
        put(log, record(number))
    assert len(log.held().lines) == 20
    assert len(taken_apart) == 1


def test_what_was_remembered_is_given_away_once(tmp_path: Path, taken_apart: list[int]) -> None:
    """The writer lives on while the tables are made."""
    log = segment(tmp_path)
    put(log, record(1))
    assert [len(log.held().lines) for _ in range(2)] == [1, 1]
    assert len(taken_apart) == 1
