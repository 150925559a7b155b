from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.storage.files import Files, create
from pipeline.storage.parquet import _Sink


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
