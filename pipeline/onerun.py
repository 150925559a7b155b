"""One run of one job: what it was told, and what is known before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import SpecError
from pipeline.job import Job
from pipeline.ledger import Totals
from pipeline.plan import Plan, Standing, Wish
from pipeline.records import ApiReply
from pipeline.runlog import RunLog
from pipeline.stop import DRAIN_S, signals_wait
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.files import Files
from pipeline.storage.keys import Keys
from pipeline.storage.ranged import Ranged
from pipeline.storage.snapshot import Snapshot
from pipeline.storage.source import Stamp


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line adds to the spec."""

    retry_failed: str | None = None  # None, "all", or a kind
    accept_changes: bool = False
    max_failed: str = "0"  # a count, or a share like "2%"
    max_minutes: float | None = None
    drain_s: float = DRAIN_S
    simulated: bool | None = False  # None: a loopback endpoint, its first reply will tell
    refresh_expired: bool = False
    processes: int = 1


@dataclass(slots=True)
class Known:
    """What the checkpoint and the input say before anything is sent."""

    fingerprint: str
    keys: Keys
    plan: Plan
    standing: Standing | None  # None for a fresh job, whose rows are not looked at before they are sent
    before: Totals
    rows: int
    listed: bool  # the keys are those of all rows, and kept
    fresh: bool  # there is no answer in the folder
    since_last_run: Mapping[str, int]
    kept: Mapping[str, Sequence[ApiReply]] = field(default_factory=dict)  # paid replies of unfinished rows
    unfetched: Mapping[str, str] = field(default_factory=dict)  # texts with links that are still to be fetched
    seen: tuple[Snapshot, Ranged] | None = None  # what ``standing`` was made of; the keys that no row has


class OneRun:
    """What all steps of a run have at hand."""

    def __init__(
        self,
        job: Job,
        checkpoint: Checkpoint,
        options: Options,
        wish: Wish,
        log: RunLog,
        say: Callable[[str], None],
        files: Files,
        began: float,
        clock: float,
    ) -> None:
        self.job = job
        self.checkpoint = checkpoint
        self.options = options
        self.wish = wish
        self.log = log
        self.say = say
        self.files = files
        self.began = began
        self.clock = clock
        self.folder = job.folder
        self.stamp: Stamp = ()
        self.limits_found: dict[str, object] = {}
        self.not_renewed = 0

    def _seal(self) -> None:
        with signals_wait():  # the lock must not be given up while a thread still seals
            self.checkpoint.seal()

    def _changed(self) -> object:
        return self.job.source.changed_since(self.stamp)


def allowed_failures(text: str, rows: int) -> float:
    """``--max-failed``: a count, or a share of the rows with a per cent sign. Raises SpecError."""
    number = text.strip()
    try:
        value = float(number.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise SpecError(f"--max-failed must be a count like 10 or a share like 2%, not {text!r}")
    return value / 100 * rows if number.endswith("%") else value
