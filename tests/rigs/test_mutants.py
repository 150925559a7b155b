"""The rigs themselves on trial: one step of the protocol taken out at a time, and each must be caught.

A rig that lets a mutant live proves nothing.
"""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.storage import checkpoint, files, journal, keys, manifest, recovery, snapshot, verify, writer
from pipeline.storage.files import ASIDE, Files, create, discard, publish, write_all
from pipeline.storage.manifest import Manifest, Part, part_line
from pipeline.storage.parquet import part_bytes, part_name, table_of
from tests.rigs.cuts import images

Patch = pytest.MonkeyPatch
PATIENCE = 600  # images a mutant may live through before the rig counts as blind


def no_check_of_lines(patch: Patch) -> None:
    def checked(line: bytes, seed: int) -> bool:
        return line.startswith(b"{") and line.endswith(b'"}')

    for room in (journal, manifest):
        patch.setattr(room, "checked", checked)


def no_sync_of_the_journal(patch: Patch) -> None:
    def sync(self: journal.Segment, size: int) -> None:
        self.durable = size

    patch.setattr(journal.Segment, "sync", sync)


def no_sync_of_parts(patch: Patch) -> None:
    def write_whole(files: Files, path: str, data: bytes) -> None:
        discard(files, path + ASIDE)
        fd = create(files, path + ASIDE)
        write_all(files, fd, data)
        files.close(fd)
        publish(files, path + ASIDE, path)

    patch.setattr(writer, "write_whole", write_whole)


def no_sync_of_folders(patch: Patch) -> None:
    for room in (files, journal, checkpoint, writer, verify):
        patch.setattr(room, "sync_folder", lambda files, folder: None)


def no_sync_of_the_parts_folder(patch: Patch) -> None:
    whole = files.sync_folder

    def sync_folder(files: Files, folder: str) -> None:
        if os.path.basename(folder) != "parts":
            whole(files, folder)

    patch.setattr(files, "sync_folder", sync_folder)


def no_sync_of_the_folder_above(patch: Patch) -> None:
    patch.setattr(checkpoint, "make_folder", lambda files, path: files.make_folder(path))


def no_sync_of_the_manifest(patch: Patch) -> None:
    def add(self: Manifest, line: bytes) -> None:
        write_all(self.files, self.fd, line)
        self.size += len(line)

    patch.setattr(Manifest, "add", add)


def a_manifest_trusted_unsynced(patch: Patch) -> None:
    """A killed run leaves a line that is not durable; recovery removes the segment on the strength of it."""
    whole = Manifest.__init__

    def __init__(self: Manifest, files: Files, folder: str, job: str) -> None:
        datasync = type(files).datasync
        patch.setattr(files, "datasync", lambda fd: None)
        whole(self, files, folder, job)
        patch.setattr(files, "datasync", datasync.__get__(files))

    patch.setattr(Manifest, "__init__", __init__)


def acknowledged_before_the_sync(patch: Patch) -> None:
    whole = writer.Writer._sync

    def _sync(self: writer.Writer, segment: journal.Segment, size: int, records: int, *, full: bool) -> bool:
        self._acknowledge(segment, records)
        return whole(self, segment, size, records, full=full)

    patch.setattr(writer.Writer, "_sync", _sync)


def _rolled(patch: Patch, order: str) -> None:
    """Sealing with its steps in another order: w(rite the part), l(ist it), r(emove the segment)."""

    def roll_segment(files: Files, layout: writer.Layout, job: str, index: Manifest, number: int) -> Part | None:
        path = layout.segment(number)
        table = table_of(journal.scan(files.read(path), job).lines)
        data = part_bytes(table)
        size, sha256 = recovery.print_of(data)
        part = Part(number, part_name(number), table.height, size, sha256)
        steps: dict[str, Callable[[], None]] = {
            "w": lambda: writer.write_whole(files, layout.part(part.name), data),
            "l": lambda: index.add(part_line(part, job)),
            "r": lambda: files.unlink(path),
        }
        for step in order if table.height else "r":
            steps[step]()
        return part

    patch.setattr(writer, "roll_segment", roll_segment)


def a_segment_removed_before_its_part_is_listed(patch: Patch) -> None:
    _rolled(patch, "wrl")


def a_part_listed_before_it_is_written(patch: Patch) -> None:
    _rolled(patch, "lwr")


def a_segment_removed_before_its_part_is_written(patch: Patch) -> None:
    _rolled(patch, "rwl")


def no_salt(patch: Patch) -> None:
    patch.setattr(journal.secrets, "token_hex", lambda size: "0" * 2 * size)


def a_torn_line_taken_for_a_line(patch: Patch) -> None:
    whole = journal.scan

    def scan(data: bytes, job: str) -> journal.Scan:
        return whole(data if data.endswith(b"\n") else data + b"\n", job)

    for room in (recovery, writer, snapshot):
        patch.setattr(room, "scan", scan)
    no_check_of_lines(patch)


def marks_not_carried_over(patch: Patch) -> None:
    whole = writer.Writer.rotate

    def rotate(self: writer.Writer) -> None:
        in_flight, self.in_flight = self.in_flight, {}
        whole(self)
        self.in_flight = in_flight

    patch.setattr(writer.Writer, "rotate", rotate)


def the_last_answer_counts(patch: Patch) -> None:
    """A failure after an answer takes its place."""
    patch.setattr(snapshot, "_ANSWERED", ["ok", "failed"])


CUT = [
    no_check_of_lines,
    no_sync_of_the_journal,
    no_sync_of_parts,
    no_sync_of_folders,
    no_sync_of_the_parts_folder,
    no_sync_of_the_folder_above,
    no_sync_of_the_manifest,
    a_manifest_trusted_unsynced,
    acknowledged_before_the_sync,
    a_segment_removed_before_its_part_is_listed,
    a_part_listed_before_it_is_written,
    a_segment_removed_before_its_part_is_written,
    no_salt,
    a_torn_line_taken_for_a_line,
    the_last_answer_counts,
]


@pytest.mark.parametrize("mutate", CUT, ids=lambda mutate: mutate.__name__)
def test_power_cuts_catch(mutate: Callable[[Patch], None], tmp_path: Path, monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    for number, wrong in enumerate(itertools.islice(images(tmp_path, seed=2), PATIENCE), 1):
        if wrong:
            print(f"{mutate.__name__}: caught by image {number}: {wrong[0][:150]}")
            return
    pytest.fail(f"{mutate.__name__} lived through {PATIENCE} images")
