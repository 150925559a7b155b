"""A checkpoint as one of several processes of a run writes it: with segments of its own, under the lock of all.

The process that started the others has recovered the folder and recovers it again when they have ended; job file and
heartbeat are its own. What a lane holds when its process dies is what a killed run holds.
"""

from __future__ import annotations

import contextlib
from typing import Any, Self

from pipeline.errors import CheckpointError, StorageError
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.files import Files
from pipeline.storage.job_file import read_job
from pipeline.storage.journal import FORMAT
from pipeline.storage.layout import Layout
from pipeline.storage.lock import Lock
from pipeline.storage.manifest import SharedManifest
from pipeline.storage.writer import Writer


class Lane(Checkpoint):
    """Lane ``number`` of ``lanes``: from segment ``first + number`` on every one of so many."""

    @classmethod
    def enter(
        cls, folder: str, lock_fd: int, *, number: int, lanes: int, first: int, files: Files | None = None
    ) -> Self:
        """``lock_fd``: inherited. Raises StorageError, and CheckpointError for a folder that has lost its job file."""
        files, layout = files or Files(), Layout(folder)
        try:
            job = read_job(files, layout)
            if job is None or job.format != FORMAT:
                raise CheckpointError(f"{layout.job} has gone, or is an older version's; run it again")
            manifest = SharedManifest(files, layout.folder, job.job)
            writer = Writer(files, layout, job.job, manifest, first + number, step=lanes)
        except OSError as exc:
            raise StorageError(f"the checkpoint at {folder} cannot be opened: {exc}") from exc
        return cls(files, layout, job, Lock.inherited(layout.lock, lock_fd), writer)

    def heartbeat(self, members: dict[str, Any]) -> None:
        """The process that leads has one for all."""

    def release(self) -> None:
        self.lock.release()

    def abandon(self) -> None:
        with contextlib.suppress(StorageError):
            self.writer.abandon()
        self.lock.release()
