from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StorageError
from pipeline.storage.files import Files
from pipeline.storage.key_list import KEY_BYTES, KeyList
from pipeline.storage.keys import Keys, make_key
from pipeline.storage.scratch import Scratch
from pipeline.storage.seen import Seen
from tests.descriptors import open_under
from tests.rigs.disk import Disk, Fault


def key(number: int) -> bytes:
    return make_key(str(number), b"", 0)


def wrong_places(keys: KeyList, count: int) -> list[int]:
    """Ordinals that do not hold the key of their number, looked at from both ends in turns."""
    order = [at for pair in zip(range(count), reversed(range(count)), strict=True) for at in pair]
    return [at for at in order if keys.at(at) != key(at)]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 7), st.integers(1, 9))
def test_a_list_is_the_same_wherever_its_keys_lie(kept: int, more: int, held_rows: int, block_rows: int) -> None:
    """In the file of an earlier list, in one without a name, in memory."""
    file = Scratch.new(Files(), None)
    file.append(b"head" + b"".join(map(key, range(kept))))
    keys = KeyList(kept=file, begin=4, held_rows=held_rows)
    for number in range(kept, kept + more):
        keys.append(key(number))
    count = kept + more
    assert len(keys) == count
    assert wrong_places(keys, count) == []
    assert keys.at(count) == b""
    whole = b"".join(map(key, range(count)))
    assert b"".join(keys.blocks(block_rows)) == whole
    frames = list(keys.frames(block_rows))
    assert [at for frame in frames for at in frame["ordinal"]] == list(range(count))
    numbers = [number for frame in frames for number in frame["key"]]
    assert b"".join(number.to_bytes(KEY_BYTES, "little", signed=True) for number in numbers) == whole


@pytest.mark.parametrize("what", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("half_first", [False, True])
def test_a_key_that_the_disk_does_not_take_is_in_the_list_all_the_same(
    what: str, half_first: bool, tmp_path: Path
) -> None:
    """Or rows and keys would fall out of step. What was written of a block is taken back before the next try."""
    faults = [Fault("write", 2, "short"), Fault("write", 3, what)] if half_first else [Fault("write", 2, what)]
    keys = KeyList(str(tmp_path), Disk(str(tmp_path), *faults), held_rows=3)
    refused = 0
    for number in range(20):
        try:
            keys.append(key(number))
        except StorageError:
            refused += 1
        assert len(keys) == number + 1
    assert refused == 1
    assert wrong_places(keys, 20) == []
    assert not list(tmp_path.iterdir())


def test_a_list_that_is_replaced_while_it_is_read_stays_what_it_was(tmp_path: Path) -> None:
    path = str(tmp_path / "keys.bin")
    first, second = Keys(has_ids=True), Keys(has_ids=True)
    for number in range(50):
        first.add(str(number), b"first")
        second.add(str(number), b"second")
    first.save(Files(), path, "first")
    kept = Keys.load(Files(), path, "first", has_ids=True)
    second.save(Files(), path, "second")
    assert kept is not None
    assert [kept.hex(at) for at in range(50)] == [first.hex(at) for at in range(50)]


def test_a_list_of_keys_holds_no_descriptor_longer_than_it_lives(tmp_path: Path) -> None:
    keys = KeyList(str(tmp_path), held_rows=2)
    for number in range(9):
        keys.append(key(number))
    assert len(open_under(tmp_path)) == 1
    del keys
    assert open_under(tmp_path) == []


# -- equal rows without ids


@given(st.lists(st.integers(0, 6), max_size=60), st.integers(1, 8))
def test_equal_questions_are_numbered_as_a_count_would(asked: list[int], held_rows: int) -> None:
    keys = Keys(has_ids=False, held_rows=held_rows)
    counted: Counter[int] = Counter()
    for number in asked:
        told = keys.add(None, b"%d" % number)
        plain = Keys(has_ids=False)
        for _ in range(counted[number]):
            plain.add(None, b"%d" % number)
        assert told == plain.add(None, b"%d" % number)
        counted[number] += 1


def test_numbers_go_on_where_they_were_forgotten_and_where_a_list_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.keys._REMEMBERED", 2)
    questions = [b"%d" % (number * number % 11) for number in range(300)]
    told = [
        make_key(None, digest_of(question), questions[:at].count(question)) for at, question in enumerate(questions)
    ]
    keys = Keys(has_ids=False)
    assert [keys.add(None, question) for question in questions[:200]] == [one.hex() for one in told[:200]]
    keys.save(Files(), str(tmp_path / "keys.bin"), "a")
    kept = Keys.load(Files(), str(tmp_path / "keys.bin"), "a", has_ids=False)
    assert kept is not None
    assert [kept.add(None, question) for question in questions[200:]] == [one.hex() for one in told[200:]]


def digest_of(question: bytes) -> bytes:
    return hashlib.sha256(question).digest()


def test_a_set_of_many_keys_finds_each_and_takes_no_other_for_one() -> None:
    keys = KeyList(held_rows=1_000)
    seen = Seen(keys)
    for number in range(20_000):
        assert key(number) not in seen
        keys.append(key(number))
        seen.add(key(number))
    assert all(key(number) in seen for number in range(20_000))
