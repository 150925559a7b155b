"""The results in a format of the user's choice; each kind of file is one function here."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import polars as pl

from pipeline.storage.files import Files, write_stream
from pipeline.storage.output import Join
from pipeline.storage.parquet import write_table

_FORMULA = r"^[=+\-@\t\r]"


def export_parquet(files: Files, path: str, join: Join, guard_formulas: bool) -> int:
    return write_table(files, path, join.schema(join.answer_schema), join.results())


def export_csv(files: Files, path: str, join: Join, guard_formulas: bool) -> int:
    """CSV with a header; lists, which it does not know, as JSON. ``guard_formulas`` puts an apostrophe before text that
    a spreadsheet would run."""
    lists = [name for name, kind in join.schema(join.answer_schema).items() if isinstance(kind, pl.List)]
    flat = [pl.col(name).map_elements(_as_json, pl.String) for name in lists]
    texts = [name for name, kind in join.schema(join.answer_schema).items() if kind == pl.String]
    guarded = [
        pl.when(pl.col(name).str.contains(_FORMULA)).then("'" + pl.col(name)).otherwise(pl.col(name)).alias(name)
        for name in texts
    ]

    def pieces() -> Iterator[tuple[bytes, int]]:
        yield pl.DataFrame(schema=join.schema(join.answer_schema)).with_columns(flat).write_csv().encode(), 0
        for frame in (each.with_columns(flat) for each in join.results()):
            shown = frame.with_columns(guarded) if guard_formulas else frame
            yield shown.write_csv(include_header=False).encode(), frame.height

    return write_stream(files, path, pieces())


def _as_json(values: pl.Series) -> str:
    return orjson.dumps(values.to_list()).decode()


def export_jsonl(files: Files, path: str, join: Join, guard_formulas: bool) -> int:
    return write_stream(files, path, ((frame.write_ndjson().encode(), frame.height) for frame in join.results()))
