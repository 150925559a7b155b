from __future__ import annotations

import asyncio

from pipeline.crew.portion import LEAST, MOST, Portion
from pipeline.crew.words import Block, Made, Wants
from pipeline.records import ApiReply, Row, Usage
from pipeline.storage.keys import KEY_BYTES, Keys

REPLY = ApiReply(200, {}, b"", {}, Usage(), 0.1)


def rows(start: int, count: int) -> list[Row]:
    return [Row(ordinal, f"r{ordinal}", {}) for ordinal in range(start, start + count)]


class Leader:
    """Answers what is asked for, from so many rows."""

    def __init__(self, total: int) -> None:
        self.said: list[object] = []
        self.left = rows(0, total)
        self.now = 0.0
        self.portion = Portion(self.hear, lambda: self.now)

    def hear(self, message: object) -> None:
        self.said.append(message)
        if isinstance(message, Wants):
            block, self.left = self.left[: message.rows], self.left[message.rows :]
            self.portion.take(Block(block))

    @property
    def asked(self) -> list[int]:
        return [message.rows for message in self.said if isinstance(message, Wants)]

    @property
    def made(self) -> list[Made]:
        return [message for message in self.said if isinstance(message, Made)]


async def test_all_rows_come_in_order_and_then_none() -> None:
    leader = Leader(100)
    drawn = []
    while (row := await leader.portion.draw()) is not None:
        drawn.append(row.ordinal)
    assert drawn == list(range(100))
    assert await leader.portion.draw() is None


async def test_who_draws_slowly_holds_few_rows_and_who_draws_fast_asks_for_many() -> None:
    leader = Leader(100_000)
    for _ in range(64):  # all workers at once, which tells nothing
        await leader.portion.draw()
    assert set(leader.asked) == {LEAST}
    for _ in range(50):
        leader.now += 10.0
        await leader.portion.draw()
    assert set(leader.asked) == {LEAST}
    for _ in range(4_000):
        leader.now += 1 / 3000
        await leader.portion.draw()
    assert leader.asked[-1] == MOST


async def test_a_worker_that_waits_for_rows_can_be_sent_away() -> None:
    portion = Portion(lambda message: None)
    waiting = asyncio.ensure_future(portion.draw())
    await asyncio.sleep(0)
    portion.give_up()
    assert await waiting is None


async def test_keys_are_made_here_and_go_back_a_block_at_a_time() -> None:
    leader = Leader(LEAST)
    drawn = [await leader.portion.draw() for _ in range(LEAST)]
    expected = Keys(has_ids=True)
    for row in reversed(drawn):  # workers render in no order
        assert row is not None
        assert not leader.made
        key = leader.portion.key_of(row, b"question %d" % row.ordinal)
        assert leader.portion.hex(row.ordinal) == key
    for row in drawn:
        assert row is not None
        expected.add(row.id, b"question %d" % row.ordinal)
    (made,) = leader.made
    assert made.start == 0
    theirs = Keys(has_ids=True)
    theirs.extend(made.keys)
    assert theirs.digest() == expected.digest()


async def test_at_the_end_the_keys_of_a_block_that_was_begun_go_back_and_zeros_for_the_rest() -> None:
    leader = Leader(LEAST)
    first = await leader.portion.draw()
    assert first is not None
    key = leader.portion.key_of(first, b"question")
    await leader.portion.close()
    (made,) = leader.made
    assert made.keys == bytes.fromhex(key) + bytes((LEAST - 1) * KEY_BYTES)
    assert await leader.portion.draw() is not None, "what is in hand is still drawn: whoever stops draws nothing"


async def test_what_is_known_of_a_row_is_known_until_it_has_ended() -> None:
    portion = Portion(lambda message: None)
    some = rows(5, 2)
    portion.take(Block(some, ["aa", "bb"], frozenset({5}), frozenset({6}), {"aa": [REPLY]}))
    assert portion.key_of(some[0], b"not asked") == "aa"
    assert portion.again(5) and not portion.again(6)
    assert portion.renews(6) and not portion.renews(5)
    assert portion.kept["aa"] == (REPLY,)
    for row in some:
        portion.forget(row)
    assert (portion.hex(5), portion.again(5), portion.renews(6), portion.kept) == ("", False, False, {})
