"""The tables that a user is given: results.parquet, failed.parquet, attempts.parquet.

One row per input row, in input order, made piece by piece: a slice of the input, the answers that belong to it, and
on to the next. The bytes depend on the rows and answers alone, so results that came together through ten
interruptions equal those of a quiet night. What does vary between two runs with equal answers (latency, attempts,
request ids) stands apart, in attempts.parquet, row for row.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from pipeline.errors import InputError, RunPaused
from pipeline.ledger import PER_TOKENS, Prices
from pipeline.records import Billed, Status
from pipeline.storage.files import Files
from pipeline.storage.noted import Save, lightened_late, media_columns, media_schema, unsaved
from pipeline.storage.parquet import PART_SCHEMA, Onlooker, nobody, write_table
from pipeline.storage.ranged import Cursor, Ranged
from pipeline.storage.snapshot import Snapshot
from pipeline.storage.source import Source

RESULTS = "results.parquet"
FAILED = "failed.parquet"
ATTEMPTS = "attempts.parquet"

_ANSWER = {
    "response": pl.String(),
    "status": pl.String(),
    "error": pl.String(),
    "finish_reason": pl.String(),
    "model": pl.String(),
    "prompt_tokens": pl.Int64(),
    "completion_tokens": pl.Int64(),
    "total_tokens": pl.Int64(),
    "cached_tokens": pl.Int64(),
    "reasoning_tokens": pl.Int64(),
    "cost_usd": pl.Float64(),
}
_FAILURE = {
    "kind": pl.String(),
    "error": pl.String(),
    "status": pl.String(),
    "http_status": pl.Int32(),
    "attempts": pl.Int32(),
    "billed": pl.String(),
    "permanent": pl.Boolean(),
    "request_id": pl.String(),
    "reply_excerpt": pl.String(),
}
_VOLATILE = {
    "attempts": pl.Int32(),
    "latency_s": pl.Float64(),
    "request_id": pl.String(),
    "http_status": pl.Int32(),
    "ended_at": pl.Datetime("ms", "UTC"),
    "reasoning": pl.String(),
}
STEP = "answer_step"
SAMPLES = "samples"
COPY = "copy"
_TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")
_NOT_SHOWN = ("key", "event", "ordinal", "id", "kind", "permanent", "renewed", "raw", *_VOLATILE)
_OF_RESULTS = [name for name in PART_SCHEMA if name not in _NOT_SHOWN]
_OF_FAILURES = ["raw" if name == "reply_excerpt" else name for name in _FAILURE]
_OF_ATTEMPTS = ["billed", *_VOLATILE]
"""Columns of a record that each table is made of."""


Fields = Mapping[str, str | tuple[str, str]]
"""Typed columns of the answer, and their kinds."""

_NO_FIELDS: Fields = {}


@dataclass(frozen=True, slots=True)
class Media:
    """How the tables show what answers hold beside words."""

    download: bool = False  # links are fetched
    save: Save = unsaved  # is handed the media of answers that were recorded before the job asked for them


@dataclass(frozen=True, slots=True)
class Join:
    """The input beside its answers. ``standing`` has ordinal, piece, place and status, one row per input row;
    ``copy`` beside them where equal rows share an answer."""

    source: Source
    standing: Ranged
    snapshot: Snapshot
    prices: Prices
    prefix: str = ""
    changed: Callable[[], object] = lambda: False  # the input is no longer what ``standing`` was made from
    fields: Fields = field(default_factory=dict)
    samples: int = 1  # answers a row
    media: Media | None = None

    @property
    def answer_schema(self) -> dict[str, pl.DataType]:
        """The columns that results add, in order; the typed ones stand behind the response."""
        return _answer_columns(self.fields, self.samples, self.media, copies=COPY in self.standing.columns)

    def results(self) -> Iterator[pl.DataFrame]:
        schema = self.answer_schema
        fetched = self.snapshot.fetched() if self.media is not None and self.media.download else None
        for frame, rows in self._slices():
            records = self._with_media(rows, self._records(rows, _OF_RESULTS), fetched).with_columns(*_with_earlier())
            answers = records.with_columns(
                pl.col("text").alias("response"),
                pl.col("status").fill_null(Status.PENDING),
                cost_of(self.prices, _replies()).alias("cost_usd"),
                *self._typed(),
                *self._voted(),
            )
            if COPY in rows.columns:
                answers = answers.with_columns(*_free(rows[COPY], cost_usd=0.0, **dict.fromkeys(_TOKENS)), rows[COPY])
            yield frame.hstack(self._named(answers, schema).get_columns())

    def _with_media(self, rows: pl.DataFrame, records: pl.DataFrame, fetched: pl.DataFrame | None) -> pl.DataFrame:
        if self.media is None:
            return records
        lit = lightened_late(records.with_columns(rows["key"].alias("key")), self.media.save)
        notes = None if fetched is None else rows.join(fetched, on="key", how="left", maintain_order="left")["fetched"]
        return lit.drop("key").with_columns(media_columns(lit["media"], notes))

    def _typed(self) -> Iterator[pl.Expr]:
        """The fields of the typed answer; null where there is none."""
        kinds = {name: column_type(kind) for name, kind in self.fields.items()}
        decoded = pl.col("fields").str.json_decode(pl.Struct(kinds))
        return (decoded.struct.field(name).alias(name) for name in kinds)

    def _voted(self) -> Iterator[pl.Expr]:
        """What several samples said, and how far they agree."""
        if self.samples < 2:
            return
        names = list(self.fields) or [""]
        shares = pl.Struct({name: pl.Float64() for name in names})
        votes = pl.col("votes").str.json_decode(pl.Struct({SAMPLES: pl.List(pl.String()), "agreement": shares}))
        yield votes.struct.field(SAMPLES).alias(SAMPLES)
        for name, column in zip(names, agreement_names(self.fields), strict=True):
            yield votes.struct.field("agreement").struct.field(name).alias(column)

    def failed(self) -> Iterator[pl.DataFrame]:
        if not self.standing.any(_is_lost()):
            return  # as a rule: then the input need not be read for it
        for frame, rows in self._slices(only_failed=True):
            lost = _lost(rows)
            records = self._records(rows.filter(lost), _OF_FAILURES).rename({"raw": "reply_excerpt"})
            if COPY in rows.columns:
                records = records.with_columns(*_free(rows.filter(lost)[COPY], attempts=0, billed=str(Billed.NO)))
            failures = self._named(records.select(list(_FAILURE)), _FAILURE)
            yield frame.filter(lost).hstack(failures.get_columns())

    def judged(self, gold: str, field: str | None) -> list[str]:
        """The columns that ``pairs`` looks at."""
        return [gold, self.prefix + "status", self.prefix + (field or "response")]

    def pairs(
        self, gold: str, field: str | None, results: Iterable[pl.DataFrame] | None = None
    ) -> Counter[tuple[str | None, str | None]]:
        """How often each gold label met each label: of ``field``, or the response in lower case without blanks around.

        None: the row has no gold label, or no answer. ``results``: of a table that has been written already.
        """
        kind = pl.String() if field is None else column_type(self.fields[field])
        found: Counter[tuple[str | None, str | None]] = Counter()
        for frame in self.results() if results is None else results:
            status = frame[self.prefix + "status"]
            labels = pl.col(self.prefix + (field or "response")).cast(pl.String)
            both = frame.select(
                _gold(gold, kind, fold=field is None).alias("gold"),
                pl.when(status == Status.OK).then(folded(labels) if field is None else labels).alias("label"),
            )
            found.update({(row[0], row[1]): row[2] for row in both.group_by("gold", "label").len().iter_rows()})
        return found

    def attempts(self, id_column: str | None) -> Iterator[pl.DataFrame]:
        for frame, rows in self._slices(columns=[] if id_column is None else [id_column]):
            records = self._records(rows, _OF_ATTEMPTS).with_columns(
                (pl.col("ended_at") * 1000).round().cast(pl.Int64).cast(pl.Datetime("ms", "UTC"))
            )
            if COPY in rows.columns:
                records = records.with_columns(*_free(rows[COPY], attempts=0, latency_s=None))
            volatile = self._named(records.select(list(_VOLATILE)), _VOLATILE)
            yield volatile if id_column is None else frame.hstack(volatile.get_columns())

    def schema(self, added: Mapping[str, pl.DataType], columns: list[str] | None = None) -> dict[str, pl.DataType]:
        """The input's columns (or the named ones), then the added."""
        kept = self.source.schema if columns is None else {name: self.source.schema[name] for name in columns}
        return {**kept, **{self.prefix + name: kind for name, kind in added.items()}}

    def _named(self, table: pl.DataFrame, added: Mapping[str, pl.DataType]) -> pl.DataFrame:
        return table.select(pl.col(name).cast(kind).alias(self.prefix + name) for name, kind in added.items())

    def _slices(
        self, columns: list[str] | None = None, *, only_failed: bool = False
    ) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        standing, begin = Cursor(self.standing), 0
        # To count rows one column will do.
        read = columns if columns is None or columns else list(self.source.schema)[:1]
        for frame in self.source.frames(read):
            rows = standing.take(frame.height)
            begin += frame.height
            if rows.height != frame.height:
                break
            if not only_failed or _lost(rows).any():
                yield frame, rows
        # Before the table gets its name: an answer must never come to stand beside another row.
        if begin != self.standing.height or self.changed():
            raise RunPaused("the input changed while the tables were written; the answers are kept, run again")

    def _records(self, rows: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
        """The record of each row, in the order of ``rows``; nulls for a row that has none."""
        known = rows.filter(pl.col("piece").is_not_null()).select("ordinal", "piece", "place")
        records = self.snapshot.gather(known, columns)
        return rows.select("ordinal").join(records, on="ordinal", how="left", maintain_order="left")


def _answer_columns(fields: Fields, samples: int, media: Media | None, *, copies: bool) -> dict[str, pl.DataType]:
    typed = {name: column_type(kind) for name, kind in fields.items()}
    step = {STEP: pl.String()} if typed else {}
    agreements = {name: pl.Float64() for name in agreement_names(fields)}
    votes = {SAMPLES: pl.List(pl.String()), **agreements} if samples > 1 else {}
    shown = {} if media is None else media_schema(download=media.download)
    copy = {COPY: pl.Boolean()} if copies else {}
    return {"response": _ANSWER["response"], **typed, **step, **votes, **shown, **_ANSWER, **copy}


def _lost(rows: pl.DataFrame) -> pl.Series:
    """Rows that have ended without an answer."""
    return rows.select(_is_lost()).to_series()


def _is_lost() -> pl.Expr:
    return pl.col("answered").eq(False).fill_null(False)


def agreement_names(fields: Iterable[str]) -> list[str]:
    """Columns of how far several samples agree: one a field, or one for the response."""
    return [f"{name}_agreement" for name in fields] or ["agreement"]


_SCALARS = {"string": pl.String(), "integer": pl.Int64(), "number": pl.Float64(), "boolean": pl.Boolean()}


def column_type(kind: str | tuple[str, str]) -> pl.DataType:
    """The column of an answer's field: a scalar, a list of them, or text (JSON) for anything else."""
    if isinstance(kind, tuple):
        return pl.List(_SCALARS[kind[1]])
    return _SCALARS.get(kind, pl.String())


def folded(texts: pl.Expr) -> pl.Expr:
    """A response as a label: in lower case, without blanks around."""
    return texts.str.strip_chars().str.to_lowercase()


def _gold(name: str, kind: pl.DataType, *, fold: bool) -> pl.Expr:
    """Gold labels as the column of an answer would write them: ``4`` is 4.0 to a number. A blank one is none."""
    texts = pl.col(name).cast(pl.String)
    texts = folded(texts) if fold or kind == pl.Boolean() else texts.str.strip_chars()
    if kind.is_numeric():
        texts = pl.coalesce(texts.cast(kind, strict=False).cast(pl.String), texts)
    return pl.when(texts != "").then(texts)


def _with_earlier() -> Iterator[pl.Expr]:
    """Token counts of all replies of a row; those before the last are kept as a list beside it."""
    for place, name in enumerate(_TOKENS):
        before = pl.col("earlier").list.get(place, null_on_oob=True)
        both = pl.col(name).fill_null(0) + before
        yield pl.when(before.is_null()).then(pl.col(name)).otherwise(both).alias(name)


def _replies() -> pl.Expr:
    """How many billed replies a row's answer took; how many came before the last stands behind their token counts."""
    before = pl.col("earlier")
    counted = pl.coalesce(before.list.get(len(_TOKENS), null_on_oob=True), before.is_not_null().cast(pl.Int64))
    return _one_if_billed() + counted


def _one_if_billed() -> pl.Expr:
    return (pl.col("billed") == str(Billed.YES)).fill_null(False).cast(pl.Int64)


def _free(copy: pl.Series, **instead: float | str | None) -> Iterator[pl.Expr]:
    """A copy costs nothing: what its answer took stands with the row that was asked, so that sums equal the bill."""
    asked = pl.col("billed").is_not_null()
    for name, value in instead.items():
        yield pl.when(copy & asked).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)


def refuse_clashes(columns: list[str], ours: list[str]) -> None:
    """Raises InputError naming the input's columns that would be overwritten."""
    clashes = [name for name in columns if name in set(ours)]
    if clashes:
        raise InputError(
            f"the input has columns that the results add too: {', '.join(clashes)}. Set `output: {{path: ..., "
            "prefix: llm_}` so that ours are named differently"
        )


def refuse_own_tables(paths: Sequence[str], folder: str) -> None:
    """Raises InputError when the input is a table that a run of this job would replace."""
    ours = {os.path.realpath(os.path.join(folder, name)) for name in (RESULTS, FAILED, ATTEMPTS)}
    for path in paths:
        if os.path.realpath(path) in ours:
            raise InputError(f"{path} is a table that this job writes itself; name another folder in `output:`")


def added_names(
    prefix: str, fields: Fields = _NO_FIELDS, samples: int = 1, media: Media | None = None, *, dedupe: bool = False
) -> list[str]:
    """Every column name that an output table adds to the input's."""
    every = [*_answer_columns(fields, samples, media, copies=dedupe), *_FAILURE, *_VOLATILE]
    return [prefix + name for name in dict.fromkeys(every)]


def publish(
    files: Files,
    folder: str,
    join: Join,
    id_column: str | None,
    *,
    onlooker: Onlooker = nobody,
    time_ns: int | None = None,
) -> dict[str, int]:
    """Write the tables, each whole or not at all; results.parquet last, dated ``time_ns``. Gives the rows of each.
    ``onlooker`` is shown the results in passing: reading a long table again takes memory and time."""
    id_columns = [] if id_column is None else [id_column]
    attempts, failed, results = (os.path.join(folder, name) for name in (ATTEMPTS, FAILED, RESULTS))
    answered = join.schema(join.answer_schema)
    return {
        ATTEMPTS: write_table(files, attempts, join.schema(_VOLATILE, id_columns), join.attempts(id_column)),
        FAILED: write_table(files, failed, join.schema(_FAILURE), join.failed()),
        RESULTS: write_table(files, results, answered, join.results(), onlooker=onlooker, time_ns=time_ns),
    }


def cost_of(prices: Prices, replies: pl.Expr | None = None) -> pl.Expr:
    """Money of a record, or of all ``replies`` of a row; null where a price or a count that it needs is not known."""
    if not prices.known:
        return pl.lit(None, pl.Float64)
    replies = _one_if_billed() if replies is None else replies
    money = replies * (prices.per_request or 0.0)
    if prices.input is not None and prices.output is not None:
        cached = pl.min_horizontal(pl.col("cached_tokens").fill_null(0), pl.col("prompt_tokens"))
        cached_price = prices.input if prices.cached_input is None else prices.cached_input
        tokens = (
            (pl.col("prompt_tokens") - cached) * prices.input
            + cached * cached_price
            + pl.col("completion_tokens") * prices.output
        )
        money = money + tokens / PER_TOKENS
    return pl.when(replies > 0).then(money)
