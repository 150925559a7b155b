from __future__ import annotations

from pathlib import Path
from random import Random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.files import Files
from pipeline.storage.keys import KEY_BYTES, Keys, as_number
from tests.rigs.disk import Disk, Fault
from tests.rigs.edits import asked_again, keys_of, wrong_costs


@given(st.integers())
def test_an_edit_costs_the_rows_it_touches_and_undoing_it_nothing(seed: int) -> None:
    assert wrong_costs(seed) == []


@given(st.lists(st.tuples(st.text(), st.text()), unique_by=lambda row: row[0], max_size=8))
def test_with_ids_every_row_has_a_key_of_its_own(table: list[tuple[str, str]]) -> None:
    assert len(set(keys_of(table))) == len(table)


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=12), st.booleans(), st.randoms())
def test_a_list_holds_the_questions_it_was_made_of_and_no_other(
    asked: list[str], has_ids: bool, chance: Random
) -> None:
    """In whatever order they are held against it."""
    keys = Keys(has_ids=has_ids)
    ids = [str(place) if has_ids else None for place in range(len(asked))]
    for row_id, question in zip(ids, asked, strict=True):
        keys.add(row_id, question.encode())
    places = list(range(len(asked)))
    chance.shuffle(places)
    for place in places:
        for question in "abcd":
            assert keys.holds(place, ids[place], question.encode()) is (question == asked[place])


def test_the_same_question_under_another_id_is_another_row() -> None:
    assert asked_again([("a", "q")], [("b", "q")]) == 1
    assert asked_again([("a", "q"), ("b", "q")], [("b", "q"), ("a", "q")]) == 0
    assert asked_again([("", "q")], [(None, "q")]) == 1


def test_an_id_cannot_pass_for_another_id_and_question() -> None:
    """Lengths are part of what is hashed: 1 + 11 is not 11 + 1."""
    assert len({*keys_of([("1", "1q"), ("11", "q")]), *keys_of([("1:", "q"), ("1", ":q")])}) == 4


def shared_keys(*rows: tuple[str | None, str]) -> Keys:
    keys = Keys(has_ids=rows[0][0] is not None, dedupe=True)
    for row_id, question in rows:
        keys.add(row_id, question.encode())
    return keys


def test_where_equal_requests_are_asked_once_neither_id_nor_place_is_in_the_key() -> None:
    rows = ["q", "p", "q", "q", "p", "r"]
    named = shared_keys(*((str(place), question) for place, question in enumerate(rows)))
    assert [named.hex(place) for place in range(6)] == [shared_keys((None, question)).hex(0) for question in rows]
    assert named.frame()["copy"].to_list() == [False, False, True, True, True, False]
    # So a table without ids keeps the answers of its first rows when copies are no longer asked, or are again.
    assert shared_keys((None, "q")).hex(0) == keys_of([(None, "q")])[0]
    assert Keys(has_ids=True, dedupe=True).frame().columns == ["ordinal", "key", "copy"]
    assert "copy" not in Keys(has_ids=True).frame().columns


def test_a_key_is_the_same_in_every_process_and_version() -> None:
    """A change here buys every row of every job again."""
    assert keys_of([("a", "question")]) == ["8a4736d7a6852009e4ef161120e48f4b"]
    assert keys_of([(None, "question")] * 2) == ["0e88a7d4d391572051887014211ab133", "7a83752f93be6264e35ce895d136c209"]


def test_the_frame_holds_the_keys_in_order_as_the_numbers_of_a_part(tmp_path: Path) -> None:
    keys = Keys(has_ids=False)
    hexes = [keys.add(None, b"q%d" % (number % 3)) for number in range(7)]
    frame = keys.frame()
    assert frame["ordinal"].to_list() == list(range(7))
    part = pl.DataFrame({"key": [bytes.fromhex(each) for each in hexes]}).select(as_number())
    assert frame["key"].equals(part["key"])
    assert [keys.hex(number) for number in range(7)] == hexes
    assert len(keys) == 7
    assert Keys(has_ids=True).frame().schema == frame.schema


def test_a_kept_list_is_for_its_own_input_and_question(tmp_path: Path) -> None:
    path = str(tmp_path / "keys.bin")
    keys = Keys(has_ids=False)
    keys.add(None, b"q")
    assert Keys.load(Files(), path, "this", has_ids=False) is None
    keys.save(Files(), path, "this")
    kept = Keys.load(Files(), path, "this", has_ids=False)
    assert kept is not None
    assert (len(kept), kept.hex(0)) == (1, keys.hex(0))
    assert Keys.load(Files(), path, "that", has_ids=False) is None


@pytest.mark.parametrize("length", [0, 10, 63, 64, 64 + KEY_BYTES - 1])
def test_a_list_that_is_not_whole_is_made_anew(length: int, tmp_path: Path) -> None:
    path = tmp_path / "keys.bin"
    keys = Keys(has_ids=False)
    keys.add(None, b"q")
    keys.save(Files(), str(path), "this")
    path.write_bytes(path.read_bytes()[:length])
    assert Keys.load(Files(), str(path), "this", has_ids=False) is None


def test_a_list_that_cannot_be_kept_leaves_the_old_one(tmp_path: Path) -> None:
    path = str(tmp_path / "keys.bin")
    keys = Keys(has_ids=False)
    keys.save(Files(), path, "this")
    keys.add(None, b"q")
    with pytest.raises(OSError):
        keys.save(Disk(str(tmp_path), Fault("write", 2, "ENOSPC")), path, "this")
    kept = Keys.load(Files(), path, "this", has_ids=False)
    assert kept is not None
    assert len(kept) == 0


def test_keys_that_were_made_elsewhere_are_the_same_list() -> None:
    here, there = Keys(has_ids=True), Keys(has_ids=True)
    made = [bytes.fromhex(here.add(f"r{place}", b"question %d" % place)) for place in range(10)]
    for start, end in ((0, 3), (3, 6), (6, 10)):
        there.extend(b"".join(made[start:end]))
    assert len(there) == 10
    assert there.digest() == here.digest()
