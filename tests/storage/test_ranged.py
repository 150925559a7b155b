"""Row groups are cut by rows and by bytes, wherever the frames were cut that they come from."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.ranged import cut

SCHEMA = {"t": pl.String(), "b": pl.Binary(), "l": pl.List(pl.String()), "n": pl.Int64()}
ROWS = st.fixed_dictionaries(
    {
        "t": st.none() | st.text("aé", max_size=6),
        "b": st.none() | st.binary(max_size=6),
        "l": st.none() | st.lists(st.none() | st.text("aé", max_size=3), max_size=3),
        "n": st.integers(0, 9),
    }
)


def _bytes(frame: pl.DataFrame) -> int:
    texts = [*frame["t"], *(text for texts in frame["l"].to_list() for text in texts or [])]
    return sum(len(text.encode()) for text in texts if text) + sum(len(data) for data in frame["b"] if data)


def _frames(table: pl.DataFrame, cuts: list[int]) -> Iterator[pl.DataFrame]:
    at = 0
    for size in cuts:
        yield table[at : at + size]
        at += size
    yield table[at:]


@given(st.lists(ROWS, max_size=30), st.lists(st.integers(0, 7), max_size=9), st.integers(1, 9), st.integers(1, 40))
def test_a_cut_ends_with_the_row_that_fills_it(
    rows: list[dict[str, object]], cuts: list[int], most_rows: int, most_bytes: int
) -> None:
    table = pl.DataFrame(rows, schema=SCHEMA)
    groups = list(cut(_frames(table, cuts), most_rows, most_bytes))
    assert pl.concat([pl.DataFrame(schema=SCHEMA), *groups]).equals(table)
    for place, group in enumerate(groups):
        assert 0 < group.height <= most_rows
        assert group.height == 1 or _bytes(group[:-1]) < most_bytes
        if place < len(groups) - 1:
            assert group.height == most_rows or _bytes(group) >= most_bytes


def test_rows_without_texts_are_cut_by_their_number() -> None:
    table = pl.DataFrame({"n": range(25)})
    assert [frame.height for frame in cut(table.iter_slices(7), 10, 1)] == [10, 10, 5]
