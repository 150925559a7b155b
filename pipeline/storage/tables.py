"""From what a spec names to tables: globs, formats, and whether several files are one table."""

from __future__ import annotations

import glob
import os

from pipeline.errors import InputError
from pipeline.storage.blocks import BLOCK_BYTES, Table, is_remote, require_encoding, require_file
from pipeline.storage.csv_reader import CsvTable
from pipeline.storage.jsonl_reader import JsonlTable
from pipeline.storage.parquet_reader import ParquetTable

SUFFIXES = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "tsv",
    ".tsv.gz": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".ndjson.gz": "jsonl",
}


def resolve(paths: tuple[str, ...]) -> tuple[str, ...]:
    found: list[str] = []
    for path in paths:
        if is_remote(path) or os.path.exists(path) or not glob.has_magic(path):
            found.append(path)
            continue
        matches = sorted(match for match in glob.glob(path, recursive=True) if os.path.isfile(match))
        if not matches:
            raise InputError(f"no file matches {path} (working directory: {os.getcwd()}, which -C DIR changes)")
        found += matches
    if not found:
        raise InputError("no input file is named; give `input.path`")
    for path in found:
        if found.count(path) > 1:
            raise InputError(f"{path} is named twice in the input; its rows would be sent twice")
    return tuple(found)


def open_table(path: str, format: str | None, encoding: str | None, chunk_bytes: int = BLOCK_BYTES) -> Table:
    if not is_remote(path):
        require_file(path)
    kind = format or _format_of(path)
    if encoding is not None:
        require_encoding(encoding)
        if kind not in ("csv", "tsv"):
            raise InputError(f"{path}: `encoding` is for CSV and TSV; {kind} files know their own")
    match kind:
        case "csv" | "tsv":
            return CsvTable(path, "," if kind == "csv" else "\t", encoding, chunk_bytes)
        case "parquet":
            return ParquetTable(path)
        case "jsonl" | "ndjson":
            return JsonlTable(path, chunk_bytes)
    raise InputError(f"{kind!r} is no format; it may be csv, tsv, parquet or jsonl")


def _format_of(path: str) -> str:
    name = os.path.basename(path.split("?", 1)[0] if is_remote(path) else path).lower()
    for suffix, kind in SUFFIXES.items():
        if name.endswith(suffix):
            return kind
    raise InputError(
        f"{path}: its name does not say what it holds ({', '.join(SUFFIXES)}); say `format: csv` (or tsv, parquet, "
        "jsonl) under `input`, or convert it"
    )


def require_agreement(first: Table, other: Table) -> None:
    """Raises unless both have the same columns of the same types, in any order."""
    for name, dtype in first.schema.items():
        if name not in other.schema:
            raise InputError(f"{other.path} has no column {name!r}, which {first.path} has; all files need the same")
        if other.schema[name] != dtype:
            raise InputError(
                f"column {name!r} is {other.schema[name]} in {other.path} and {dtype} in {first.path}; "
                "write it as one type in all files"
            )
    for name in other.schema:
        if name not in first.schema:
            raise InputError(f"{other.path} has a column {name!r}, which {first.path} has not; all files need the same")
