"""``pipeline check``: everything that can be known without sending, each finding with its cure."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator

from pipeline.descriptors import room
from pipeline.descriptors import told as told_room
from pipeline.environment import ignored_proxies
from pipeline.errors import CheckpointError, InputError
from pipeline.job import Job
from pipeline.look import previews
from pipeline.run import refuse_foreign
from pipeline.storage import job_file
from pipeline.storage.files import Files
from pipeline.storage.layout import CHECKPOINT, Layout
from pipeline.watch import ALIKE_FIRST
from pipeline.wired import connections_each


def check(job: Job, key: Callable[[], str | None]) -> Iterator[str]:
    """Lines for people. Raises SpecError, InputError or CheckpointError for what is wrong."""
    source = job.source
    source.check_ids()
    rows = source.count()
    yield f"spec: ok ({job.spec.name}; model {job.model.name}; {job.spec.endpoint.base_url})"
    yield f"input: ok ({rows} rows, {len(source.schema)} columns, {len(source.files)} file(s))"
    first = list(previews(job, ALIKE_FIRST, full=False))
    invalid = [shown["invalid_input"] for shown in first if "invalid_input" in shown]
    if not first:
        yield "prompts: the input has no rows; a run would end at once"
    elif len(invalid) == len(first):
        raise InputError(
            f"the first {len(first)} rows all cannot be sent: {invalid[0]}. Mend the template or the input"
        )
    else:
        skipped = f"; {len(invalid)} of the first {len(first)} rows cannot be sent: {invalid[0]}" if invalid else ""
        yield f"prompts: ok (columns used: {', '.join(job.used) or 'none'}{skipped})"
    yield from doubts(job)
    if job.spec.prompt.attachments:
        yield f"attachments: ok ({_attached(job)})"
    if job.spec.samples > 1 and job.model.params.get("temperature") == 0 and "seed" not in job.model.params:
        yield f"samples: model.temperature is 0, so all {job.spec.samples} samples of a row may well be the same"
    yield f"output: ok ({check_folder(job)})"
    at_once = min(rows, job.spec.limits.concurrency)
    yield f"connections: ok ({told_room(room(at_once, connections_each(job, served_here=False)))})"
    name = job.spec.endpoint.api_key_env
    yield f"key: ok ({name} is set)" if key() else f"key: ok ({name} is not set; a loopback endpoint may need none)"
    told = job.spec.notify
    if told is not None:
        found = shutil.which(told.command[0])
        yield f"notify: {'ok' if found else 'there is no such program'} ({' '.join(told.command)}; {told.when})"
    for name, address in ignored_proxies(os.environ, job.spec.endpoint.proxy).items():
        yield f"proxy: none is used; {name} is set ({address}) and ignored. To use it, name it in endpoint.proxy"


def doubts(job: Job) -> Iterator[str]:
    """What a job may well mean, and its bill regret: told, and not refused."""
    as_they_stand = [name for name in job.source.schema if _single_braces(job, name) and name not in job.used]
    for name in as_they_stand:
        yield f"prompts: {{{name}}} is sent as it stands; the column's value is written {{{{ {name} }}}}"
    if not job.used and not as_they_stand:
        yield "prompts: no column is used, so every row asks the very same; a column's value is written {{ text }}"


def _single_braces(job: Job, name: str) -> bool:
    written = re.compile(r"(?<!\{)\{\s*" + re.escape(name) + r"\s*\}(?!\})")
    return any(written.search(message.content) for message in job.spec.prompt.messages)


def _attached(job: Job) -> str:
    """What may go along; that the first rows' can be read, their prompts have told already."""
    block, asked = job.spec.attachments, job.spec.prompt.attachments
    files = "no local files" if block.root is None else f"files under {block.root}"
    held = block.max_mb * 4 / 3 * job.spec.limits.concurrency
    fixed = len([one for one in asked if one.column is None])
    return (
        f"{len(asked) - fixed} by column, {fixed} fixed; {files}, at most {block.max_mb:g} MB each, so "
        f"{job.spec.limits.concurrency} rows in flight may hold up to {held * len(asked):,.0f} MB"
    )


def check_folder(job: Job) -> str:
    """The output folder can be ours. Raises CheckpointError."""
    existing = job.folder
    while not os.path.isdir(existing):
        if os.path.lexists(existing):
            raise CheckpointError(f"{existing} is in the way: the output is a folder. Name another one in `output:`")
        existing = os.path.dirname(existing) or "."
    if not os.access(existing, os.W_OK | os.X_OK):
        raise CheckpointError(f"{existing} is not writable; make it so, or name another folder in `output:`")
    refuse_foreign(job.folder)
    folder = os.path.join(job.folder, CHECKPOINT)
    found = job_file.read_job(Files(), Layout(folder))
    if found is not None and found.name != job.spec.name:
        raise job_file.of_another_job(job.folder, found.name, job.spec.name)
    return f"{job.folder}, {'resumes what is there' if found else 'new'}"
