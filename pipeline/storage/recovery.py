"""What a checkpoint folder holds when a run begins, and how it is brought into order.

Every step may be cut off and repeated. Nothing that had been acknowledged is ever thrown away here, and damage to it
never starts a silent re-send: it is listed, and the run refuses to begin until ``verify --repair`` has been told to.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson

from pipeline.errors import CheckpointError
from pipeline.storage import manifest
from pipeline.storage.files import ASIDE, Files, content, discard
from pipeline.storage.journal import Scan, number_in, scan, segment_number
from pipeline.storage.layout import Layout
from pipeline.storage.manifest import Listing, Print
from pipeline.storage.parquet import records_in
from pipeline.storage.shelf import Shelf


@dataclass(slots=True)
class Findings:
    """A look at a folder, without touching it."""

    listing: Listing
    segments: dict[int, Scan] = field(default_factory=dict)  # journal segments not sealed yet, by number
    bad_parts: dict[int, str] = field(default_factory=dict)  # listed, but not as they were written
    sealed: list[int] = field(default_factory=list)  # segments whose part is in place: only their removal was cut off
    unlisted: list[int] = field(default_factory=list)  # parts that no manifest line and no segment accounts for
    foreign: list[str] = field(default_factory=list)
    records_lost: int = 0

    @property
    def damage(self) -> list[str]:
        """One line per fault; empty when all is well."""
        lines = [self.bad_parts[number] for number in sorted(self.bad_parts)]
        lines += [f"part {number:04d} is not in the manifest" for number in self.unlisted]
        if self.listing.damaged:
            lines.append(f"{manifest.NAME} has {self.listing.damaged} damaged line(s)")
        for number, held in sorted(self.segments.items()):
            if held.damaged:
                lines.append(f"journal segment {number:04d} has {held.damaged} damaged line(s)")
        return lines


def look(files: Files, layout: Layout, job: str) -> Findings:
    """Read and check every file of the checkpoint. Raises only for an unreadable disk."""
    # In this order a look at a running job never misses a record: what is sealed meanwhile is seen twice.
    foreign: list[str] = []
    numbers = _look_at_journal(files, layout, job, foreign)
    found = Findings(manifest.read(content(files, os.path.join(layout.folder, manifest.NAME)) or b"", job))
    found.foreign = foreign
    on_disk = _look_at_parts(files, layout, found)
    for number, part in found.listing.parts.items():
        fault = part.fault(on_disk.get(number))
        if fault is None:
            if numbers.pop(number, None) is not None:
                found.sealed.append(number)
        elif number not in numbers or len(records_in(numbers[number].lines)) < part.rows:
            found.bad_parts[number] = fault
            found.records_lost += part.rows
        # else it is made again from its segment
    accounted = {*found.listing.parts, *found.listing.dropped, *numbers}
    found.unlisted = sorted(on_disk.keys() - accounted)
    found.segments = dict(sorted(numbers.items()))
    found.records_lost += sum(held.damaged for held in numbers.values())
    return found


def _look_at_journal(files: Files, layout: Layout, job: str, foreign: list[str]) -> dict[int, Scan]:
    segments: dict[int, Scan] = {}
    for name in files.names(layout.journal):
        number = segment_number(name)
        if number is None:
            foreign.append(f"journal/{name}")
        elif (data := content(files, os.path.join(layout.journal, name))) is not None:
            segments[number] = scan(data, job)
    return segments


def _look_at_parts(files: Files, layout: Layout, found: Findings) -> dict[int, Print]:
    prints: dict[int, Print] = {}
    for name in files.names(layout.parts):
        if name.endswith(ASIDE):
            continue
        number = number_in(name, "part-", ".parquet")
        if number is None:
            found.foreign.append(f"parts/{name}")
        else:
            prints[number] = print_of(files.read(layout.part(name)))
    return prints


def print_of(data: bytes) -> Print:
    return len(data), hashlib.sha256(data).hexdigest()


def refuse_damage(found: Findings, folder: str) -> None:
    """Raises CheckpointError naming each fault."""
    if found.damage:
        lines = "\n  ".join(found.damage)
        raise CheckpointError(
            f"the checkpoint at {folder} is damaged; nothing was sent, nothing was changed\n  {lines}\n"
            "look with `pipeline verify JOB`; `pipeline verify JOB --repair` keeps what is whole, and puts the rest "
            "back in the queue"
        )


def in_doubt(segments: Iterable[Scan]) -> list[bytes]:
    """Marks (members of the journal line) of requests that were sent and have no outcome, segment by segment."""
    open_marks: dict[str, bytes] = {}
    for held in segments:
        for line in held.lines:
            record = orjson.loads(line)
            if record["e"] == "s":
                open_marks[record["k"]] = line
            else:
                open_marks.pop(record["k"], None)
    return list(open_marks.values())


def empty_asides(files: Files, layout: Layout) -> None:
    for folder in (layout.folder, layout.journal, layout.parts, layout.quarantine):
        for name in files.names(folder):
            if name.endswith(ASIDE):
                discard(files, os.path.join(folder, name))
    Shelf(files, layout.folder).empty_asides()


def next_segment(found: Findings) -> int:
    """A number that nothing in the folder has ever had."""
    used = [*found.segments, *found.listing.parts, *found.listing.dropped, *found.unlisted]
    return max(used, default=0) + 1
