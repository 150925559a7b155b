"""``job.json``: what a checkpoint folder belongs to."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from pipeline.errors import CheckpointError
from pipeline.storage.files import Files, write_whole
from pipeline.storage.journal import FORMAT, READABLE
from pipeline.storage.layout import Layout


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
        if members.get("format") not in READABLE:
            raise CheckpointError(
                f"{layout.job} is of format {members.get('format')}, this version reads "
                f"{' and '.join(map(str, READABLE))}; use the version that wrote it"
            )
        return Job(**members)
    except (ValueError, TypeError, AttributeError) as exc:
        raise CheckpointError(f"{layout.job} cannot be read ({exc}); bring it back from a backup") from exc


def write_job(files: Files, layout: Layout, job: Job) -> None:
    """Whole or not at all, and of this version's format: an older one must not read what this one may write. Raises
    OSError."""
    write_whole(files, layout.job, orjson.dumps(asdict(job) | {"format": FORMAT}, option=orjson.OPT_INDENT_2))


def job_of(files: Files, layout: Layout, name: str, simulated: bool | None) -> Job:
    job = read_job(files, layout)
    if job is None:
        job = Job(secrets.token_hex(8), name, time.strftime("%Y-%m-%dT%H:%M:%S%z"), bool(simulated))
        write_job(files, layout, job)
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
