from __future__ import annotations

import asyncio
import pickle
import socket

import pytest

from pipeline import errors
from pipeline.crew.line import Line
from pipeline.crew.words import Block, Reason
from pipeline.errors import PipelineError, ProviderError, RunBlocked
from pipeline.records import Billed, Row, Usage
from pipeline.stop import Interrupted


async def pair() -> tuple[Line, Line]:
    ours, theirs = socket.socketpair()
    return await Line.over(ours), await Line.over(theirs)


async def test_messages_arrive_whole_and_in_order() -> None:
    ours, theirs = await pair()
    big = Block([Row(place, f"r{place}", {"text": "x" * 5_000}) for place in range(500)])
    sent = ["first", big, "last"]
    for message in sent:
        ours.send(message)
    assert [await theirs.receive() for _ in sent] == sent
    ours.close()
    theirs.close()


async def test_the_end_of_the_other_process_is_the_end_of_the_line() -> None:
    ours, theirs = await pair()
    theirs.send("the last word")
    theirs.close()
    assert await ours.receive() == "the last word"
    assert await ours.receive() is None
    assert not ours.open
    ours.send("to nobody")
    ours.close()


async def test_a_message_that_was_cut_off_is_none() -> None:
    ours, theirs = socket.socketpair()
    line = await Line.over(ours)
    theirs.sendall(b"\0\0\1\0half a message")
    theirs.close()
    assert await line.receive() is None
    line.close()


async def test_the_last_words_are_heard_whatever_the_other_end_says_meanwhile() -> None:
    ours, theirs = await pair()
    theirs.send("the last word")
    ending = asyncio.ensure_future(theirs.finish())
    await asyncio.sleep(0)
    ours.send(b"not heard" * 500_000)
    assert await ours.receive() == "the last word"
    assert await ours.receive() is None
    assert not ending.done()
    ours.close()
    await asyncio.wait_for(ending, 60)
    theirs.close()


async def test_nobody_waits_for_an_end_that_is_gone() -> None:
    ours, theirs = await pair()
    ours.close()
    await asyncio.wait_for(theirs.finish(), 60)
    theirs.send("to nobody")
    await asyncio.wait_for(theirs.finish(), 60)
    theirs.close()


def every_error() -> list[PipelineError]:
    plain: list[PipelineError] = []
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, PipelineError):
            if issubclass(kind, ProviderError):
                plain.append(kind("why", kind="k", billed=Billed.MAYBE, status=402, usage=Usage(1, 2), raw="r"))
            else:
                plain.append(kind("why"))
    return [*plain, Interrupted("why")]


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_a_reason_to_stop_is_the_same_in_every_process(error: PipelineError) -> None:
    again = pickle.loads(pickle.dumps(Reason.of(error))).error()
    assert type(again) is type(error)
    assert (str(again), again.exit_code, again.quotes) == (str(error), error.exit_code, error.quotes)
    assert vars(again) == vars(error)
    if isinstance(error, RunBlocked):
        assert isinstance(again, RunBlocked)
        assert (again.kind, again.billed, again.status) == ("k", Billed.MAYBE, 402)
