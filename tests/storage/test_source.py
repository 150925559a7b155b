from __future__ import annotations

import csv
import datetime as dt
import decimal
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.storage.ids import find_offenders
from pipeline.storage.source import Selection, Source

Write = Callable[..., str]
Quoting = Literal[0, 1, 2]  # minimal, all, non-numeric of the csv module


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file into the working directory of the test; gives its relative path."""
    monkeypatch.chdir(tmp_path)

    def to(name: str, content: str | bytes) -> str:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    return to


def opened(path: str, batch_rows: int = 5000, chunk_bytes: int = 4 << 20, **selection: Any) -> Source:
    return Source(Selection((path,), **selection), batch_rows, chunk_bytes)


def table(source: Source, start: int = 0) -> list[tuple[Any, ...]]:
    return [row for frame in source.frames(start=start) for row in frame.rows()]


def read(path: str, **selection: Any) -> list[tuple[Any, ...]]:
    return table(opened(path, **selection))


def refused(path: str, **selection: Any) -> str:
    """The message with which reading the whole file ends."""
    with pytest.raises(InputError) as caught:
        source = opened(path, **selection)
        source.count()
        table(source)
    return str(caught.value)


def save(frame: pl.DataFrame, path: str) -> None:
    if path.endswith(".csv"):
        frame.write_csv(path)
    elif path.endswith(".parquet"):
        frame.write_parquet(path)
    else:
        frame.write_ndjson(path)


# -- CSV: what stands in the file comes out


@pytest.mark.fault("D02", "D04")
def test_csv_cells_come_out_exactly_whatever_the_line_ends_and_quotes(write: Write) -> None:
    path = write("a.csv", b'\xef\xbb\xbfid,text\r\n1,"a, ""b""\r\nc"\r\n2,\r\n3,""\r\n4,x\x00y')
    assert read(path) == [("1", 'a, "b"\r\nc'), ("2", None), ("3", ""), ("4", "x\0y")]


@pytest.mark.fault("D09", "D10")
def test_ids_and_words_are_text_as_they_stand(write: Write) -> None:
    cells = ["007", "1e5", "12345678901234567890", "1.0", "null", "NA", "true", "no", "None", "NaN", " x "]
    path = write("a.csv", "id\n" + "\n".join(cells) + "\n")
    source = opened(path, id="id")
    source.check_ids()
    rows = [row for batch in source.rows(["id"]) for row in batch]
    assert [row.id for row in rows] == cells
    assert [row.fields["id"] for row in rows] == cells
    assert [row.ordinal for row in rows] == list(range(len(cells)))


def test_a_quote_inside_a_bare_cell_is_an_ordinary_character(write: Write) -> None:
    path = write("a.csv", 'a,b\n5" disk,x\n"q\n""r""",6" disk\ny,"z"\n')
    assert read(path) == [('5" disk', "x"), ('q\n"r"', '6" disk'), ("y", "z")]


def test_a_carriage_return_inside_a_bare_cell_is_kept(write: Write) -> None:
    assert read(write("a.csv", b"a,b\r\nx\r,y\rz\r\n")) == [("x\r", "y\rz")]


def test_a_byte_order_mark_at_the_start_of_a_cell_is_kept(write: Write) -> None:
    assert read(write("a.csv", "a\n\ufeffx\n"), chunk_bytes=1) == [("\ufeffx",)]


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_tsv_is_known_by_its_suffix_and_unpacked(write: Write, name: str) -> None:
    data = b'a\tb\n1,2\t"x\ty"\n'
    assert read(write(name, gzip.compress(data) if name.endswith("gz") else data)) == [("1,2", "x\ty")]


def test_the_format_can_be_said(write: Write) -> None:
    assert read(write("a.txt", "a\tb\n1\t2\n"), format="tsv") == [("1", "2")]
    assert "format: csv" in refused(write("b.txt", "a\n"))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.text(' "\n\r,;\tab\ufeff\0é', max_size=6)


QUOTINGS: list[Quoting] = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[list[str]], Quoting, str, str]:
    quoting: Quoting = draw(st.sampled_from(QUOTINGS))
    line_end = draw(st.sampled_from(["\r\n", "\n"]))
    width = draw(st.integers(1, 4))
    rows = draw(st.lists(st.lists(TEXT, min_size=width, max_size=width), max_size=12))
    if line_end == "\n" and quoting == csv.QUOTE_MINIMAL:  # Python 3.11 leaves a bare CR before the LF: ambiguous
        rows = [[cell.replace("\r", "") for cell in row] for row in rows]
    return rows, quoting, line_end, draw(st.sampled_from([",", "\t"]))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_table=tables(), chunk_bytes=st.sampled_from([1, 2, 3, 7, 16, 50, 1 << 20]), start=st.integers(0, 13))
def test_any_table_that_python_writes_reads_back_at_any_chunk_size(
    tmp_path: Path, given_table: tuple[list[list[str]], Quoting, str, str], chunk_bytes: int, start: int
) -> None:
    rows, quoting, line_end, separator = given_table
    width = len(rows[0]) if rows else 1
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=quoting, lineterminator=line_end, delimiter=separator)
    writer.writerow([f"c{i}" for i in range(width)])
    writer.writerows(rows)
    path = tmp_path / "a.csv"
    path.write_bytes(out.getvalue().encode())
    source = Source(Selection((str(path),), format="csv" if separator == "," else "tsv"), 3, chunk_bytes)
    assert [[cell or "" for cell in row] for row in table(source)] == rows
    assert source.count() == len(rows)
    assert [[cell or "" for cell in row] for row in table(source, start)] == rows[start:]


# -- CSV: faults


@pytest.mark.fault("D01")
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(write: Write, content: bytes) -> None:
    assert "a.csv is empty" in refused(write("a.csv", content))


@pytest.mark.fault("D01")
@pytest.mark.parametrize("content", ["a,b", "a,b\n", "a,b\r\n\r\n"])
def test_a_header_alone_is_a_table_of_no_rows(write: Write, content: str) -> None:
    source = opened(write("a.csv", content), id="a")
    source.check(["b"])
    source.check_ids()
    assert (source.count(), table(source), list(source.rows(["b"]))) == (0, [], [])


@pytest.mark.fault("D03")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b\n1,2\n".encode("utf-16"), "encoding: utf-16"),
        ("a,b\n1,2\n".encode("utf-16-le"), "encoding: utf-16"),
        (b"a,b\r1,2\r", "CR alone"),
        (b'"a","b"\r"1","2"\r', "CR alone"),
        (b"a;b\n1;2\n", "semicolon-separated"),
        (b"a\tb\n1\t2\n", "format: tsv"),
        ("a\ufffd,b\n1,2\n".encode(), "damaged"),
        (b"a,a\n1,2\n", "'a' twice"),
        (b"a,,c\n1,2,3\n", "column 2 has no name"),
    ],
)
def test_a_header_that_is_none_is_refused_with_a_hint(write: Write, content: bytes, words: str) -> None:
    message = refused(write("a.csv", content))
    assert "a.csv" in message
    assert words in message


@pytest.mark.fault("D05")
def test_another_encoding_is_refused_until_it_is_named(write: Write) -> None:
    path = write("a.csv", 'a,b\n1,"x\ny"\n2,café\n'.encode("latin-1"))
    message = refused(path)
    assert "a.csv line 4 is not UTF-8" in message
    assert "encoding: latin-1" in message
    assert read(path, encoding="latin-1") == [("1", "x\ny"), ("2", "café")]


@pytest.mark.fault("D05")
@pytest.mark.parametrize("encoding", ["utf-16", "cp1252", "shift_jis", "utf-8-sig", "utf-8"])
@pytest.mark.parametrize("chunk_bytes", [1, 5, 1 << 20])
def test_a_named_encoding_is_decoded_across_blocks(write: Write, encoding: str, chunk_bytes: int) -> None:
    text = "a,b\n1,ポ\n" if encoding in ("shift_jis", "utf-16") else "a,b\n1,é\n"
    path = write("a.csv", text.encode(encoding))
    assert table(opened(path, encoding=encoding, chunk_bytes=chunk_bytes)) == [("1", text[6])]


def test_a_wrong_named_encoding_is_refused_with_the_line(write: Write) -> None:
    path = write("a.csv", b"a\nx\n\x81\n")
    assert "a.csv line 3 is not cp1252 (bytes 81)" in refused(path, encoding="cp1252")
    assert "'utf-99' is not an encoding" in refused(path, encoding="utf-99")
    assert "'hex' is not an encoding" in refused(path, encoding="hex")
    assert "is for CSV" in refused(write("a.jsonl", "{}"), encoding="latin-1")


@pytest.mark.fault("D06", "D07")
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
@pytest.mark.parametrize(
    ("line", "words"),
    [("4,5,6", "line 6 has 3 cells where the header names 2"), ("4", "line 6 has 1 cells where the header names 2")],
)
def test_a_ragged_line_is_refused_with_its_number(write: Write, line: str, words: str, chunk_bytes: int) -> None:
    message = refused(write("a.csv", f'a,b\n1,"x\ny,z"\n\n3,\n{line}\n7,8\n'), chunk_bytes=chunk_bytes)
    assert words in message
    assert f"'{line}'" in message


def test_a_long_and_a_short_line_do_not_make_up_for_each_other(write: Write) -> None:
    assert "line 2 has 3 cells" in refused(write("a.csv", "a,b\n1,2,3\n4\n"))


@pytest.mark.fault("D07")
@pytest.mark.parametrize("chunk_bytes", [1, 4, 1 << 20])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_blank_lines_are_skipped_and_counted_but_not_inside_quotes(
    write: Write, line_end: str, chunk_bytes: int
) -> None:
    lines = ["a,b", "", "1,2", "", "", '"x', "", 'y",4', "", "5,6", ""]
    source = opened(write("a.csv", line_end.join(lines) + line_end), chunk_bytes=chunk_bytes)
    assert table(source) == [("1", "2"), (f"x{line_end}{line_end}y", "4"), ("5", "6")]
    assert source.count() == 3
    assert source.blank_lines == 5


@pytest.mark.fault("D08")
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_a_quote_that_never_closes_is_refused_with_its_line(write: Write, chunk_bytes: int) -> None:
    message = refused(write("a.csv", 'a,b\n1,2\n3,"x\n4,5\n'), chunk_bytes=chunk_bytes)
    assert "a.csv line 3 opens a quote that is never closed" in message


@pytest.mark.fault("D08")
def test_text_after_a_closing_quote_is_refused_with_its_line(write: Write) -> None:
    message = refused(write("a.csv", 'a,b\n1,"he said "hi" to me"\n'))
    assert "a.csv line 2: a quoted cell goes on after its closing quote" in message


def test_a_line_without_an_end_does_not_fill_the_memory(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.storage.csv_chunks.MAX_LINE_BYTES", 1000)
    path = write("a.csv", 'a,b\n1,"x' + "y" * 5000 + "\n" * 5000 + '"\n')
    assert "line 2 does not end within" in refused(path, chunk_bytes=100)


def test_a_damaged_gzip_file_is_refused(write: Write) -> None:
    data = gzip.compress(b"a,b\n" + b"1,2\n" * 1000)
    assert "not a whole gzip file" in refused(write("a.csv.gz", data[:-12]))
    assert "not a whole gzip file" in refused(write("b.csv.gz", b"a,b\n"))


# -- files


def test_a_missing_file_is_told_with_the_working_directory(write: Write, tmp_path: Path) -> None:
    for path in ("nope.csv", "nope.parquet", "nope*.csv"):
        message = refused(path)
        assert path in message
        assert f"working directory: {tmp_path}" in message
    os.mkdir("folder.csv")
    assert "folder.csv is a folder" in refused("folder.csv")


def test_a_glob_reads_its_files_in_sorted_order(write: Write) -> None:
    write("p2.csv", "a,b\n3,4\n")
    write("p1.csv", "b,a\n2,1\n")
    source = Source(Selection(("p*.csv",)))
    assert source.files == ("p1.csv", "p2.csv")
    assert [row for f in source.frames(["a", "b"]) for row in f.rows()] == [("1", "2"), ("3", "4")]
    with pytest.raises(InputError, match=r"p1\.csv is named twice"):
        Source(Selection(("p*.csv", "p1.csv")))


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(write: Write) -> None:
    assert read(write("a[1].csv", "a\n1\n")) == [("1",)]
    pl.DataFrame({"a": [1]}).write_parquet("a[1].parquet")
    assert read("a[1].parquet") == [(1,)]


def test_files_of_different_columns_are_refused_by_name(write: Write) -> None:
    write("1.csv", "a,b\n1,2\n")
    write("2.csv", "a,c\n1,2\n")
    write("3.csv", "a,b,c\n1,2,3\n")
    pl.DataFrame({"a": [1], "b": ["x"]}).write_parquet("4.parquet")
    for second, words in [
        ("2.csv", "2.csv has no column 'b'"),
        ("3.csv", "3.csv has a column 'c'"),
        ("4.parquet", "'a' is Int64 in 4.parquet and String in 1.csv"),
    ]:
        with pytest.raises(InputError, match=words):
            Source(Selection(("1.csv", second)))


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl"])
def test_an_address_reads_as_the_file_behind_it_does(write: Write, tmp_path: Path, name: str) -> None:
    frame = pl.DataFrame({"id": ["007", "8"], "text": ["a", "é, \n"]})
    save(frame, name)
    source = opened(f"file://{tmp_path}/{name}", id="id")
    source.check_ids()
    assert table(source) == frame.rows()
    assert source.count() == 2
    assert source.fingerprint() == ""


# -- columns and ids


@pytest.mark.fault("D16")
def test_a_missing_column_is_told_with_the_likely_one(write: Write) -> None:
    source = opened(write("a.csv", "id,title\n1,2\n"), id="ident")
    with pytest.raises(InputError) as caught:
        source.check(["titel", "id"])
    assert "no column 'titel'; did you mean 'title'?" in str(caught.value)
    assert "no column 'ident'" in str(caught.value)
    assert "id, title" in str(caught.value)


@pytest.mark.fault("D15")
@pytest.mark.parametrize("column", ["items", "pair", "raw", "fixed"])
def test_a_column_that_is_no_plain_value_is_refused_by_name_and_type(write: Write, column: str) -> None:
    frame = pl.DataFrame(
        {"items": [["x"]], "pair": [{"a": 1}], "raw": [b"x"], "fixed": pl.Series([[1, 2]], dtype=pl.Array(pl.Int64, 2))}
    )
    frame.write_parquet("a.parquet")
    source = opened("a.parquet")
    with pytest.raises(InputError, match=f"column '{column}' is {str(frame.schema[column]).split('(')[0]}"):
        source.check([column])
    source.check([])


@pytest.mark.fault("D15")
def test_typed_cells_become_plain_values(write: Write) -> None:
    frame = pl.DataFrame(
        {
            "i": pl.Series([1, None], dtype=pl.Int8),
            "big": pl.Series([2**64 - 1, 0], dtype=pl.UInt64),
            "f": [1.5, float("nan")],
            "g": pl.Series([0.1, float("inf")], dtype=pl.Float32),
            "b": [True, None],
            "d": [dt.date(2024, 2, 29), None],
            "t": [dt.datetime(2024, 2, 29, 1, 2, 3), None],
            "z": [dt.datetime(2024, 2, 29, 1, 2, 3, 500_000, tzinfo=dt.UTC), None],
            "c": [dt.time(1, 2, 3), None],
            "u": [dt.timedelta(hours=25), None],
            "m": [decimal.Decimal("1.50"), None],
            "e": pl.Series(["x", None], dtype=pl.Enum(["x", "y"])),
            "k": pl.Series(["x", None], dtype=pl.Categorical),
            "n": [None, None],
        }
    )
    frame.write_parquet("a.parquet")
    source = opened("a.parquet")
    source.check(frame.columns)
    first, second = next(source.rows(frame.columns))
    assert list(first.fields.values()) == [
        1,
        2**64 - 1,
        1.5,
        0.1,
        True,
        "2024-02-29",
        "2024-02-29T01:02:03.000000",
        "2024-02-29T01:02:03.500000+00:00",
        "01:02:03",
        "P1DT1H",
        "1.50",
        "x",
        "x",
        None,
    ]
    assert [value for value in second.fields.values() if value is not None] == [0]


@pytest.mark.fault("D12")
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_empty_ids_are_refused_with_their_lines(write: Write, chunk_bytes: int) -> None:
    source = opened(write("a.csv", 'id,t\n1,"x\ny"\n\n,z\n"",z\n2,z\n'), id="id", chunk_bytes=chunk_bytes)
    with pytest.raises(InputError, match="'id' is empty in 2 rows: line 5, line 6;"):
        source.check_ids()


@pytest.mark.fault("D12")
def test_repeated_ids_are_refused_with_the_first_ten(write: Write) -> None:
    write("1.csv", "id,t\n" + "".join(f"{i},x\n" for i in range(20)))
    write("2.csv", "t,id\n" + "".join(f"x,{i}\n" for i in range(5, 20)))
    with pytest.raises(InputError) as caught:
        Source(Selection(("1.csv", "2.csv"), id="id")).check_ids()
    message = str(caught.value)
    assert "repeats ids in 15 rows: '5' (2.csv line 2, first 1.csv line 7), '6'" in message
    assert "'14' (2.csv line 11, first 1.csv line 16) and 5 more" in message
    assert "'15'" not in message


@pytest.mark.fault("D12")
def test_ids_are_looked_at_after_the_condition_and_told_by_their_row_in_the_file(write: Write) -> None:
    pl.DataFrame({"id": [7, 7, 8, 8], "n": [0, 1, 1, 1]}).write_parquet("a.parquet")
    with pytest.raises(InputError, match=r"in 1 rows: '8' \(row 4, first row 3\);"):
        opened("a.parquet", id="id", where="n = 1").check_ids()
    opened("a.parquet", id="id", where="n = 1", limit=2).check_ids()


@given(
    ids=st.lists(st.sampled_from("abcdefgh"), max_size=12),
    hashed=st.sampled_from([lambda name: 0, ord, lambda name: ord(name) * 37 % 5]),
    range_rows=st.integers(1, 12),
)
def test_ids_whose_hashes_collide_are_not_taken_for_repeated(
    ids: list[str], hashed: Callable[[str], int], range_rows: int
) -> None:
    rows = pl.Series(range(len(ids)), dtype=pl.Int64)
    series = pl.Series(ids, dtype=pl.String)
    offenders = find_offenders(
        lambda: ((series[begin : begin + 5], rows[begin : begin + 5]) for begin in range(0, len(ids), 5)),
        lambda some: pl.Series([hashed(name) for name in some], dtype=pl.UInt64),
        range_rows,
    )
    seen: dict[str, int] = {}
    repeated = [(name, seen[name], i) for i, name in enumerate(ids) if seen.setdefault(name, i) != i]
    assert list(offenders.repeated_at) == repeated[:10]


def test_a_typed_id_comes_out_as_text(write: Write) -> None:
    pl.DataFrame({"id": [7, 10**18], "t": ["a", "b"]}).write_parquet("a.parquet")
    assert [row.id for row in next(opened("a.parquet", id="id").rows(["t"]))] == ["7", "1000000000000000000"]


def test_rows_hold_only_the_used_columns_and_no_id_when_none_is_named(write: Write) -> None:
    source = opened(write("a.csv", "a,b,c\n1,2,3\n4,,6\n"), batch_rows=1)
    assert [[(r.ordinal, r.id, r.fields) for r in batch] for batch in source.rows(["c", "b"])] == [
        [(0, None, {"c": "3", "b": "2"})],
        [(1, None, {"c": "6", "b": None})],
    ]
    assert [r.ordinal for batch in source.rows([]) for r in batch] == [0, 1]


# -- where, limit, start


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl"])
@given(
    cut=st.integers(0, 40),
    limit=st.none() | st.integers(0, 40),
    start=st.integers(0, 40),
    batch_rows=st.integers(1, 50),
    chunk_bytes=st.sampled_from([1, 40, 1 << 20]),
    files=st.integers(1, 3),
    filtered=st.booleans(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_where_limit_and_start_choose_the_rows_that_a_full_read_has_there(
    tmp_path: Path,
    name: str,
    cut: int,
    limit: int | None,
    start: int,
    batch_rows: int,
    chunk_bytes: int,
    files: int,
    filtered: bool,
) -> None:
    every = []
    for number in range(files):
        frame = pl.DataFrame({"id": [f"{number}-{i}" for i in range(15)], "n": [str(i * 7 % 41) for i in range(15)]})
        path = str(tmp_path / f"{number}{name}")
        save(frame, path)
        every += frame.rows()
    where = f"cast(n as int) >= {cut}" if filtered else None
    expected = [row for row in every if not filtered or int(row[1]) >= cut][:limit]
    paths = tuple(str(tmp_path / f"{number}{name}") for number in range(files))
    source = Source(Selection(paths, id="id", where=where, limit=limit), batch_rows, chunk_bytes)
    assert source.count() == len(expected)
    assert table(source, start) == expected[start:]
    rows = [row for batch in source.rows(["n"], start) for row in batch]
    assert [(row.ordinal, row.id, row.fields["n"]) for row in rows] == [
        (i, *row) for i, row in enumerate(expected[start:], start)
    ]
    assert all(frame.height <= batch_rows for frame in source.frames(["n"]))


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("stars >", "such as: stars is not null"),
        ("sars = '1'", "no column 'sars'"),
        ("stars > 3", "TRY_CAST"),
        ("stars", "gives String, not true or false"),
        ("length(stars) > avg(length(stars))", "one row at a time"),
        ("row_number() over (order by stars) < 3", "one row at a time"),
        ("count(*) > 1", "one row at a time"),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(write: Write, where: str, words: str) -> None:
    assert words in refused(write("a.csv", "stars,Len\n1,2\n"), where=where)


def test_a_condition_may_look_at_any_column_of_a_row(write: Write) -> None:
    path = write("a.csv", 'stars,Len\n1,a\n,b\n3,"c\nd"\nx,e\n')
    assert read(path, where="stars is not null and Len <> 'a'") == [("3", "c\nd"), ("x", "e")]
    assert read(path, where="Len in ('a', 'b')") == [("1", "a"), (None, "b")]
    assert read(path, where="try_cast(stars as int) >= 3") == [("3", "c\nd")]
    assert len(read(path, where="1 = 1")) == 4
    assert "a.csv: where fails on its data" in refused(path, where="cast(stars as int) >= 3")


# -- Parquet


def test_parquet_reads_back_in_its_own_types_whatever_the_row_groups(write: Write) -> None:
    frame = pl.DataFrame({"n": range(5000), "t": [f"text {i}" * (i % 9) for i in range(5000)], "x": [[1]] * 5000})
    for size in (700, 5000):
        frame.write_parquet("a.parquet", row_group_size=size)
        source = opened("a.parquet", batch_rows=300)
        assert source.schema == dict(frame.schema)
        assert pl.concat(list(source.frames())).equals(frame)
        assert pl.concat(list(source.frames(["t"], start=1234))).equals(frame.select("t")[1234:])


def test_wide_parquet_rows_come_in_short_slices(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.storage.parquet_reader.SLICE_BYTES", 10_000)
    monkeypatch.setattr("pipeline.storage.parquet_reader.FIRST_ROWS", 10)
    pl.DataFrame({"t": ["x" * 1000] * 100}).write_parquet("a.parquet")
    heights = [frame.height for frame in opened("a.parquet").frames()]
    assert sum(heights) == 100
    assert max(heights) <= 10


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"id,text\n1,2\n",
        lambda data: data[:-100],
        lambda data: data[:8] + bytes(range(256)) * 8 + data[2056:],
    ],
)
def test_damaged_parquet_is_refused(write: Write, damage: Callable[[bytes], bytes]) -> None:
    pl.DataFrame({"t": [f"{i * 7919}" for i in range(2000)]}).write_parquet("a.parquet")
    path = write("a.parquet", damage(Path("a.parquet").read_bytes()))
    assert "a.parquet cannot be read as Parquet" in refused(path)


def test_a_panic_of_polars_is_an_input_error(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    pl.DataFrame({"t": ["x"]}).write_parquet("a.parquet")

    def panic(*_: object, **__: object) -> None:
        raise pl.exceptions.PanicException("index out of bounds")

    monkeypatch.setattr(pl, "scan_parquet", panic)
    assert "index out of bounds" in refused("a.parquet")


# -- JSON lines


def lines(*objects: object) -> str:
    return "".join(json.dumps(each) + "\n" for each in objects)


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_jsonl_keeps_types_and_text(write: Write, chunk_bytes: int) -> None:
    objects = [{"id": "007", "n": 1.5, "b": True, "t": "a\né😀 \\ud800"}, {"id": "null", "n": 2, "b": None, "t": ""}]
    source = opened(write("a.jsonl", "\ufeff\n" + lines(*objects) + "\n \n"), chunk_bytes=chunk_bytes)
    assert [dict(zip(source.schema, row, strict=True)) for row in table(source)] == objects
    assert (source.count(), source.blank_lines) == (2, 3)
    assert source.schema == {"id": pl.String, "n": pl.Float64, "b": pl.Boolean, "t": pl.String}


def test_a_key_may_be_missing_in_jsonl_and_a_text_column_takes_any_value(write: Write) -> None:
    path = write("a.ndjson", lines({"a": 1, "t": None}, {"a": 2, "t": 7}, {"t": "x"}))
    assert read(path, chunk_bytes=1) == [(1, None), (2, "7"), (None, "x")]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ('{"a": 1, "c": 2}', "line 3 has the key 'c'"),
        ('{"a": "x"}', "line 3: 'a' is String where earlier lines hold Int64"),
        ('{"a": 1.5}', "line 3: 'a' is Float64"),
        ('{"a": 1', "line 3 is not a JSON object"),
        ('{"a": NaN}', "line 3 is not a JSON object"),
        ("[1]", "line 3 is not a JSON object"),
        ("7", "line 3 is not a JSON object"),
        ("\\", "line 3 is not a JSON object"),
    ],
)
def test_a_jsonl_line_that_does_not_fit_is_refused_with_its_number(write: Write, bad: str, words: str) -> None:
    path = write("a.jsonl", '{"a": 1, "b": "x"}\n{"a": 2, "b": "y"}\n' + bad + '\n{"a": 4, "b": "z"}\n')
    message = refused(path, chunk_bytes=20)
    assert words in message
    assert "a.jsonl" in message


@pytest.mark.fault("D14")
@pytest.mark.parametrize("half", ["\\ud800", "\\udc00", "\\ud83dx"])
def test_half_a_surrogate_pair_is_refused_with_its_line(write: Write, half: str) -> None:
    path = write("a.jsonl", '{"t": "\\ud83d\\ude00"}\n{"t": "x' + half + '"}\n')
    assert "line 2 holds half a surrogate pair" in refused(path)


def test_broken_jsonl_files_are_refused(write: Write) -> None:
    assert "is empty" in refused(write("a.jsonl", ""))
    assert "is empty" in refused(write("a.jsonl", "\n \n"))
    assert "line 1" in refused(write("a.jsonl", '[\n{"a": 1}\n]\n'))
    assert "line 2" in refused(write("a.jsonl", b'{"a": "x"}\n{"a": "\xff"}\n'))
    assert "line 1" in refused(write("a.jsonl", '{"a": 1}\n'.encode("utf-16")))


# -- fingerprint and stamp


@pytest.mark.fault("D17")
def test_the_fingerprint_names_selection_and_content_but_no_path(write: Write) -> None:
    first = opened(write("a.csv", "a\n1\n")).fingerprint()
    assert opened(write("b.csv", "a\n1\n")).fingerprint() == first
    assert len(first) == 64
    others = [
        opened("a.csv", id="a"),
        opened("a.csv", limit=3),
        opened("a.csv", where="a = '1'"),
        opened("a.csv", encoding="latin-1"),
        opened(write("c.csv", "a\n2\n")),
        Source(Selection(("a.csv", "b.csv"))),
    ]
    assert len({first, *(source.fingerprint() for source in others)}) == len(others) + 1


@pytest.mark.fault("D18")
def test_a_file_written_to_meanwhile_is_noticed(write: Write) -> None:
    write("b.csv", "a\n1\n")
    source = Source(Selection((write("a.csv", "a\n1\n"), "b.csv")))
    stamp = source.stamp()
    assert source.changed_since(stamp) == ()
    write("a.csv", "a\n1\n2\n")
    os.utime("b.csv", ns=(0, 0))
    assert source.changed_since(stamp) == ("a.csv", "b.csv")
    os.remove("a.csv")
    assert source.changed_since(stamp) == ("a.csv", "b.csv")


@pytest.mark.fault("D20")
def test_a_long_table_is_never_whole_in_memory(write: Write) -> None:
    path = write("a.csv", "id,t\n" + "".join(f'{i},"{i}\n{i}"\n' for i in range(20_000)))
    source = opened(path, id="id", chunk_bytes=1000, batch_rows=500)
    source.check_ids()
    heights = [frame.height for frame in source.frames()]
    assert sum(heights) == 20_000
    assert max(heights) < 150
