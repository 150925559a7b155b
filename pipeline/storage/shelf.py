"""``OUTPUT/media/``: the files that answers hold beside their words.

A file here is named by its row's key, its place in the row's answer and the first digits of its SHA-256, so that a step
which is repeated after a crash makes the same file again. Each is written whole before any record names it. What has
another name is somebody else's, and is left alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pipeline.errors import StorageError
from pipeline.media import Kind, file_name
from pipeline.storage.files import ASIDE, Files, content, create, discard, make_folder, publish, write_all, write_whole

FOLDER: Final = "media"
_OURS: Final = re.compile(r"[0-9a-f]{32}-(link)?\d+(-[0-9a-f]{8}\.[a-z0-9]+)?")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as a record names it."""

    path: str  # from the output folder
    sha256: str
    media_type: str
    size: int

    def members(self) -> dict[str, Any]:
        return {"path": self.path, "sha256": self.sha256, "type": self.media_type, "bytes": self.size}


class Shelf:
    """The folder ``media`` beside a checkpoint; made when the first file comes."""

    def __init__(self, files: Files, checkpoint: str) -> None:
        self.files = files
        self.output = os.path.dirname(os.path.abspath(checkpoint))
        self.folder = os.path.join(self.output, FOLDER)
        self._made = False

    def save(self, name: str, data: bytes) -> None:
        """Whole and durable when it returns. Raises OSError."""
        self._make()
        write_whole(self.files, os.path.join(self.folder, name), data)

    def incoming(self, key: str, place: int) -> Incoming:
        """A file that comes piece by piece. Raises StorageError."""
        try:
            self._make()
            return Incoming(self.files, self.folder, key, f"link{place}")
        except OSError as exc:
            raise _cannot(self.folder, exc) from exc

    def _make(self) -> None:
        if not self._made:
            make_folder(self.files, self.folder)
            self._made = True

    def empty_asides(self) -> None:
        """Remove what a run that was cut off left unfinished."""
        for name in self.files.names(self.folder):
            if name.endswith(ASIDE) and _OURS.fullmatch(name.removesuffix(ASIDE)):
                discard(self.files, os.path.join(self.folder, name))

    def faults(self, entries: Iterator[dict[str, Any]]) -> list[str]:
        """What is wrong with the files that records name, one line each."""
        found: list[str] = []
        for entry in entries:
            data = content(self.files, os.path.join(self.output, entry["path"]))
            if data is None:
                found.append(f"{entry['path']} is missing")
            elif hashlib.sha256(data).hexdigest() != entry["sha256"]:
                found.append(f"{entry['path']} is not as it was written")
        return found


class Incoming:
    """Written aside while it comes; it gets its name at the end, or never."""

    def __init__(self, files: Files, folder: str, key: str, place: str) -> None:
        self.files = files
        self.folder = folder
        self.key = key
        self.place = place
        self.size = 0
        self._digest = hashlib.sha256()
        self._aside = os.path.join(folder, f"{key}-{place}{ASIDE}")
        discard(files, self._aside)
        self._fd = create(files, self._aside)

    def write(self, data: bytes) -> None:
        """Raises StorageError."""
        try:
            write_all(self.files, self._fd, data)
        except OSError as exc:
            raise _cannot(self._aside, exc) from exc
        self._digest.update(data)
        self.size += len(data)

    def finish(self, kind: Kind) -> Entry:
        """Whole, durable and named when it returns. Raises StorageError; then nothing is left of it."""
        sha256 = self._digest.hexdigest()
        name = file_name(self.key, self.place, sha256, kind)
        try:
            try:
                self.files.fsync(self._fd)
            finally:
                self._close()
            publish(self.files, self._aside, os.path.join(self.folder, name))
        except OSError as exc:
            self.drop()
            raise _cannot(self._aside, exc) from exc
        return Entry(f"{FOLDER}/{name}", sha256, kind.media_type, self.size)

    def drop(self) -> None:
        """Forget it. Raises StorageError."""
        try:
            self._close()
            discard(self.files, self._aside)
        except OSError as exc:
            raise _cannot(self._aside, exc) from exc

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self.files.close(fd)


def _cannot(path: str, exc: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written ({exc.strerror or exc}); every acknowledged answer is kept. Mend that, then run the "
        "same command again"
    )
