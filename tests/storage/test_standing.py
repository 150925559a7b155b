"""Rows and records joined range by range stand as they do in one plain join, whatever happened between the runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from tempfile import gettempdir
from typing import NamedTuple

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StorageError
from pipeline.storage.files import Files
from pipeline.storage.keys import Keys
from pipeline.storage.layout import Layout
from pipeline.storage.named import count_listed, count_named
from pipeline.storage.parquet import PART_SCHEMA
from pipeline.storage.ranged import Cursor, Ranged
from pipeline.storage.snapshot import STANDING_SCHEMA, Snapshot
from pipeline.storage.standing import beside, by_kind, standings
from tests.rigs.disk import Disk, Fault

ROW = st.tuples(st.integers(0, 9), st.sampled_from(["plain", "edited"]))
"""An id, and the question asked under it."""


class Event(NamedTuple):
    """What was written down of a row once."""

    row: tuple[int, str]
    event: str
    kind: str | None
    permanent: bool
    renewed: bool
    at: int
    stood: int = 0  # the ordinal of the row when it was asked


EVENT = st.builds(
    Event,
    ROW,
    st.sampled_from(["outcome", "outcome", "outcome", "attempt", "kept"]),
    st.sampled_from([None, None, "timeout", "content_policy"]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 5),
    st.integers(0, 14),
)


def key_list(rows: Sequence[tuple[int, str]], mode: str, held_rows: int = 3) -> Keys:
    """``mode``: id, place (no ids: equal questions are told apart by their number) or dedupe."""
    keys = Keys(has_ids=mode == "id", dedupe=mode == "dedupe", held_rows=held_rows)
    for name, question in rows:
        keys.add(str(name) if mode == "id" else None, f"{question} {name % 4}".encode())
    return keys


class Pieces(Snapshot):
    """A checkpoint whose pieces are in memory."""

    def __init__(self, events: Sequence[Event], cuts: Sequence[int], mode: str, files: Files | None = None) -> None:
        self.files = files or Files()
        self.layout = Layout(gettempdir())
        self.records = len(events)
        self._cache = {}
        self._seen = None
        self._sources = []
        begin = 0
        for end in [*sorted({min(cut, len(events)) for cut in cuts}), len(events)]:
            if begin < end:
                self._sources.append(_piece(events[begin:end], mode))
            begin = end


def _piece(events: Sequence[Event], mode: str) -> pl.DataFrame:
    columns = {
        "key": [bytes.fromhex(key_list([one.row], mode).hex(0)) for one in events],
        "event": [one.event for one in events],
        "ordinal": [one.stood for one in events],
        "id": [str(one.row[0]) for one in events],
        "status": ["failed" if one.kind else "ok" for one in events],
        "kind": [one.kind for one in events],
        "permanent": [one.permanent if one.kind else None for one in events],
        "renewed": [one.renewed or None for one in events],
        "ended_at": [float(one.at) for one in events],
    }
    return pl.DataFrame({name: columns.get(name, [None] * len(events)) for name in PART_SCHEMA}, schema=PART_SCHEMA)


def plain(keys: Keys, known: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The simple way, all at once."""
    rows = keys.frame()
    return rows.join(known, on="key", how="left", maintain_order="left"), known.join(rows, on="key", how="anti")


def told(events: Sequence[Event], mode: str) -> dict[str, tuple[bool, str | None, int]]:
    """By key: answered, kind and time of the record that counts, as the rule says it in words."""
    by_key: dict[str, list[Event]] = {}
    for one in events:
        if one.event == "outcome":
            by_key.setdefault(key_list([one.row], mode).hex(0), []).append(one)
    found = {}
    for key, history in by_key.items():
        answers = [one for one in history if one.kind is None]
        renewed = [one for one in answers if one.renewed]
        first = [one for one in answers if not one.renewed]
        counts = renewed[-1] if renewed else first[0] if first else history[-1]
        refused = [one.at for one in history if one.renewed and one.permanent and one.kind is not None]
        found[key] = (counts.kind is None, counts.kind, max([counts.at, *refused]))
    return found


def by_key(frame: pl.DataFrame) -> dict[str, tuple[bool, str | None, int]]:
    columns = frame.select("key", "answered", "kind", "at").rows()
    return {key.to_bytes(16, "little", signed=True).hex(): (*rest,) for key, *rest in columns}


@given(
    st.lists(ROW, max_size=12),
    st.lists(EVENT, max_size=16),
    st.lists(st.integers(0, 16), max_size=4),
    st.sampled_from(["id", "place", "dedupe"]),
    st.integers(1, 5),
    st.integers(0, 15),
)
def test_ranges_stand_as_the_whole_table_does(
    table: list[tuple[int, str]], events: list[Event], cuts: list[int], mode: str, range_rows: int, moved: int
) -> None:
    """Most rows stand where they stood when they were asked, but for those of the first ``moved`` records."""
    if mode == "id":
        table = list({row[0]: row for row in table}.values())
    stands = {row: place for place, row in enumerate(table)}
    events = [*events[:moved], *(one._replace(stood=stands.get(one.row, one.stood)) for one in events[moved:])]
    keys, snapshot = key_list(table, mode), Pieces(events, cuts, mode)
    whole, lost = plain(keys, snapshot.standing())
    ranged, gone = beside(keys, snapshot, range_rows)
    assert by_key(snapshot.standing()) == told(events, mode)
    assert ranged.whole().equals(whole)
    assert ranged.schema == whole.schema
    assert (ranged.height, gone.height) == (whole.height, lost.height)
    assert gone.whole().sort("key").equals(lost.sort("key"))
    assert all(
        frame.height <= max(range_rows, len(table) if snapshot.records <= range_rows else 0)
        for frame in ranged.frames()
    )
    every = standings(snapshot, range_rows)
    assert every.whole().sort("key").equals(snapshot.standing().sort("key"))
    assert by_kind(every).equals(by_kind(Ranged.of(snapshot.standing())))


FEW = st.builds(
    Event,
    st.tuples(st.integers(0, 4), st.just("plain")),
    st.just("outcome"),
    st.sampled_from([None, None, "timeout"]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 5),
)


@settings(max_examples=300)
@given(st.lists(st.tuples(FEW, st.sampled_from([None, None, 0, 2, 4, 9])), min_size=4, max_size=9), st.randoms())
def test_strays_come_home_in_the_order_in_which_they_were_recorded(
    history: list[tuple[Event, int | None]], chance: Random
) -> None:
    """Rows of several records each, of which a few were written down when the row stood elsewhere."""
    table = [(number, "plain") for number in range(4)]
    events = [one._replace(stood=one.row[0] if stood is None else stood) for one, stood in history]
    cuts = chance.sample(range(len(events)), 2)
    keys, snapshot = key_list(table, "id"), Pieces(events, cuts, "id")
    whole, lost = plain(keys, snapshot.standing())
    ranged, gone = beside(keys, snapshot, 3)
    assert ranged.whole().equals(whole)
    assert ranged.height == len(table)
    assert gone.whole().sort("key").equals(lost.sort("key"))


@given(
    st.lists(ROW, max_size=2),
    st.lists(ROW, min_size=4, max_size=12),
    st.lists(EVENT, min_size=8, max_size=16),
    st.lists(st.integers(0, 16), max_size=4),
    st.integers(1, 3),
)
def test_what_is_gone_is_counted_as_plain_sets_would(
    table: list[tuple[int, str]], before: list[tuple[int, str]], events: list[Event], cuts: list[int], range_rows: int
) -> None:
    keys, snapshot, listed = key_list(table, "dedupe"), Pieces(events, cuts, "dedupe"), key_list(before, "dedupe")
    _, gone = beside(keys, snapshot, range_rows)
    held = set(listed.frame()["key"])
    assert count_listed(gone, listed, range_rows) == len(set(gone.whole()["key"]) & held)
    names = pl.Series([str(number) for number in range(12)])
    wanted = set(snapshot.ids(gone.whole()))
    assert count_named(iter([names[:5], names[5:]]), gone, snapshot, range_rows) == len(set(names) & wanted)


@given(st.lists(st.integers(0, 4), max_size=6), st.lists(st.integers(0, 7), max_size=8))
def test_a_cursor_takes_the_rows_in_order_in_whatever_portions(heights: list[int], portions: list[int]) -> None:
    whole = pl.DataFrame({"number": range(sum(heights))}, schema={"number": pl.Int64})
    begins = [sum(heights[:place]) for place in range(len(heights))]
    frames = [whole.slice(begin, height) for begin, height in zip(begins, heights, strict=True)]
    cursor, begin = Cursor(Ranged(lambda: iter(frames), whole.schema)), 0
    for rows in portions:
        assert cursor.take(rows)["number"].to_list() == list(range(begin, min(begin + rows, whole.height)))
        begin = min(begin + rows, whole.height)


# -- the disk


EVENTS = [Event((number, "plain"), "outcome", None, False, False, 1) for number in range(10)]


@pytest.mark.parametrize(
    ("kind", "what"), [("open", "ENOSPC"), ("write", "ENOSPC"), ("write", "short"), ("write", "EIO"), ("unlink", "EIO")]
)
@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_disk_that_is_full_while_rows_are_spread_leaves_nothing_behind(
    kind: str, what: str, at: int, tmp_path: Path
) -> None:
    disk = Disk(str(tmp_path), Fault(kind, at, what))
    snapshot = Pieces(EVENTS, [3, 6], "id", disk)
    snapshot.layout = Layout(str(tmp_path))
    keys = key_list([one.row for one in EVENTS], "id")
    try:
        table, _ = beside(keys, snapshot, 3)
        assert table.whole().equals(plain(keys, snapshot.standing())[0])
        assert what == "short" or not disk.fired
    except StorageError as told:
        assert "run the same command again" in str(told)
    left = [path.name for path in tmp_path.iterdir()]
    assert len(left) == (kind == "unlink" and disk.fired)  # the next run empties it: its name ends in .tmp
    assert all(name.endswith(".tmp") for name in left)


def test_nothing_has_a_name_while_the_rows_are_spread(tmp_path: Path) -> None:
    snapshot = Pieces(EVENTS, [], "id")
    snapshot.layout = Layout(str(tmp_path))
    table, _ = beside(key_list([one.row for one in EVENTS], "id"), snapshot, 3)
    frames = table.frames()
    assert next(frames).height == 3
    assert not list(tmp_path.iterdir())


def test_a_reader_that_may_not_write_into_the_folder_uses_the_systems_own(tmp_path: Path) -> None:
    snapshot = Pieces(EVENTS, [], "id")
    snapshot.layout = Layout(str(tmp_path / "not there"))
    table, gone = beside(key_list([one.row for one in EVENTS[2:]], "id"), snapshot, 3)
    assert (table.height, gone.height) == (8, 2)
    assert gone.schema == STANDING_SCHEMA
