"""Where things lie in a checkpoint folder."""

from __future__ import annotations

import os

from pipeline.storage.journal import segment_name

CHECKPOINT = "checkpoint"
"""Name of the folder in a job's output folder."""


class Layout:
    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.lock = os.path.join(folder, "LOCK")
        self.job = os.path.join(folder, "job.json")
        self.journal = os.path.join(folder, "journal")
        self.parts = os.path.join(folder, "parts")
        self.quarantine = os.path.join(folder, "quarantine")
        self.ballast = os.path.join(folder, "ballast")
        self.heartbeat = os.path.join(folder, "status.json")
        self.history = os.path.join(folder, "history")
        self.keys = os.path.join(folder, "keys.bin")
        self.begun = os.path.join(folder, "keys.begun")

    @classmethod
    def of_output(cls, folder: str) -> Layout:
        """Of a job whose tables go to ``folder``."""
        return cls(os.path.join(folder, CHECKPOINT))

    def segment(self, number: int) -> str:
        return os.path.join(self.journal, segment_name(number))

    def part(self, name: str) -> str:
        return os.path.join(self.parts, name)
