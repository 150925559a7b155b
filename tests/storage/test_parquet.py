from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import StorageError
from pipeline.storage.files import Files, create
from pipeline.storage.parquet import PART_SCHEMA, _Sink, read_columns


def test_a_sink_that_has_ended_writes_into_no_file_that_took_over_its_descriptor(tmp_path: Path) -> None:
    """A table broke off, and a thread of polars wrote its last bytes into the next file that was opened."""
    files = Files()
    sink = _Sink(files, create(files, str(tmp_path / "table")))
    fd = sink.fd
    sink.end()
    with (tmp_path / "innocent").open("wb", buffering=0) as other:
        assert other.fileno() == fd
        with pytest.raises(OSError, match="descriptor"):
            sink.write(b"PAR1")
    assert (tmp_path / "innocent").read_bytes() == b""


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
