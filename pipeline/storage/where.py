"""The condition that chooses rows: one SQL expression, looked at row by row."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from pipeline.errors import InputError
from pipeline.storage.blocks import first_line

_MORE_THAN_A_ROW = frozenset({"Agg", "Over", "Window", "Rolling", "Len", "Quantile", "Range", "SubPlan", "Gather"})
"""Nodes of a polars expression whose value depends on other rows. The input is read in pieces, so such a condition
would silently mean another thing in each of them."""


def parse_where(condition: str, schema: dict[str, pl.DataType]) -> pl.Expr:
    """Raises InputError unless the condition is valid for these columns, and true or false."""
    try:
        where = pl.sql_expr(condition)
        unknown = [name for name in where.meta.root_names() if name not in schema]
        if unknown:
            raise InputError(f"where {condition!r}: no column {unknown[0]!r}; the input has {', '.join(schema)}")
        if _MORE_THAN_A_ROW & _nodes(json.loads(where.meta.serialize(format="json"))):
            raise InputError(f"where {condition!r} compares rows with each other; it may look at one row at a time")
        result = pl.LazyFrame(schema=schema).select(where.alias("where")).collect_schema()["where"]
    except pl.exceptions.PolarsError as exc:
        raise InputError(f"where {condition!r}: {_advised(exc)}") from exc
    if result != pl.Boolean:
        raise InputError(f"where {condition!r} gives {result}, not true or false; compare it with something")
    return where


def keep(frame: pl.DataFrame, where: pl.Expr, path: str) -> pl.DataFrame:
    try:
        return frame.filter(where)
    except pl.exceptions.PolarsError as exc:
        raise InputError(
            f"{path}: where fails on its data: {first_line(exc)}; TRY_CAST(column AS INT) gives null where CAST fails"
        ) from exc


def _advised(exc: pl.exceptions.PolarsError) -> str:
    text = first_line(exc)
    if "cannot compare string with numeric" in text:
        return f"{text}; the columns of a CSV are text, so write TRY_CAST(column AS INT) before the comparison"
    if "unable to parse" in text:
        return f"{text}; write one SQL condition, such as: stars is not null"
    return text


def _nodes(tree: Any) -> set[str]:
    """Names of the nodes of a serialized expression, without the names of columns and the values of literals."""
    if isinstance(tree, str):
        return {tree}
    if isinstance(tree, list):
        return set[str]().union(*map(_nodes, tree))
    if isinstance(tree, dict):
        inner = [_nodes(value) for key, value in tree.items() if key not in ("Column", "Literal")]
        return set(tree).union(*inner)
    return set()
