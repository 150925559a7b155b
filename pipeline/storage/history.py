"""What is kept of a job's finished runs: ``history/NNNN.json`` each, and the table that the latest one left.

A run's results replace those of the run before. To hold the one against the other, the old table gets a second name,
``history/NNNN.parquet`` after the run that left it, until the new run is settled (its end is in ``job.json``). So a
run that is cut off in between is compared with the right one when it is repeated.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict

import orjson

from pipeline.drift import Past
from pipeline.storage.files import Files, content, discard, make_folder, sync_folder, write_whole
from pipeline.storage.layout import Layout
from pipeline.storage.published import foot_of

KEPT = 100
"""Finished runs that are remembered."""
FORMAT = 1
_NAME = re.compile(r"(\d{4,})\.(json|parquet)")


class History:
    """Raises OSError where the disk fails it; what it cannot make sense of is as if it were not there."""

    def __init__(self, files: Files, layout: Layout) -> None:
        self.files = files
        self.folder = layout.history

    def past(self) -> list[Past]:
        """The finished runs, oldest first."""
        found = (self.entry(number) for number in self._numbers("json"))
        return [past for past in found if past is not None]

    def entry(self, number: int) -> Past | None:
        data = content(self.files, self._path(number, "json"))
        try:
            members = orjson.loads(data or b"")
            if members.pop("format") != FORMAT:
                return None
            return Past.of(members)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def latest(self) -> Past | None:
        """The finished run that the next one is held against: of one that was not settled, its predecessor."""
        aside = self._numbers("parquet")
        numbers = aside or self._numbers("json")
        return self.entry(numbers[-1]) if numbers else None

    def next_number(self) -> int:
        before = self._numbers("parquet") or self._numbers("json")
        return before[-1] + 1 if before else 1

    def table(self, past: Past, results: str) -> str | None:
        """The results that a run left, under a name that they keep while new ones are written; None when there are
        other ones in their place, or the file system gives no second name."""
        aside = self._path(past.number, "parquet")
        if os.path.lexists(aside):
            return aside
        if print_of(results) != list(past.results):
            return None
        try:
            self.files.link(results, aside)
            sync_folder(self.files, self.folder)
        except OSError:
            return None
        return aside

    def write(self, past: Past) -> None:
        make_folder(self.files, self.folder)
        members = {"format": FORMAT, **asdict(past)}
        write_whole(self.files, self._path(past.number, "json"), orjson.dumps(members, option=orjson.OPT_INDENT_2))
        for number in self._numbers("json")[:-KEPT]:
            discard(self.files, self._path(number, "json"))

    def settle(self, number: int) -> None:
        """Run ``number`` is the last that finished: the tables of earlier ones need no second name."""
        for old in self._numbers("parquet"):
            if old < number:
                discard(self.files, self._path(old, "parquet"))

    def _numbers(self, suffix: str) -> list[int]:
        matches = map(_NAME.fullmatch, self.files.names(self.folder))
        return sorted(int(match[1]) for match in matches if match is not None and match[2] == suffix)

    def _path(self, number: int, suffix: str) -> str:
        return os.path.join(self.folder, f"{number:04d}.{suffix}")


def print_of(path: str) -> Sequence[int | str]:
    """Names a table whatever its time says; nothing when there is none."""
    try:
        return [os.stat(path).st_size, foot_of(path)]
    except FileNotFoundError:
        return []
