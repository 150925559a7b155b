"""Which rows are done: the one folder that knows, and its one writer.

``Checkpoint`` takes the lock, brings the folder into order, records what happens to rows, and leaves everything
sealed. ``storage/snapshot.py`` reads the same folder without the lock.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson

from pipeline.errors import CheckpointError, ProviderError, StorageError
from pipeline.records import NO_USAGE, ApiReply, Billed, Outcome, Usage
from pipeline.storage import recovery
from pipeline.storage.files import ASIDE, Files, create, discard, make_folder, sync_folder, write_all, write_whole
from pipeline.storage.journal import FORMAT, body_of
from pipeline.storage.layout import Layout
from pipeline.storage.lock import Lock
from pipeline.storage.manifest import Manifest, rewrite
from pipeline.storage.noted import fetched_note, mark
from pipeline.storage.shelf import Entry, Shelf
from pipeline.storage.writer import BALLAST_BYTES, SEAL_BYTES, SEAL_ROWS, Writer


@dataclass(frozen=True, slots=True)
class Job:
    """``job.json``: what the folder belongs to, and how its last finished run ended."""

    job: str  # random, made with the folder; seeds every check in it
    name: str
    created: str
    simulated: bool = False  # the answers come from the simulator
    question: str = ""  # fingerprint of the question last accepted
    finished: dict[str, Any] | None = None  # see run.py: what must be unchanged for a rerun to have nothing to do
    format: int = FORMAT


def read_job(files: Files, layout: Layout) -> Job | None:
    """None when there is no checkpoint yet. Raises CheckpointError for one we cannot read."""
    try:
        data = files.read(layout.job)
    except FileNotFoundError:
        if files.names(layout.journal) or files.names(layout.parts):
            raise CheckpointError(
                f"{layout.job} is missing although there are answers beside it. Bring it back from a backup, or move "
                f"{layout.folder} away to begin anew"
            ) from None
        return None
    try:
        members = orjson.loads(data)
        if members.get("format") != FORMAT:
            raise CheckpointError(
                f"{layout.job} is of format {members.get('format')}, this version reads format {FORMAT}; use the "
                "version that wrote it"
            )
        return Job(**members)
    except (ValueError, TypeError, AttributeError) as exc:
        raise CheckpointError(f"{layout.job} cannot be read ({exc}); bring it back from a backup") from exc


class Checkpoint:
    """Open for writing. Use ``open``, then ``start``; end with ``close`` (or ``abandon`` in a hurry)."""

    def __init__(self, files: Files, layout: Layout, job: Job, lock: Lock, writer: Writer) -> None:
        self.files = files
        self.layout = layout
        self.job = job
        self.lock = lock
        self.writer = writer
        self.in_doubt = 0  # requests that an earlier run sent and never heard of again
        self.cut_tails = 0
        self._in_flight = writer.in_flight

    @classmethod
    def open(
        cls,
        folder: str,
        name: str,
        *,
        simulated: bool | None = False,
        files: Files | None = None,
        lock: Lock | None = None,
        seal_rows: int = SEAL_ROWS,
        seal_bytes: int = SEAL_BYTES,
    ) -> Checkpoint:
        """Take the lock (unless it is handed in) and recover. ``simulated``: whether the answers to come are the
        simulator's, None if not known yet (see ``settle_simulated``). Raises RunPaused when another run holds it,
        CheckpointError for a folder of another job or a damaged one, StorageError when the disk fails us."""
        files = files or Files()
        layout = Layout(folder)
        try:
            for path in (layout.folder, layout.journal, layout.parts, layout.quarantine):
                make_folder(files, path)
            lock = lock or Lock(layout.lock)
        except OSError as exc:
            raise CheckpointError(f"{folder} cannot be used as an output folder: {exc.strerror or exc}") from exc
        try:
            _forget_heartbeat(files, layout)
            job = _ours(files, layout, name, simulated)
            return cls._recover(files, layout, job, lock, seal_rows, seal_bytes)
        except OSError as exc:
            lock.release()
            raise StorageError(f"the checkpoint at {folder} cannot be opened: {exc}") from exc
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _recover(
        cls, files: Files, layout: Layout, job: Job, lock: Lock, seal_rows: int, seal_bytes: int
    ) -> Checkpoint:
        found = recovery.look(files, layout, job.job)
        recovery.refuse_damage(found, layout.folder)
        recovery.empty_asides(files, layout)
        if found.sealed:
            # Their lines may not be durable, whatever a sync of this file says now: an earlier one may have failed.
            rewrite(files, layout.folder, job.job, found.listing)
        manifest = Manifest(files, layout.folder, job.job)
        _lay_ballast(files, layout)
        sync_folder(files, layout.folder)
        for number in found.sealed:
            discard(files, layout.segment(number))
        writer = Writer(
            files, layout, job.job, manifest, recovery.next_segment(found), seal_rows=seal_rows, seal_bytes=seal_bytes
        )
        checkpoint = cls(files, layout, job, lock, writer)
        checkpoint._take_over(found)
        return checkpoint

    def _take_over(self, found: recovery.Findings) -> None:
        """What a killed run left: note what is in doubt (durably, before its marks go), then seal the rest."""
        doubts = recovery.in_doubt(found.segments.values())
        for line in doubts:
            mark = orjson.loads(line)
            self.writer.append(
                body_of({"e": "t", "k": mark["k"], "x": "in_doubt", "b": Billed.MAYBE, "w": mark.get("w")})
            )
        if doubts:
            self.writer.commit()
        self.in_doubt = len(doubts)
        for number, held in found.segments.items():
            self.cut_tails += bool(held.tail)
            self.writer.roll(number)
        if found.segments:
            # Or a segment of marks alone could come back after the note of its doubts has left the journal.
            sync_folder(self.files, self.layout.journal)

    # -- recording -------------------------------------------------------------------------------------------------

    def start(self, on_failure: Callable[[], None]) -> None:
        """Commit and seal in the background; ``on_failure`` is called from a thread when the disk fails us."""
        self.writer.on_failure = on_failure
        self.writer.start()

    def sent(self, key: str) -> None:
        """A request for this row is about to go out."""
        mark = b'{"e":"s","k":"%b","w":%.3f' % (key.encode(), time.time())
        self._in_flight[key] = mark
        self.writer.mark(mark)

    def superseded(self, key: str, error: ProviderError) -> None:
        """An attempt failed, and another one of the same row may follow."""
        self._in_flight.pop(key, None)
        self.writer.append(body_of(_without_nulls(_attempt_members(key, error))))

    def not_sent(self, key: str) -> None:
        """The attempt that was marked did not go out after all."""
        self._in_flight.pop(key, None)

    def keep(self, key: str, reply: ApiReply) -> None:
        """A paid reply that the row's exchange goes on from; a later run gives it again instead of buying it again."""
        self._in_flight.pop(key, None)
        self.writer.append(body_of(_without_nulls(_reply_members(key, reply))))

    def record(self, outcome: Outcome, links: int | None = None) -> None:
        """The row has ended. From here it survives the process; it counts once it is acknowledged.

        ``links``: how many of its text are to be fetched; None where the job does not ask for media at all."""
        self._in_flight.pop(outcome.key, None)
        self.writer.append(_outcome_body(outcome, None if links is None else mark(outcome.text, links)))
        if self.writer.full:
            self.lock.check()
            self.writer.rotate()

    def fetched(self, key: str, entries: Sequence[Entry], errors: Sequence[str]) -> None:
        """What came of the links of a recorded answer; its files are whole on the disk."""
        note = fetched_note(entries, errors)
        self.writer.append(body_of({"e": "f", "k": key, "w": round(time.time(), 3), "o": note}))

    @property
    def shelf(self) -> Shelf:
        return Shelf(self.files, self.layout.folder)

    @property
    def acknowledged(self) -> int:
        return self.writer.acknowledged

    # -- the job file and the end ----------------------------------------------------------------------------------

    def update(self, **changes: Any) -> None:
        """Change members of ``job.json``, whole or not at all. Raises StorageError."""
        changed = replace(self.job, **changes)
        try:
            write_whole(self.files, self.layout.job, orjson.dumps(asdict(changed), option=orjson.OPT_INDENT_2))
        except OSError as exc:
            raise StorageError(f"{self.layout.job} cannot be written ({exc.strerror or exc})") from exc
        self.job = changed

    def heartbeat(self, members: dict[str, Any]) -> None:
        """For ``status`` while the run goes on; never worth an error."""
        aside = self.layout.heartbeat + ASIDE
        try:
            fd = self.files.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                write_all(self.files, fd, orjson.dumps(members, default=str))
            finally:
                self.files.close(fd)
            self.files.rename(aside, self.layout.heartbeat)
        except OSError:
            return

    def settle_simulated(self, simulated: bool, *, fresh: bool) -> None:
        """The first reply has told who answers. Raises CheckpointError where that would mix; a fresh folder is told."""
        if not fresh:
            refuse_mixing(self.job, simulated, self.layout)
        elif self.job.simulated != simulated:
            self.update(simulated=simulated)

    def seal(self) -> None:
        """Everything recorded is durable and in parts; nothing can be recorded any more."""
        self.writer.close()

    def release(self) -> None:
        if self.lock.fd < 0:
            return  # abandoned: what lies there may be another run's by now
        try:
            _forget_heartbeat(self.files, self.layout)
            with contextlib.suppress(OSError):  # the next run lays a new one
                discard(self.files, self.layout.ballast)
        finally:
            self.lock.release()

    def abandon(self) -> None:
        """Leave at once: what was received is durable, the next run seals it."""
        with contextlib.suppress(StorageError):
            self.writer.abandon()
        _forget_heartbeat(self.files, self.layout)
        self.lock.release()


def _forget_heartbeat(files: Files, layout: Layout) -> None:
    """One that lies there without a run is the last word of a run that was killed."""
    with contextlib.suppress(OSError):
        discard(files, layout.heartbeat)


def _ours(files: Files, layout: Layout, name: str, simulated: bool | None) -> Job:
    job = read_job(files, layout)
    if job is None:
        job = Job(secrets.token_hex(8), name, time.strftime("%Y-%m-%dT%H:%M:%S%z"), bool(simulated))
        write_whole(files, layout.job, orjson.dumps(asdict(job), option=orjson.OPT_INDENT_2))
        return job
    if job.name != name:
        raise of_another_job(os.path.dirname(layout.folder), job.name, name)
    if simulated is not None:
        refuse_mixing(job, simulated, layout)
    return job


def of_another_job(folder: str, theirs: str, ours: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} holds the answers of the job {theirs!r}, not of {ours!r}. Give this job an output of its own, or "
        f"`name: {theirs}` if it is the same job"
    )


def refuse_mixing(job: Job, simulated: bool, layout: Layout) -> None:
    """Raises CheckpointError where simulated answers would come among real ones, or the other way round."""
    if job.simulated != simulated:
        theirs, ours = ("simulated", "real") if job.simulated else ("real", "simulated")
        raise CheckpointError(
            f"{os.path.dirname(layout.folder)} holds {theirs} answers, and this run would add {ours} ones; they are "
            "never mixed. Give one of them another output folder (`--set output=...`), or move the old one away"
        )


def _lay_ballast(files: Files, layout: Layout) -> None:
    """Real blocks to give up when the disk is full, so that answers in flight can still be written."""
    discard(files, layout.ballast)
    fd = create(files, layout.ballast)
    try:
        with contextlib.suppress(OSError):  # a disk too full for a ballast is told at the first record
            files.allocate(fd, BALLAST_BYTES)
    finally:
        files.close(fd)


def _usage_members(usage: Usage) -> list[int | None] | None:
    counts = [
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.total_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
    ]
    return None if counts == [None] * 5 else counts


def _attempt_members(key: str, error: ProviderError) -> dict[str, Any]:
    return {
        "e": "t",
        "k": key,
        "x": error.kind,
        "d": str(error),
        "h": error.status,
        "r": error.request_id,
        "u": _usage_members(error.usage),
        "b": error.billed,
        "l": error.latency_s,
        "w": round(time.time(), 3),
    }


def _reply_members(key: str, reply: ApiReply) -> dict[str, Any]:
    return {
        "e": "k",
        "k": key,
        "h": reply.status,
        "u": _usage_members(reply.usage),
        "b": Billed.YES,
        "a": reply.attempts,
        "l": round(reply.latency_s, 4),
        "w": round(time.time(), 3),
        "z": orjson.dumps(reply.json).decode(),
    }


_OUTCOME = (
    "e",
    "k",
    "n",
    "s",
    "b",
    "a",
    "w",
    "i",
    "t",
    "x",
    "d",
    "f",
    "m",
    "r",
    "h",
    "u",
    "l",
    "g",
    "z",
    "p",
    "j",
    "v",
)
_OUTCOME_TOO = ("q", "vt", "y", "o")


def _outcome_body(outcome: Outcome, media: str | None) -> bytes:
    """Written for speed: a paid answer is in no file until this is done."""
    values = (
        "o",
        outcome.key,
        outcome.row.ordinal,
        outcome.status,
        outcome.billed,
        outcome.attempts,
        round(time.time(), 3),
        outcome.row.id,
        outcome.text,
        outcome.kind,
        outcome.error,
        outcome.finish_reason,
        outcome.model,
        outcome.request_id,
        outcome.http_status,
        _usage_members(outcome.usage),
        None if outcome.latency_s is None else round(outcome.latency_s, 4),
        outcome.reasoning,
        outcome.raw,
        outcome.permanent or None,
        None if outcome.fields is None else orjson.dumps(outcome.fields).decode(),
        outcome.step,
    )
    members = {name: value for name, value in zip(_OUTCOME, values, strict=True) if value is not None}
    if (
        outcome.earlier is not NO_USAGE
        or outcome.earlier_replies
        or outcome.votes is not None
        or outcome.renewed
        or media is not None
    ):
        votes = None if outcome.votes is None else orjson.dumps(outcome.votes._asdict()).decode()
        rare = (_earlier_members(outcome), votes, outcome.renewed or None, media)
        members |= {name: value for name, value in zip(_OUTCOME_TOO, rare, strict=True) if value is not None}
    return body_of(members)


def _earlier_members(outcome: Outcome) -> list[int | None] | None:
    """Token counts of the replies before the last, and their number behind them."""
    if not outcome.earlier_replies and outcome.earlier is NO_USAGE:
        return None
    return [*(_usage_members(outcome.earlier) or [None] * 5), outcome.earlier_replies]


def _without_nulls(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
