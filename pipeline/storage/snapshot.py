"""The checkpoint as anyone may read it, while a run writes it or after: no lock, nothing changed.

Parts that the manifest names are immutable, and an unfinished journal line fails its check; so a reader sees a whole
state, if perhaps a moment old.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import orjson
import polars as pl

from pipeline.ledger import Totals
from pipeline.records import ApiReply, Billed, Status, Usage
from pipeline.storage import manifest
from pipeline.storage.files import Files, content
from pipeline.storage.journal import scan, segment_number
from pipeline.storage.keys import as_number
from pipeline.storage.layout import Layout
from pipeline.storage.noted import wants_links
from pipeline.storage.parquet import PART_SCHEMA, read_columns, table_of
from pipeline.storage.ranged import gathered

_STATUS = pl.Enum([str(status) for status in Status])  # a byte a row, where text takes sixteen
_KIND = pl.Categorical()

STANDING_SCHEMA = {
    "key": pl.Int128(),
    "piece": pl.UInt32(),
    "place": pl.UInt32(),
    "status": _STATUS,
    "kind": _KIND,
    "permanent": pl.Boolean(),
    "answered": pl.Boolean(),
    "at": pl.UInt32(),  # when it ended, in whole seconds since 1970: half the memory of the record's own time
}

BATCH_ROWS = 50_000
"""Records of small pieces that are looked at together: ten pieces cost little more than one."""

OUTCOME_SCHEMA = {**STANDING_SCHEMA, "renewed": pl.Boolean(), "ordinal": pl.UInt32()}

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")
_OF_TOTALS = ("event", "billed", "attempts", *_COUNTS)
_OF_OUTCOMES = ("key", "status", "kind", "permanent", "ended_at", "renewed", "ordinal", *_OF_TOTALS)


class Snapshot:
    """The records of one job, in pieces: its parts in order, then what is still in the journal."""

    def __init__(self, folder: str, job: str, files: Files | None = None) -> None:
        self.files = files = files or Files()
        self.layout = Layout(folder)
        # The journal first: a segment sealed in between is then seen twice, which is harmless, and never not at all.
        segments = self._journal(files, job)
        listing = manifest.read(content(files, os.path.join(folder, manifest.NAME)) or b"", job)
        self._sources: list[str | pl.DataFrame] = [
            self.layout.part(part.name) for _, part in sorted(listing.parts.items())
        ]
        loose = [table for number, table in segments if number not in listing.parts and table.height]
        self._sources += loose
        self.records = sum(part.rows for part in listing.parts.values()) + sum(table.height for table in loose)
        self._cache: dict[int, pl.DataFrame] = {}
        # The ledger, and the pieces with replies of unfinished exchanges; known once all outcomes have been read.
        self._seen: tuple[Totals, set[int]] | None = None

    def _journal(self, files: Files, job: str) -> list[tuple[int, pl.DataFrame]]:
        tables = []
        for name in files.names(self.layout.journal):
            number = segment_number(name)
            data = content(files, os.path.join(self.layout.journal, name))
            if number is not None and data is not None:  # sealed just now: its part is in the manifest, read next
                tables.append((number, table_of(scan(data, job).lines)))
        return tables

    def __len__(self) -> int:
        return len(self._sources)

    def piece(self, number: int, columns: Sequence[str]) -> pl.DataFrame:
        source = self._sources[number]
        return source.select(columns) if isinstance(source, pl.DataFrame) else read_columns(source, columns)

    def standing(self) -> pl.DataFrame:
        """How each key stands: one row per key, with the record that counts and where it lies (piece, place).

        The latest renewed answer counts, or the first one; without an answer, the latest failure. Success replaces
        failure, never the other way.
        """
        frames = list(self.batches(BATCH_ROWS))
        return that_count(pl.concat(frames)) if frames else pl.DataFrame(schema=STANDING_SCHEMA)

    def batches(self, rows: int) -> Iterator[pl.DataFrame]:
        """How rows ended (``OUTCOME_SCHEMA``), in the order in which they did: frames made of at least so many records,
        but for the last."""
        return gathered(self._outcomes(), rows)

    def _outcomes(self) -> Iterator[pl.DataFrame]:
        """Every piece is read once; what else it tells is noted in passing."""
        total, kept = Totals(), set[int]()
        for records in gathered(map(self._numbered, range(len(self))), BATCH_ROWS):
            total += _totals_of(records)
            kept.update(records.filter(pl.col("event") == "kept")["piece"])
            yield _outcomes_in(records)
        self._seen = total, kept

    def _numbered(self, number: int) -> pl.DataFrame:
        piece = pl.lit(number, pl.UInt32).alias("piece")
        return self.piece(number, _OF_OUTCOMES).with_row_index("place").with_columns(piece)

    def last_ordinal(self) -> int:
        """Where the row stood that was drawn last, or about that; -1 when there is no record."""
        latest = range(max(0, len(self) - 3), len(self))
        found = [self.piece(number, ["ordinal"])["ordinal"].max() for number in latest]
        return max((int(str(ordinal)) for ordinal in found if ordinal is not None), default=-1)

    def kept(self, since: float = 0.0) -> dict[str, tuple[ApiReply, ...]]:
        """Paid replies in the middle of exchanges that have not ended for good since, by row key, in their order.

        Without those of exchanges that began before ``since``.
        """
        found: dict[str, list[ApiReply]] = {}
        began: dict[str, float] = {}
        for number in range(len(self)):
            if not found and not self._has_kept(number):
                continue
            for key, event, at, record in self._in_order(number):
                if event == "kept":
                    found.setdefault(key, []).append(record)
                    began.setdefault(key, at)
                elif event == "ended":
                    found.pop(key, None)
                    began.pop(key, None)
        return {key: tuple(replies) for key, replies in found.items() if began[key] >= since}

    def _has_kept(self, number: int) -> bool:
        if self._seen is not None:
            return number in self._seen[1]
        return bool((self.piece(number, ["event"])["event"] == "kept").any())

    def fetched(self) -> pl.DataFrame:
        """What came of links, by row key: columns key and fetched. The latest record counts."""
        frames = [pl.DataFrame(schema={"key": STANDING_SCHEMA["key"], "fetched": pl.String})]
        for number in range(len(self)):
            noted = self.piece(number, ["key", "event", "media"]).filter(pl.col("event") == "media")
            frames.append(noted.select(as_number(), pl.col("media").alias("fetched")))
        return pl.concat(frames).unique("key", keep="last", maintain_order=True)

    def unfetched(self) -> dict[str, str]:
        """Texts of answers whose links are still to be fetched, by row key."""
        waiting: dict[bytes, tuple[int, int]] = {}
        for number in range(len(self)):
            records = self.piece(number, ["key", "event", "media"]).with_row_index("place")
            for place, key, event, note in records.filter(pl.col("media").is_not_null()).iter_rows():
                if event == "media":
                    waiting.pop(key, None)
                elif wants_links(note):
                    waiting.setdefault(key, (number, place))
        return {key.hex(): self.piece(number, ["text"])["text"][place] for key, (number, place) in waiting.items()}

    def _in_order(self, number: int) -> Iterator[tuple[str, str, float, ApiReply]]:
        columns = ["key", "event", "status", "permanent", "raw", "http_status", "latency_s", "ended_at", *_COUNTS]
        for row in self.piece(number, columns).iter_rows(named=True):
            json = orjson.loads(row["raw"]) if row["event"] == "kept" else None
            usage = Usage(*(row[name] for name in _COUNTS))
            reply = ApiReply(row["http_status"] or 0, {}, b"", json, usage, row["latency_s"] or 0.0)
            # A passing failure ends nothing: the next run goes on from what the row has paid for.
            passing = row["status"] == Status.FAILED and not row["permanent"]
            ended = row["event"] == "outcome" and not passing
            yield row["key"].hex(), "ended" if ended else row["event"], row["ended_at"] or 0.0, reply

    def ids(self, places: pl.DataFrame) -> pl.Series:
        """The ids under which some records (piece, place) were asked."""
        named = self.gather(places.select(pl.lit(0, pl.UInt32).alias("ordinal"), "piece", "place"), ["id"])
        return named["id"].drop_nulls()

    def gather(self, places: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
        """Records at given places. ``places`` has ordinal, piece, place; gives ordinal and the columns, unordered."""
        wanted = list(columns)
        frames = [pl.DataFrame(schema={"ordinal": pl.UInt32, **{name: PART_SCHEMA[name] for name in wanted}})]
        for (number,), group in places.group_by("piece"):
            piece = self._cached(int(str(number)), wanted)
            frames.append(pl.concat([group.select("ordinal"), piece[group["place"]]], how="horizontal"))
        return pl.concat(frames)

    def _cached(self, number: int, columns: Sequence[str]) -> pl.DataFrame:
        if number not in self._cache:
            if len(self._cache) >= 4:
                del self._cache[next(iter(self._cache))]
            self._cache[number] = self.piece(number, columns)
        if list(columns) != self._cache[number].columns:
            self._cache[number] = self.piece(number, columns)
        return self._cache[number]

    def totals(self) -> Totals:
        """The ledger of all runs of this job: one attempt per record that was sent."""
        if self._seen is not None:
            return self._seen[0]
        pieces = (self.piece(number, _OF_TOTALS) for number in range(len(self)))
        return sum(map(_totals_of, gathered(pieces, BATCH_ROWS)), Totals())

    def moments(self, amount: pl.Expr) -> tuple[int, float, float]:
        """Of an amount over all billed replies that have it: how many, their mean, and their standard deviation."""
        count, total, squares = 0, 0.0, 0.0
        for number in range(len(self)):
            amounts = self.piece(number, ["billed", *_COUNTS]).select(amount.alias("amount"))["amount"].drop_nulls()
            count += amounts.len()
            total += float(amounts.sum())
            squares += float((amounts * amounts).sum())
        if not count:
            return 0, 0.0, 0.0
        mean = total / count
        return count, mean, max(0.0, squares / count - mean * mean) ** 0.5


def _outcomes_in(records: pl.DataFrame) -> pl.DataFrame:
    return records.filter(pl.col("event") == "outcome").select(
        as_number(),
        "piece",
        "place",
        pl.col("status").cast(_STATUS),
        pl.col("kind").cast(_KIND),
        pl.col("permanent").fill_null(False),
        pl.col("kind").is_null().alias("answered"),
        pl.col("ended_at").fill_null(0).cast(pl.UInt32).alias("at"),
        pl.col("renewed").fill_null(False),
        pl.col("ordinal").fill_null(0).cast(pl.UInt32),
    )


def that_count(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Of all outcomes of some keys, in order, those that count: one per key (see ``Snapshot.standing``)."""
    if outcomes["key"].n_unique() == outcomes.height:
        return outcomes.drop("renewed", "ordinal")
    answered, renewed = pl.col("answered"), pl.col("renewed")
    counts = outcomes.filter(answered & renewed).unique("key", keep="last", maintain_order=True)
    for rest, keep in ((answered & ~renewed, "first"), (~answered, "last")):
        those = outcomes.filter(rest).unique("key", keep=keep, maintain_order=True)  # type: ignore[arg-type]
        counts = pl.concat([counts, those.join(counts, on="key", how="anti")])
    return _with_refusals(counts, outcomes).drop("renewed", "ordinal")


def _with_refusals(counts: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """An answer whose renewal was refused for good is as young as the refusal: it has to expire once more."""
    refused = outcomes.filter(pl.col("renewed") & pl.col("permanent") & ~pl.col("answered"))
    if refused.is_empty():
        return counts
    latest = refused.group_by("key").agg(pl.col("at").max().alias("refused"))
    return (
        counts.join(latest, on="key", how="left", maintain_order="left")
        .with_columns(pl.max_horizontal("at", "refused").alias("at"))
        .drop("refused")
    )


def _totals_of(records: pl.DataFrame) -> Totals:
    made = records.filter((pl.col("event") == "attempt") | (pl.col("attempts") > 0))
    billed = pl.col("billed") == Billed.YES
    maybe = pl.col("billed") == Billed.MAYBE
    reported = pl.col("prompt_tokens").is_not_null() | pl.col("total_tokens").is_not_null()
    sums = made.select(
        pl.len().alias("attempts"),
        billed.sum().alias("billed"),
        maybe.sum().alias("maybe"),
        (billed & ~reported).sum().alias("unreported"),
        *(pl.when(pl.col(name).is_not_null().any()).then(pl.col(name).sum()).alias(name) for name in _COUNTS),
    ).row(0, named=True)
    usage = Usage(*(sums[name] for name in _COUNTS))
    return Totals(sums["attempts"], sums["billed"] or 0, sums["maybe"] or 0, usage, sums["unreported"] or 0)
