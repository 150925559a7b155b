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
    """How many hands there is something to do for: each has a row at least, and may have one in flight."""
    rows = processes if work.to_send is None else work.to_send
    return max(1, min(processes, rows, job.spec.limits.concurrency))
