"""What a run has to send, what came of it so far, and the words for why it ends early."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.errors import PipelineError, ProviderError, RunPaused
from pipeline.records import ApiReply, Outcome, Row

INPUT_CHANGED = "the input changed during the run; the answers are kept, run the same command again"


@dataclass(slots=True)
class Counts:
    """Outcomes of this process."""

    answered: int = 0
    failed: int = 0
    not_renewed: int = 0  # of the failed: the row keeps the answer that it had
    statuses: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)  # of failures

    @property
    def ended(self) -> int:
        return self.answered + self.failed

    def add(self, outcome: Outcome) -> None:
        status = outcome.status.value
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if outcome.answered:
            self.answered += 1
        else:
            self.failed += 1
            self.not_renewed += outcome.renewed
            kind = str(outcome.kind or status)
            self.kinds[kind] = self.kinds.get(kind, 0) + 1


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be sent. ``wanted`` is None when every row is (a fresh job); ``again``: it had failed before."""

    rows: int
    done_before: int
    failed_before: int
    to_send: int
    start: int  # the first ordinal that may be wanted
    wanted: Callable[[int], bool] | None
    again: Callable[[int], bool] = lambda ordinal: False
    changed: Callable[[], object] = lambda: False  # the input is not what was planned with
    fresh: bool = True  # the folder holds no answer yet
    kept: Mapping[str, Sequence[ApiReply]] = field(default_factory=dict)  # replies paid for by an earlier run
    renews: Callable[[int], bool] = lambda ordinal: False  # the row has an answer, which has expired
    statuses: Mapping[str, int] = field(default_factory=dict)  # of the rows that are not sent
    kinds: Mapping[str, int] = field(default_factory=dict)  # of those among them that had failed
    copies: int = 0  # rows that share the request of another; not among ``rows``
    unfetched: Mapping[str, str] = field(default_factory=dict)  # texts whose links an earlier run did not come to


class Rows(Protocol):
    """Where the workers draw from."""

    async def draw(self) -> Row | None: ...

    def give_up(self) -> None: ...

    async def close(self) -> None: ...


def unchanged(batches: Iterator[list[Row]], changed: Callable[[], object]) -> Iterator[list[Row]]:
    """The same batches. Keys were listed before: rows of a file that was edited since would get those of others.
    Raises RunPaused."""
    for batch in batches:
        if changed():
            raise RunPaused(INPUT_CHANGED)
        yield batch


def words(reason: PipelineError | None) -> dict[str, Any]:
    """Members of a log line that say why a run ends."""
    said = {} if reason is None else {"message": str(reason)}
    named = {"kind": reason.kind, "status": reason.status} if isinstance(reason, ProviderError) else {}
    return {**named, "aloud": said} if reason is not None and reason.quotes else {**named, **said}
