"""The cells of a column as plain values: what a template sees, and what names a row.

Text, whole numbers and true/false stay. A fraction that is no number (NaN, infinity) becomes null, so that its row is
``invalid_input`` and not the word nan in a prompt; a 32-bit fraction keeps its short form (0.1, not
0.10000000149011612). Dates, times and durations become ISO 8601 text, decimals, categories and enums their text.
"""

from __future__ import annotations

import polars as pl


def is_plain(dtype: pl.DataType) -> bool:
    return not (dtype.is_nested() or dtype in (pl.Binary, pl.Object, pl.Unknown))


def as_value(name: str, dtype: pl.DataType) -> pl.Expr:
    """The column as text, int, float or bool; raises nothing for a plain type."""
    column = pl.col(name)
    if dtype.is_float():
        finite = pl.when(column.is_finite()).then(column)
        return (finite if dtype == pl.Float64 else finite.cast(pl.String).cast(pl.Float64)).alias(name)
    if dtype.is_integer() or dtype in (pl.String, pl.Boolean, pl.Null):
        return column
    return as_text(name, dtype)


def as_text(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    return column.dt.to_string("iso:strict") if dtype.is_temporal() else column.cast(pl.String)
