"""From a job's folder to the figures of its report: in columns, piece by piece of the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import polars as pl

from pipeline import comparison
from pipeline.after import evaluated
from pipeline.drift import exceeded
from pipeline.job import Job
from pipeline.look import joined, must_know
from pipeline.plan import Finished
from pipeline.report.figures import Example, Failure, Figures, Latency, Pace
from pipeline.runlog import redact
from pipeline.storage.files import Files
from pipeline.storage.history import History
from pipeline.storage.labels import label_columns, tally
from pipeline.storage.lock import held
from pipeline.storage.ranged import Ranged
from pipeline.storage.snapshot import Snapshot
from pipeline.storage.standing import by_kind

STEPS = 120
HISTOGRAM = 40
PAUSE_S = 600.0
"""A longer time in which no row ended is no work: the job was stopped, or the endpoint was down."""
EXAMPLES = 2
KINDS = 20

_TIMES = {"ended_at": pl.Float64(), "latency_s": pl.Float64(), "attempts": pl.Int32(), "answered": pl.Boolean()}


def gather(job: Job) -> Figures:
    """The job as it stands, while it runs or after. Raises CheckpointError for one that never ran."""
    found = must_know(job.folder)
    join = joined(job, found)
    standing = join.standing.whole()
    times = _times(found.snapshot, standing)
    totals = found.snapshot.totals()
    finished = Finished.of(found.job.finished)
    pending = standing["piece"].null_count()
    drift = finished.drift if finished is not None and finished.rows == standing.height and not pending else None
    alarm = comparison.alarm_of(job)
    columns = label_columns(job.fields, job.prefix)
    labels = tally(join.results(), columns, job.prefix + "status")
    statuses = standing.group_by(pl.col("status").fill_null("pending").cast(pl.String).alias("s")).len()
    return Figures(
        job=job.spec.name,
        model=job.model.name,
        host=urlsplit(job.spec.endpoint.base_url).netloc,
        running=held(found.layout.lock),
        simulated=found.job.simulated,
        finished=drift is not None,
        rows=standing.height,
        statuses=dict(statuses.sort(["len", "s"], descending=[True, False]).iter_rows()),
        failed=int(standing["answered"].eq(False).sum()),
        attempts=dict(times.filter("answered").group_by("attempts").len().sort("attempts").iter_rows()),
        pace=pace(times),
        latency=latency(times.filter("answered")["latency_s"].drop_nulls()),
        totals=totals,
        cost_usd=totals.cost(job.prices),
        labels={name: one for name, one in labels.items() if one.followed},
        evaluation=evaluated(job, join),
        failures=list(_failures(found.snapshot, standing)),
        drift=drift,
        alarm=alarm,
        reasons=() if drift is None else exceeded(drift, alarm),
        past=History(Files(), found.layout).past(),
    )


def _times(snapshot: Snapshot, standing: pl.DataFrame) -> pl.DataFrame:
    """When each ended row ended, and what it took. Unordered."""
    frames = [pl.DataFrame(schema=_TIMES)]
    ended = standing.filter(pl.col("piece").is_not_null())
    for (number,), group in ended.group_by("piece"):
        piece = snapshot.piece(int(str(number)), ["ended_at", "latency_s", "attempts"])[group["place"]]
        frames.append(piece.with_columns(group["answered"]))
    return pl.concat(frames)


def pace(times: pl.DataFrame) -> Pace:
    known = times.drop_nulls("ended_at").sort("ended_at")
    if known.is_empty():
        return Pace()
    first_took = known["latency_s"][0] or 0.0
    gap = pl.col("ended_at").diff().fill_null(first_took)
    paused = pl.col("ended_at").diff().fill_null(0.0) > PAUSE_S
    known = known.with_columns(paused.alias("paused"), pl.when(paused).then(0.0).otherwise(gap).cum_sum().alias("at"))
    step_s = max(float(known["at"][-1]), 0.001) / STEPS * (1 + 1e-9)  # so that the last row falls into the last step
    counts = (
        known.group_by((pl.col("at") / step_s).floor().cast(pl.Int64).alias("step"))
        .agg(pl.len().alias("ended"), (~pl.col("answered")).sum().alias("failed"))
        .join(pl.DataFrame({"step": range(STEPS)}), on="step", how="right")
        .sort("step")
        .fill_null(0)
    )
    return Pace(
        step_s=step_s,
        ended=counts["ended"].to_list(),
        failed=counts["failed"].to_list(),
        pauses_s=known.filter("paused")["at"].head(STEPS).to_list(),
        first=known["ended_at"][0] - first_took,
        last=known["ended_at"][-1],
    )


def latency(seconds: pl.Series) -> Latency | None:
    if seconds.is_empty():
        return None
    p50, p90, p95, p99 = (float(seconds.quantile(share, "linear") or 0.0) for share in (0.5, 0.9, 0.95, 0.99))
    most = float(str(seconds.max()))
    # The longest hundredth would squeeze the rest into a corner; it is gathered in the last step.
    step_s = max(p99, 1e-6) / HISTOGRAM * (1 + 1e-9)
    places = (seconds / step_s).floor().clip(0, HISTOGRAM).cast(pl.Int64)
    counted = dict(places.value_counts().iter_rows())
    counts = [counted.get(place, 0) for place in range(HISTOGRAM + 1)]
    return Latency(seconds.len(), p50, p90, p95, p99, most, step_s, counts)


def _failures(snapshot: Snapshot, standing: pl.DataFrame) -> Iterator[Failure]:
    """Most frequent first, each with the first rows of it."""
    failed = standing.filter(~pl.col("answered"))
    for kind, rows, permanent in (
        by_kind(Ranged.of(standing)).head(KINDS).select("kind", "rows", "permanent").iter_rows()
    ):
        first = failed.filter(pl.col("kind").eq_missing(kind)).head(EXAMPLES)
        told = snapshot.gather(first.select("ordinal", "piece", "place"), ["id", "error", "raw", "http_status"])
        examples = [
            Example(row["id"], redact(row["error"] or ""), row["raw"] and redact(row["raw"]), row["http_status"])
            for row in told.sort("ordinal").iter_rows(named=True)
        ]
        yield Failure(str(kind), rows, bool(permanent), examples)
