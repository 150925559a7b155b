"""``pipeline verify``: every file of a checkpoint checked; ``--repair`` mends, and moves nothing to the bin.

What is damaged goes to ``quarantine/``; what is whole stays. A row whose answer was in a damaged piece is pending
again, and the next run buys it again: repair says how many, before anything is sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.errors import CheckpointError
from pipeline.storage import manifest, recovery
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.files import Files, publish, sync_folder, write_whole
from pipeline.storage.job_file import read_job, write_job
from pipeline.storage.journal import mended, scan
from pipeline.storage.layout import Layout
from pipeline.storage.lock import Lock
from pipeline.storage.manifest import Part, dropped_line, part_line
from pipeline.storage.noted import entries_in
from pipeline.storage.parquet import PART_SCHEMA, part_name, read_columns
from pipeline.storage.recovery import Findings
from pipeline.storage.shelf import Shelf


@dataclass(slots=True)
class Report:
    """What was found, and what was done about it."""

    parts: int
    records: int
    segments: int
    damage: list[str]
    foreign: list[str]
    records_lost: int  # at the least: a damaged line may have held more than one record
    repaired: list[str] = field(default_factory=list)
    media: list[str] = field(default_factory=list)  # files in OUTPUT/media that are not as records name them


def verify(folder: str, *, repair: bool = False, files: Files | None = None) -> Report:
    """Raises CheckpointError when there is no checkpoint, RunPaused when repair meets a running job.

    A missing media file is told and no more: the answer is there, and only buying another one would bring it back."""
    files, layout = files or Files(), Layout(folder)
    job = read_job(files, layout)
    if job is None:
        raise CheckpointError(f"{folder}: there is no checkpoint yet; start with `pipeline run`")
    if not repair:
        return _report(files, layout, recovery.look(files, layout, job.job))
    lock = Lock(layout.lock)
    try:
        found = recovery.look(files, layout, job.job)
        report = _report(files, layout, found)
        if found.damage:
            # First: rows may be pending again, whatever tables are in place, and whatever becomes of this process.
            write_job(files, layout, replace(job, finished=None))
            _mend(files, layout, job.job, found, report)
        if found.segments or found.damage:
            checkpoint = Checkpoint.open(folder, job.name, simulated=job.simulated, files=files, lock=lock)
            try:
                checkpoint.seal()
            finally:
                checkpoint.release()
    finally:
        lock.release()
    return report


def _report(files: Files, layout: Layout, found: Findings) -> Report:
    parts = found.listing.parts
    records = sum(part.rows for part in parts.values())
    return Report(
        len(parts),
        records,
        len(found.segments),
        found.damage,
        found.foreign,
        found.records_lost,
        media=Shelf(files, layout.folder).faults(_media_of(layout, found)),
    )


def _media_of(layout: Layout, found: Findings) -> Iterator[dict[str, Any]]:
    for number, part in sorted(found.listing.parts.items()):
        # One that is to be made again from its segment may not be there.
        if number not in found.bad_parts and number not in found.segments:
            yield from entries_in(read_columns(layout.part(part.name), ["media"])["media"])


def _mend(files: Files, layout: Layout, job: str, found: Findings, report: Report) -> None:
    if found.listing.damaged:
        manifest.rewrite(files, layout.folder, job, found.listing)
        report.repaired.append(f"{manifest.NAME} rewritten from its whole lines")
    index = manifest.Manifest(files, layout.folder, job)
    try:
        for number in found.bad_parts:
            _set_aside(files, layout, layout.part(part_name(number)))
            index.add(dropped_line(number, job))
            report.repaired.append(f"{part_name(number)} moved to quarantine; its rows are pending again")
        for number in found.unlisted:
            _adopt(files, layout, job, index, number, report)
        for number, held in found.segments.items():
            if held.damaged:
                _mend_segment(files, layout, job, number, report)
    finally:
        index.close()
    sync_folder(files, layout.folder)


def _adopt(files: Files, layout: Layout, job: str, index: manifest.Manifest, number: int, report: Report) -> None:
    """A part whose manifest line was lost: taken back when it reads as one, else set aside."""
    path = layout.part(part_name(number))
    try:
        table = read_columns(path, list(PART_SCHEMA))
    except Exception as exc:  # noqa: BLE001 - whatever a damaged file does to the reader, it is damaged
        _set_aside(files, layout, path)
        report.repaired.append(f"{part_name(number)} moved to quarantine ({type(exc).__name__})")
        return
    size, sha256 = recovery.print_of(files.read(path))
    index.add(part_line(Part(number, part_name(number), table.height, size, sha256), job))
    report.repaired.append(f"{part_name(number)} taken back into the manifest ({table.height} records)")


def _mend_segment(files: Files, layout: Layout, job: str, number: int, report: Report) -> None:
    """Keep a copy of the damaged segment; its whole lines stay, for the recovery that follows."""
    data = files.read(layout.segment(number))
    write_whole(files, os.path.join(layout.quarantine, f"segment-{number:04d}.damaged"), data)
    write_whole(files, layout.segment(number), mended(scan(data, job), job, number))
    report.repaired.append(f"journal segment {number:04d}: whole lines kept, a copy of it all is in quarantine")


def _set_aside(files: Files, layout: Layout, path: str) -> None:
    if os.path.exists(path):
        publish(files, path, os.path.join(layout.quarantine, os.path.basename(path)))
        sync_folder(files, layout.parts)
