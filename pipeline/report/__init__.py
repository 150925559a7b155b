"""``report.html``: one file that says how a job went, for people who were not there. It needs no network, and has none.

``gather`` makes figures out of the job's folder, ``charts`` draws some of them, ``page`` is the rest.
"""

from __future__ import annotations

import os

from pipeline.errors import SpecError
from pipeline.job import Job
from pipeline.look import refuse_input, writing
from pipeline.report.charts import charts
from pipeline.report.gather import gather
from pipeline.report.page import render
from pipeline.storage.files import Files, write_whole

NAME = "report.html"


def write(job: Job, target: str | None = None) -> str:
    """Into the job's folder, or where ``target`` says; gives the path. Raises SpecError, CheckpointError."""
    path = os.path.join(job.folder, NAME) if target is None else target
    if os.path.splitext(path)[1].lower() not in (".html", ".htm"):
        raise SpecError(f"--to {path}: the name must end in .html")
    refuse_input(job, path)
    figures = gather(job)
    page = render(figures, charts(figures.pace, figures.latency))
    with writing(path):
        write_whole(Files(), os.path.abspath(path), page.encode())
    return path
