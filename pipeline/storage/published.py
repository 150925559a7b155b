"""The tables as a run left them: are they still those, and do they look finished to make?

Make compares times alone. So a results.parquet with more failed rows than were allowed is given a time in January 1970:
older than whatever it was made from, however new its bytes are. Nothing else is said by a table's time: one whose
time alone was changed (``touch``, ``cp``) is still the table that the run left.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from pipeline.storage.files import Files
from pipeline.storage.output import ATTEMPTS, FAILED, RESULTS

_FOOT_BYTES = 64 << 10  # a Parquet file ends in its table of contents: sizes, places and ranges of all its columns
_UNFINISHED_BEFORE_NS = 10_000_000 * 10**9  # the end of April 1970


@dataclass(frozen=True, slots=True)
class Published:
    """What is kept of the tables, to know them again: size and time of each, and what its last bytes are."""

    stats: dict[str, list[int]]
    feet: dict[str, str]


def look(folder: str) -> Published:
    stats = _stats(folder)
    return Published(stats, {name: foot_of(os.path.join(folder, name)) for name in stats})


def in_place(folder: str, left: Published) -> bool:
    now = _stats(folder)
    return now.keys() == left.stats.keys() and all(_same(folder, name, now[name], left) for name in now)


def _same(folder: str, name: str, seen: list[int], left: Published) -> bool:
    if seen == left.stats[name]:
        return True
    return seen[0] == left.stats[name][0] and foot_of(os.path.join(folder, name)) == left.feet.get(name)


def unfinished_ns(now: float) -> int:
    """A time that is older than any input, and another one for each run, for whoever copies what has a new time."""
    return int(now * 1e6)


def settle_time(files: Files, folder: str, now: float, *, finished: bool) -> None:
    """The results in place shall look finished to make, or not; a time that says so already is left alone."""
    path = os.path.join(folder, RESULTS)
    if (os.stat(path).st_mtime_ns >= _UNFINISHED_BEFORE_NS) == finished:
        return
    fd = files.open(path, os.O_RDONLY)
    try:
        files.date(fd, int(now * 1e9) if finished else unfinished_ns(now))
        files.fsync(fd)
    finally:
        files.close(fd)


def _stats(folder: str) -> dict[str, list[int]]:
    """Size and time of each table; a table that is not there has none."""
    stats = {}
    for name in (RESULTS, FAILED, ATTEMPTS):
        try:
            seen = os.stat(os.path.join(folder, name))
        except FileNotFoundError:
            continue
        stats[name] = [seen.st_size, seen.st_mtime_ns]
    return stats


def foot_of(path: str) -> str:
    """SHA-256 of the last bytes of a file. Raises FileNotFoundError."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _FOOT_BYTES))
        return hashlib.sha256(file.read()).hexdigest()
