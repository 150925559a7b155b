from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from pipeline.crew.captain import Crew
from pipeline.crew.mate import Mate
from pipeline.crew.words import Block
from pipeline.errors import StorageError
from pipeline.stop import Stop


class Log:
    def __init__(self) -> None:
        self.events: list[str] = []

    def error(self, event: str, *_: object) -> None:
        self.events.append(event)


class Hand:
    def __init__(self) -> None:
        self.got: list[object] = []

    def send(self, message: object) -> None:
        self.got.append(message)


def asked(block: Callable[[], Block]) -> tuple[Stop, Log, Hand]:
    """A leader that is asked for rows, and what there is of them."""
    crew = cast(Any, Crew.__new__(Crew))
    crew.stop, crew.log = Stop(), Log()

    class Handout:
        async def block(self, most: int) -> Block:
            return block()

    crew._handout = Handout()
    hand = Hand()
    answer = Crew._answer(crew, cast(Mate, hand), 8)
    with pytest.raises(StopIteration):
        answer.send(None)
    return crew.stop, crew.log, hand


def test_rows_go_to_the_hand_that_asked() -> None:
    stop, _, hand = asked(lambda: Block(()))
    assert (stop.reason, hand.got) == (None, [Block(())])


def test_keys_that_cannot_be_read_end_the_run_instead_of_leaving_a_hand_waiting() -> None:
    def broken() -> Block:
        raise StorageError("the list of keys cannot be read")

    stop, log, hand = asked(broken)
    assert isinstance(stop.reason, StorageError)
    assert (log.events, hand.got) == ([], [])


def test_so_does_a_fault_of_ours() -> None:
    def broken() -> Block:
        raise KeyError("a bug")

    stop, log, _ = asked(broken)
    assert "a fault of this tool" in str(stop.reason)
    assert log.events == ["fault_of_ours"]
