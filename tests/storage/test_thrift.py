"""Thrift's compact protocol: what was written reads the same, and what was read is written the same."""

from __future__ import annotations

import io
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.thrift import (
    BINARY,
    BYTE,
    DOUBLE,
    FALSE,
    I16,
    I32,
    I64,
    LIST,
    SET,
    STRUCT,
    TRUE,
    Field,
    Items,
    Struct,
    read_struct,
    write_struct,
)

_PLAIN: dict[int, st.SearchStrategy[Any]] = {
    BYTE: st.integers(0, 255),
    I16: st.integers(-(1 << 15), (1 << 15) - 1),
    I32: st.integers(-(1 << 31), (1 << 31) - 1),
    I64: st.integers(-(1 << 63), (1 << 63) - 1),
    DOUBLE: st.binary(min_size=8, max_size=8),
    BINARY: st.binary(max_size=200),
}


def _one(kind: int, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Field]:
    return st.builds(Field, st.just(kind), values)


def _fields(deeper: st.SearchStrategy[Struct]) -> st.SearchStrategy[Struct]:
    kinds: dict[int, st.SearchStrategy[Any]] = {**_PLAIN, STRUCT: deeper}
    items = {**kinds, TRUE: st.integers(1, 2)}
    lists = st.one_of([st.builds(Items, st.just(kind), st.lists(each, max_size=40)) for kind, each in items.items()])
    every = [*kinds.items(), (TRUE, st.just(True)), (FALSE, st.just(False)), (LIST, lists), (SET, lists)]
    return st.dictionaries(st.integers(1, 1 << 14), st.one_of([_one(*each) for each in every]), max_size=6)


STRUCTS = st.recursive(st.just(Struct()), _fields, max_leaves=8)


@given(STRUCTS)
def test_a_struct_reads_as_it_was_written(struct: Struct) -> None:
    assert read_struct(write_struct(struct)) == struct


@given(STRUCTS)
def test_a_struct_may_stand_as_the_bytes_it_is_written_as(struct: Struct) -> None:
    whole = {1: Field(LIST, Items(STRUCT, [struct, struct]))}
    in_bytes = {1: Field(LIST, Items(STRUCT, [write_struct(struct)] * 2))}
    assert write_struct(whole) == write_struct(in_bytes)


@given(STRUCTS.filter(bool), st.data())
def test_a_struct_that_is_cut_off_is_refused(struct: Struct, data: st.DataObject) -> None:
    written = write_struct(struct)
    with pytest.raises(ValueError, match="end inside"):
        read_struct(written[: data.draw(st.integers(0, len(written) - 1))])


def test_known_bytes() -> None:
    """Of the specification: a step of 1 and 15 in the head, 16 as a number of its own; zigzag; a long list."""
    struct = {
        1: Field(I32, -3),
        16: Field(TRUE, True),
        32: Field(LIST, Items(I64, [1] * 15)),
        33: Field(BINARY, b"ab"),
    }
    written = b"\x15\x05\xf1\x09\x40\xf6\x0f" + b"\x02" * 15 + b"\x18\x02ab\x00"
    assert write_struct(struct) == written
    assert read_struct(written) == struct


def test_a_kind_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no such kind"):
        read_struct(b"\x1e\x00")


def test_the_end_of_a_parquet_file_is_written_as_it_was_read() -> None:
    buffer = io.BytesIO()
    frame = pl.DataFrame({"a": ["x", None], "b": [[1.5], []], "c": [{"d": True}, None]})
    frame.write_parquet(buffer, row_group_size=1)
    data = buffer.getvalue()
    end = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    assert write_struct(read_struct(end)) == end
