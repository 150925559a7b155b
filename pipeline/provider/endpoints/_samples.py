"""Several independent answers to one prompt, and what most of them say.

They are drawn one after the other inside of one exchange, so that each is paid for and kept on its own. Only an answer
that is plainly ok has a vote; the others count in the denominator. Where two values have as many votes, the one that
came first wins.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from typing import Any

import orjson

from pipeline.errors import AnswerUnusable, RowRejected
from pipeline.records import ApiCall, ApiReply, Completion, Status, Votes

Answer = tuple[Completion, ApiReply]
Drawn = Sequence[Answer | AnswerUnusable | RowRejected]


def draw(
    count: int, answer: Callable[[int], Generator[ApiCall, ApiReply, Answer]]
) -> Generator[ApiCall, ApiReply, Drawn]:
    """``count`` answers, or why there is none. Raises RowRejected for the first: the others would be refused, too."""
    drawn: list[Answer | AnswerUnusable | RowRejected] = []
    for turn in range(count):
        try:
            drawn.append((yield from answer(turn)))
        except (AnswerUnusable, RowRejected) as error:
            if turn == 0 and isinstance(error, RowRejected):
                raise
            drawn.append(error)
    return drawn


def settled(drawn: Drawn) -> Completion | None:
    """One completion with what most samples say; None when not one of them has a vote."""
    votes = [one[0] for one in drawn if isinstance(one, tuple) and one[0].status is Status.OK]
    if not votes:
        return None
    texts = tuple(one[0].text if isinstance(one, tuple) else None for one in drawn)
    if votes[0].fields is None:
        common, share = _majority([(vote.text or "").strip().casefold() for vote in votes], len(drawn))
        first = next(vote for vote in votes if (vote.text or "").strip().casefold() == common)
        return first._replace(votes=Votes(texts, {"": share}))
    values: dict[str, Any] = {}
    agreement: dict[str, float] = {}
    for name in votes[0].fields:
        common, share = _majority([_as_written(vote, name) for vote in votes], len(drawn))
        values[name] = next(vote.fields[name] for vote in votes if vote.fields and _as_written(vote, name) == common)
        agreement[name] = share
    nearest = max(votes, key=lambda vote: sum((vote.fields or {})[name] == values[name] for name in values))
    return nearest._replace(fields=values, votes=Votes(texts, agreement))


def commonest(drawn: Drawn) -> Answer:
    """Of samples without a vote: the first of the most frequent status. Raises where none came out readable."""
    answers = [one for one in drawn if isinstance(one, tuple)]
    if not answers:
        raise next(one for one in drawn if not isinstance(one, tuple))
    common, _ = _majority([one[0].status for one in answers], len(drawn))
    completion, reply = next(one for one in answers if one[0].status == common)
    texts = tuple(one[0].text if isinstance(one, tuple) else None for one in drawn)
    return completion._replace(votes=Votes(texts, {})), reply


def _as_written(vote: Completion, name: str) -> bytes:
    """To Python True is 1 and 1 is 1.0; as JSON they are three answers."""
    return orjson.dumps((vote.fields or {})[name])


def _majority(values: Iterable[Hashable], of: int) -> tuple[Any, float]:
    counts: dict[Hashable, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    common = max(counts, key=lambda value: counts[value])  # the first among equals
    return common, counts[common] / of
