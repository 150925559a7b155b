"""Which jobs several processes can run, and how many of them."""

from __future__ import annotations

from pipeline.errors import SpecError
from pipeline.job import Job
from pipeline.work import Work


def refuse_in_several(job: Job) -> None:
    """Raises SpecError for a job that one process alone can run."""
    if job.attach.reads_files:
        raise SpecError(
            "--processes: a job that attaches local files runs in one process, which watches that the files stay as "
            "they are; nothing was sent. Leave --processes out"
        )


def lanes_for(processes: int, job: Job, work: Work) -> int:
    """How many hands there is something to do for: each has a row at least, a place for it in flight, and a request a
    second of a limit that the spec names."""
    limits = job.spec.limits
    per_minute = limits.requests_per_minute
    paced = processes if per_minute is None else int(per_minute / 60)
    return max(1, min(processes, work.to_send, limits.concurrency, paced))
