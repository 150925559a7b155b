"""Files of one schema become one, which any reader takes for a file that was written at once."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.row_groups import joined
from pipeline.storage.thrift import Items, Struct, read_struct

COLUMNS: dict[str, tuple[pl.DataType, st.SearchStrategy[Any]]] = {
    "text": (pl.String(), st.text(max_size=30)),
    "whole": (pl.Int64(), st.integers(-(1 << 63), (1 << 63) - 1)),
    "real": (pl.Float64(), st.floats(allow_nan=False)),
    "truth": (pl.Boolean(), st.booleans()),
    "day": (pl.Date(), st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31))),
    "time": (pl.Datetime("us", "UTC"), st.datetimes(dt.datetime(1900, 1, 1), timezones=st.just(dt.UTC))),
    "bytes": (pl.Binary(), st.binary(max_size=30)),
    "money": (pl.Decimal(12, 2), st.integers(-999, 999).map(lambda cents: Decimal(cents) / 100)),
    "kind": (pl.Enum(["a", "b"]), st.sampled_from("ab")),
    "many": (pl.List(pl.String()), st.lists(st.text(max_size=3), max_size=3)),
    "pair": (pl.Struct({"x": pl.Int32(), "y": pl.String()}), st.fixed_dictionaries({"x": st.integers(0, 9)})),
}
SCHEMA = {name: kind for name, (kind, _) in COLUMNS.items()}
ROWS = st.fixed_dictionaries({name: st.none() | values for name, (_, values) in COLUMNS.items()})


def _file(frame: pl.DataFrame, **more: Any) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, **{"compression": "zstd", **more})
    return buffer.getvalue()


def _whole(frames: Sequence[pl.DataFrame], **more: Any) -> bytes:
    return b"".join(joined(_file(frame, **more) for frame in frames))


def _footer(data: bytes) -> Struct:
    return read_struct(data[-8 - int.from_bytes(data[-8:-4], "little") : -8])


def _structs(fields: Struct, number: int) -> list[Struct]:
    return cast(list[Struct], cast(Items, fields[number].value).values)


def _columns(data: bytes) -> Iterator[Struct]:
    for group in _structs(_footer(data), 4):
        yield from _structs(group, 1)


def _number(fields: Struct, at: int) -> int:
    return cast(int, fields[at].value)


@given(st.lists(st.lists(ROWS, max_size=4), min_size=1, max_size=4))
def test_the_rows_of_all_files_are_in_the_one(parts: list[list[dict[str, Any]]]) -> None:
    frames = [pl.DataFrame(rows, schema=SCHEMA) for rows in parts]
    data = _whole(frames)
    assert pl.read_parquet(io.BytesIO(data)).equals(pl.concat(frames))
    other = pq.read_table(io.BytesIO(data))
    assert other.num_rows == sum(frame.height for frame in frames)
    assert other.equals(pq.read_table(io.BytesIO(_file(pl.concat(frames)))))


LONG = [
    pl.DataFrame({"n": range(start, start + 3_000), "t": [f"{start + number:060d}" for number in range(3_000)]})
    for start in (0, 3_000, 6_000)
]


def test_every_group_is_numbered_and_counted() -> None:
    data = _whole([*LONG, LONG[0]], row_group_size=2_000)
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    assert metadata.num_rows == 12_000
    assert [metadata.row_group(place).num_rows for place in range(8)] == [2_000, 1_000] * 4
    assert [_number(group, 7) for group in _structs(_footer(data), 4)] == list(range(8))


def test_groups_beyond_those_that_a_number_has_room_for_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.storage.row_groups._MOST_NUMBERED", 1)
    data = _whole(LONG)
    assert [7 in group for group in _structs(_footer(data), 4)] == [True, True, False]
    assert pl.read_parquet(io.BytesIO(data)).equals(pl.concat(LONG))


def test_a_reader_that_skips_by_what_is_said_of_groups_and_pages_finds_its_row() -> None:
    data = _whole(LONG, data_page_size=8_192)
    assert pl.scan_parquet(io.BytesIO(data)).filter(pl.col("n") == 7_654).collect()["t"].item() == f"{7_654:060d}"
    found = pq.read_table(io.BytesIO(data), filters=[("n", "==", 7_654)])
    assert found.column("t").to_pylist() == [f"{7_654:060d}"]


def test_every_place_is_that_of_what_it_names() -> None:
    """The pages of a column lie one behind the other from its first place on; so says its index, where it has one."""
    data = _whole(LONG, data_page_size=8_192)
    pages = 0
    for column in _columns(data):
        chunk = cast(Struct, column[3].value)
        begin = min(_number(chunk, at) for at in (9, 11) if at in chunk)
        assert _number(column, 2) == 0  # the standard has given up this place
        index = read_struct(data[_number(column, 4) : _number(column, 4) + _number(column, 5)])
        place = _number(chunk, 9)
        for page in _structs(index, 1):
            assert _number(page, 1) == place
            head = read_struct(data[place:])
            assert _number(head, 1) in (0, 3)  # a page of data, of either version
            place += _number(page, 2)
            pages += 1
        assert place == begin + _number(chunk, 7)
        bounds = read_struct(data[_number(column, 6) : _number(column, 6) + _number(column, 7)])
        assert len(cast(Items, bounds[1].value).values) == len(_structs(index, 1))
    assert pages > 3 * 2 * 3
    for group in _structs(_footer(data), 4):
        first = cast(Struct, _structs(group, 1)[0][3].value)
        assert _number(group, 5) == min(_number(first, at) for at in (9, 11) if at in first)


def test_one_file_alone_keeps_its_rows() -> None:
    assert pl.read_parquet(io.BytesIO(_whole(LONG[:1]))).equals(LONG[0])


def test_files_of_another_writer_are_joined_as_well() -> None:
    """No page indexes, dictionaries, and other encodings than polars chooses."""
    table = pa.table({"n": [1, 2, 2], "t": ["a", "b", "b"]})
    files = []
    for version in ("1.0", "2.0"):
        sink = io.BytesIO()
        pq.write_table(table, sink, data_page_version=version, write_page_index=version == "2.0")
        files.append(sink.getvalue())
    data = b"".join(joined(files))
    assert pq.read_table(io.BytesIO(data)).equals(pa.concat_tables([table, table]))
    assert pl.read_parquet(io.BytesIO(data))["t"].to_list() == ["a", "b", "b"] * 2


def test_tables_of_different_schemas_are_refused() -> None:
    with pytest.raises(ValueError, match="one schema"):
        _whole([pl.DataFrame({"a": [1]}), pl.DataFrame({"a": ["1"]})])


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1\0\0\0\0", _file(LONG[0])[:-1], _file(LONG[0])[1:]])
def test_what_is_no_parquet_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        list(joined([data]))


def test_no_file_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no table"):
        list(joined([]))
