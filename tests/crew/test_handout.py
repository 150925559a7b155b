from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest

from pipeline.crew.handout import NO_KEY, Handout
from pipeline.crew.words import Made
from pipeline.records import Row
from pipeline.runlog import RunLog
from pipeline.stop import Stop
from pipeline.storage.keys import KEY_BYTES, Keys
from pipeline.work import INPUT_CHANGED, Work

ROWS = 40


class Source:
    def rows(self, used: Sequence[str], start: int = 0) -> Iterator[list[Row]]:
        for first in range(start - start % 7, ROWS, 7):
            yield [Row(place, f"r{place}", {}) for place in range(max(first, start), min(first + 7, ROWS))]


class StubJob:
    used = ("text",)
    source = Source()

    def asked(self, row: Row) -> bytes:
        return b"question %d" % row.ordinal


def whole() -> Keys:
    keys = Keys(has_ids=True)
    for place in range(ROWS):
        keys.add(f"r{place}", b"question %d" % place)
    return keys


def part(start: int, count: int, left_out: Sequence[int] = ()) -> Made:
    keys = [bytes.fromhex(whole().hex(place)) for place in range(start, start + count)]
    return Made(start, b"".join(NO_KEY if start + at in left_out else key for at, key in enumerate(keys)))


def handout(keys: Keys, work: Work | None = None, *, makes_keys: bool = True) -> Handout:
    work = work or Work(ROWS, 0, 0, ROWS, 0, None)
    return Handout(cast(Any, StubJob()), keys, work, RunLog(None, "r"), Stop(), makes_keys=makes_keys)


async def test_blocks_are_of_rows_that_follow_each_other_until_there_are_none() -> None:
    out = handout(Keys(has_ids=True))
    blocks = [await out.block(15) for _ in range(4)]
    assert [[row.ordinal for row in block.rows] for block in blocks] == [
        list(range(15)),
        list(range(15, 30)),
        list(range(30, 40)),
        [],
    ]
    assert out.drawn
    assert {block.keys for block in blocks} == {None}
    await out.close()


async def test_keys_are_listed_in_order_whoever_is_first() -> None:
    keys = Keys(has_ids=True)
    out = handout(keys)
    while (await out.block(10)).rows:
        pass
    out.made(part(10, 10))
    assert len(keys) == 0
    out.made(part(0, 10))
    assert len(keys) == 20
    out.made(part(30, 10))
    out.made(part(20, 10))
    assert keys.digest() == whole().digest()
    await out.close()


@pytest.mark.parametrize("back", [[part(10, 10)], [part(0, 10, [3, 4]), part(20, 10, [29])], []])
async def test_what_hands_did_not_give_back_is_made_up_for(back: list[Made]) -> None:
    keys = Keys(has_ids=True)
    out = handout(keys)
    for _ in range(3):
        await out.block(10)
    for made in back:
        out.made(made)
    out.make_up()
    assert [keys.hex(place) for place in range(len(keys))] == [whole().hex(place) for place in range(30)]
    await out.close()


async def test_of_an_input_that_was_edited_no_key_is_made() -> None:
    keys = Keys(has_ids=True)
    out = handout(keys, Work(ROWS, 0, 0, ROWS, 0, None, changed=lambda: bool(keys.hex(9))))
    await out.block(20)
    out.made(part(0, 10))
    out.make_up()
    assert len(keys) * KEY_BYTES == 10 * KEY_BYTES
    await out.close()


async def test_a_listed_row_comes_with_its_key_and_what_is_known_of_it() -> None:
    keys = whole()
    work = Work(
        *(ROWS, 0, 0, 2, 0, lambda ordinal: ordinal in (3, 5)),
        again=lambda ordinal: ordinal == 3,
        renews=lambda ordinal: ordinal == 5,
        kept={keys.hex(5): ["reply"]},  # type: ignore[list-item]
    )
    out = handout(keys, work, makes_keys=False)
    block = await out.block(10)
    assert [row.ordinal for row in block.rows] == [3, 5]
    assert block.keys == [keys.hex(3), keys.hex(5)]
    assert (set(block.again), set(block.renews), list(block.kept)) == ({3}, {5}, [keys.hex(5)])
    await out.close()


async def test_a_row_beyond_the_list_is_of_another_input() -> None:
    keys = Keys(has_ids=True)
    keys.extend(part(0, 10).keys)
    out = handout(keys, makes_keys=False)
    assert not (await out.block(20)).rows
    assert str(out._stop.reason) == INPUT_CHANGED
    await out.close()
