"""What the processes of one run tell each other. All of it is pickled, and goes between processes of ours alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import PipelineError
from pipeline.ledger import Totals
from pipeline.records import ApiReply, Row
from pipeline.share import Need, Share
from pipeline.spec import JobSpec
from pipeline.work import Counts

# -- from the one that leads -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """What a hand must know before its first row."""

    spec: JobSpec  # as it was read, with this hand's part of the concurrency
    key: str | None
    lane: int  # from 0
    lanes: int
    first_segment: int  # of lane 0
    run: str  # the run's name in the log
    before: Totals  # of all earlier runs
    fresh: bool  # the folder holds no answer yet, and who answers is not settled
    alone: bool  # its first request is the first of the run
    drain_s: float
    shares: Mapping[str, Share]
    unfetched: Mapping[str, str]  # texts whose links are to be fetched first


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows to ask about; none: there are no more. ``keys`` is None where the hand makes them."""

    rows: Sequence[Row]
    keys: Sequence[str] | None = None
    again: frozenset[int] = frozenset()  # ordinals of rows that had failed before
    renews: frozenset[int] = frozenset()  # ... whose answer has expired
    kept: Mapping[str, Sequence[ApiReply]] = field(default_factory=dict)  # replies paid for before, by row key


@dataclass(frozen=True, slots=True)
class Halt:
    """Draw nothing new, wait for what is paid for; ``hurry``: not even that."""

    reason: Reason
    hurry: bool = False


@dataclass(frozen=True, slots=True)
class KeepTo:
    """The hand's share of each configured limit from now on; it says ``Kept`` when it does."""

    shares: Mapping[str, Share]
    turn: int


# -- from a hand -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wants:
    """So many rows more."""

    rows: int


@dataclass(frozen=True, slots=True)
class Made:
    """Keys that the hand has made, 16 bytes each, of the rows from ``start`` on; zeros where it has made none."""

    start: int
    keys: bytes


@dataclass(frozen=True, slots=True)
class Going:
    """A first row has come out well: the others may begin."""


@dataclass(frozen=True, slots=True)
class Kept:
    turn: int


@dataclass(frozen=True, slots=True)
class Pulse:
    """How a hand stands. Counts are of its whole life."""

    counts: Counts = field(default_factory=Counts)
    spent: Totals = field(default_factory=Totals)
    acknowledged: int = 0
    in_flight: int = 0
    slowest: Sequence[Mapping[str, object]] = ()
    limits: Mapping[str, float | None] = field(default_factory=dict)
    needs: Mapping[str, Need] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Said:
    """A line for the run's log."""

    level: str
    event: str
    aloud: Mapping[str, Any] | None
    members: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the whole run should stop: an error, in parts that every process can put together again."""

    kind: type[PipelineError]
    arguments: tuple[Any, ...]
    members: Mapping[str, Any]

    @classmethod
    def of(cls, error: PipelineError) -> Reason:
        return cls(type(error), error.args, dict(vars(error)))

    def error(self) -> PipelineError:
        # Not by its constructor, which may ask for more than the message.
        made = self.kind.__new__(self.kind, *self.arguments)
        made.args = self.arguments
        vars(made).update(self.members)
        return made


@dataclass(frozen=True, slots=True)
class Ended:
    """The last word. ``exhausted``: for want of rows, with nothing left undone."""

    exhausted: bool
