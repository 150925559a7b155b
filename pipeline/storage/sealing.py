"""A segment of the journal becomes a part.

The order is the protocol: the media files of its answers, then the part that names them, each written aside, synced,
renamed, folder synced; manifest line synced, segment removed. A crash between two steps leaves what recovery repeats.
"""

from __future__ import annotations

import errno
import hashlib
import os

from pipeline.storage.files import Files, sync_folder, write_whole
from pipeline.storage.journal import Scan
from pipeline.storage.layout import Layout
from pipeline.storage.manifest import Manifest, Part, part_line
from pipeline.storage.parquet import part_bytes, part_name, table_of
from pipeline.storage.shelf import Shelf


def roll_segment(files: Files, layout: Layout, job: str, manifest: Manifest, number: int, held: Scan) -> Part | None:
    """Make one segment of the journal a part; every step may be repeated. ``held``: what it holds. None when that is no
    record. Raises OSError where acknowledged lines do not read back."""
    path = layout.segment(number)
    if held.damaged:
        raise OSError(errno.EIO, f"{held.damaged} acknowledged line(s) do not read back as they were written", path)
    if held.tail:
        write_whole(files, os.path.join(layout.quarantine, f"segment-{number:04d}.tail"), held.tail)
    table = table_of(held.lines, Shelf(files, layout.folder).save)
    part = None
    if table.height:
        part = _write_part(files, layout, number, part_bytes(table), table.height)
        manifest.add(part_line(part, job))
    elif part_name(number) in files.names(layout.parts):
        # Made by a recovery that a power cut ended, from lines that were never durable, and so never acknowledged.
        files.unlink(layout.part(part_name(number)))
        sync_folder(files, layout.parts)
    files.unlink(path)
    return part


def _write_part(files: Files, layout: Layout, number: int, data: bytes, rows: int) -> Part:
    name = part_name(number)
    write_whole(files, layout.part(name), data)
    return Part(number, name, rows, len(data), hashlib.sha256(data).hexdigest())
