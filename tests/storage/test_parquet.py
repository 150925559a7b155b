from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.errors import StorageError
from pipeline.storage.files import Files
from pipeline.storage.parquet import PART_SCHEMA, ROW_GROUP, read_columns, write_table


def test_a_part_of_an_earlier_version_reads_with_nulls_for_what_it_does_not_have(tmp_path: Path) -> None:
    path = str(tmp_path / "part")
    old = {name: kind for name, kind in PART_SCHEMA.items() if name != "media"}
    pl.DataFrame({name: [None] for name in old}, schema=old).write_parquet(path)
    read = read_columns(path, ["media", "text"])
    assert read.schema == {"media": PART_SCHEMA["media"], "text": PART_SCHEMA["text"]}
    assert read.rows() == [(None, None)]


def test_a_part_without_a_column_that_all_parts_have_is_no_part(tmp_path: Path) -> None:
    path = str(tmp_path / "part")
    pl.DataFrame({"key": [b""]}).write_parquet(path)
    with pytest.raises(StorageError, match="cannot be read as a part"):
        read_columns(path, ["key", "text"])


SCHEMA = {"n": pl.Int64(), "t": pl.String()}


def _written(path: Path, frames: Iterable[pl.DataFrame], **more: Any) -> int:
    return write_table(Files(), str(path), SCHEMA, frames, **more)


def test_a_table_holds_all_rows_in_groups_however_they_were_cut(tmp_path: Path) -> None:
    rows = 2 * ROW_GROUP + 17
    table = pl.DataFrame({"n": range(rows), "t": [f"{number % 91:090d}" for number in range(rows)]}, schema=SCHEMA)
    looked: list[pl.DataFrame] = []
    assert _written(tmp_path / "one", [table], onlooker=looked.append) == rows
    assert _written(tmp_path / "many", table.iter_slices(777)) == rows
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()
    assert pl.read_parquet(tmp_path / "one").equals(table)
    assert [frame.height for frame in looked] == [ROW_GROUP, ROW_GROUP, 17]
    assert pl.concat(looked).equals(table)


def test_a_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    assert _written(tmp_path / "none", []) == 0
    assert pl.read_parquet(tmp_path / "none").schema == SCHEMA


def test_a_table_that_breaks_off_leaves_the_one_before(tmp_path: Path) -> None:
    def frames() -> Iterator[pl.DataFrame]:
        yield pl.DataFrame({"n": range(ROW_GROUP), "t": ""}, schema=SCHEMA)
        raise OSError(5, "the disk")

    (tmp_path / "table").write_bytes(b"before")
    with pytest.raises(OSError, match="the disk"):
        _written(tmp_path / "table", frames())
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("table", b"before")]


def test_a_frame_of_another_schema_is_no_part_of_a_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another schema"):
        _written(tmp_path / "table", [pl.DataFrame({"n": ["1"], "t": [""]})])
    assert not list(tmp_path.iterdir())


def test_long_texts_make_shorter_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand rows of 50 kB each were put together in memory before one of them was written."""
    monkeypatch.setattr("pipeline.storage.parquet.ROW_GROUP_BYTES", 1_000)
    table = pl.DataFrame({"n": range(50), "t": ["x" * 300] * 50}, schema=SCHEMA)
    looked: list[pl.DataFrame] = []
    assert _written(tmp_path / "table", table.iter_slices(7), onlooker=looked.append) == 50
    assert [frame.height for frame in looked] == [4] * 12 + [2]
    assert pl.read_parquet(tmp_path / "table").equals(table)
