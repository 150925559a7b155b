"""Looking at a job without sending, and without its lock: preview, plan, failures, export."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl

from pipeline.after import evaluated
from pipeline.errors import CheckpointError, SpecError, StorageError
from pipeline.evaluate import Evaluation
from pipeline.job import Job
from pipeline.ledger import Totals
from pipeline.plan import Finished, Plan, Wish, go_on, kept_keys, list_keys, make, stand
from pipeline.records import Usage
from pipeline.storage import job_file
from pipeline.storage.export import export_csv, export_jsonl, export_parquet
from pipeline.storage.files import Files
from pipeline.storage.layout import Layout
from pipeline.storage.output import Join, cost_of
from pipeline.storage.snapshot import Snapshot
from pipeline.storage.standing import by_kind, standings


@dataclass(frozen=True, slots=True)
class Known:
    """A job's folder as it stands."""

    layout: Layout
    job: job_file.Job
    snapshot: Snapshot


def known(folder: str) -> Known | None:
    """None when there is no checkpoint. Raises CheckpointError for one that cannot be read."""
    files, layout = Files(), Layout.of_output(folder)
    job = job_file.read_job(files, layout)
    return None if job is None else Known(layout, job, Snapshot(layout.folder, job.job, files))


def must_know(folder: str) -> Known:
    found = known(folder)
    if found is None:
        raise CheckpointError(f"{folder} has no checkpoint yet; start with `pipeline run`")
    return found


SHOWN_OF_DATA = 64


def previews(job: Job, count: int, *, full: bool = True) -> Iterator[dict[str, Any]]:
    """The exact requests of the first rows, or why a row would not be sent. Not ``full``: the content of attachments
    is shortened, with a word on what is left out."""
    rows = itertools.chain.from_iterable(job.source.rows(job.used))
    for row in itertools.islice(rows, count):
        ready = job.ready(row)
        shown: dict[str, Any] = {"row": row.ordinal, "id": row.id}
        if ready.call is None:
            yield {**shown, "invalid_input": ready.invalid}
        else:
            url = job.spec.endpoint.base_url + ready.call.path
            body = orjson.loads(ready.call.body)
            if ready.call.attached_bytes and not full:
                _shorten(body)
            yield {**shown, "method": ready.call.method, "url": url, "body": body}


def _shorten(body: dict[str, Any]) -> None:
    for message in body["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else ():
            for name, value in part.get(part["type"], {}).items() if part["type"] != "text" else ():
                if len(value) > 2 * SHOWN_OF_DATA and (name == "data" or value.startswith("data:")):
                    left = len(value) - SHOWN_OF_DATA
                    part[part["type"]][name] = (
                        f"{value[:SHOWN_OF_DATA]}... ({left:,} more characters; --full shows them)"
                    )


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would do, and what that would take. None: not known."""

    plan: Plan
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    seconds: float | None
    learned_from: int  # finished rows that the token counts are learned from
    cost_low_usd: float | None = None  # 19 of 20 times the bill lies between these two
    cost_high_usd: float | None = None


BYTES_PER_TOKEN = 4.0  # English text in the common tokenizers; used only until this job has answers of its own
MOST_BYTES_PER_TOKEN = 8.0
LEAST_BYTES_PER_TOKEN = 1.5  # scripts that take several bytes a character, and rarely one token for several of them


def forecast(
    job: Job,
    retry_failed: str | None,
    tick: Callable[[int], None] = lambda rows: None,
    *,
    refresh_expired: bool = False,
    clock: Callable[[], float] = time.time,
) -> Forecast:
    """Plan against the checkpoint, without its lock."""
    wish = Wish.of(job, clock(), retry_failed, refresh_expired=refresh_expired)
    found = known(job.folder)
    files = Files()
    keys = None
    if found is not None:
        fingerprint = job.fingerprint()
        finished = Finished.of(found.job.finished)
        # How many requests the rows of a job with copies are, their keys alone can tell.
        whole = retry_failed is None and not job.spec.dedupe
        past = finished is not None and finished.of_this(job, fingerprint) and whole
        if finished is not None and past and not finished.may_have_expired(wish):
            return _forecast(job, finished.plan(), finished.totals, found.snapshot)
        keys = kept_keys(job, files, found.layout.keys, fingerprint)
        cut_off = go_on(job, files, found.layout, fingerprint, found.snapshot) if keys is None else None
        if cut_off is not None:
            rows, standing, gone = cut_off.rows, cut_off.standing, cut_off.gone
            plan = make(job, standing, gone, found.snapshot, wish=wish, asked_before=found.job.question, rows=rows)
            return _forecast(job, plan, found.snapshot.totals(), found.snapshot)
    if keys is None:
        job.source.check_ids()
    keys = list_keys(job, keys, tick)
    standing, gone = stand(keys, found.snapshot if found else None)
    plan = make(
        job,
        standing,
        gone,
        found.snapshot if found else None,
        wish=wish,
        asked_before=found.job.question if found else "",
    )
    totals = found.snapshot.totals() if found else Totals()
    return _forecast(job, plan, totals, found.snapshot if found else None)


def _forecast(job: Job, plan: Plan, totals: Totals, snapshot: Snapshot | None) -> Forecast:
    usage, billed = totals.usage, totals.billed - totals.unreported
    requests = plan.to_send * job.spec.samples
    if plan.to_send == 0:
        nothing = 0.0 if job.prices.known else None
        return Forecast(plan, 0, 0, nothing, _seconds(job, 0, 0, 0), max(0, billed), nothing, nothing)
    if snapshot is not None and billed > 0 and usage.prompt_tokens is not None and usage.completion_tokens is not None:
        prompt = round(usage.prompt_tokens / billed * requests)
        completion = round(usage.completion_tokens / billed * requests)
        seconds = _seconds(job, requests, prompt, completion)
        low, cost, high = _learned_cost(job, requests, totals, snapshot) or (None, None, None)
        return Forecast(plan, prompt, completion, cost, seconds, billed, low, high)
    size = _mean_body_bytes(job)
    prompt = round(size / BYTES_PER_TOKEN * requests)
    low, high = _guessed_cost(job, size, requests)
    return Forecast(plan, prompt, None, None, _seconds(job, requests, prompt, None), 0, low, high)


def _learned_cost(job: Job, requests: int, totals: Totals, snapshot: Snapshot) -> tuple[float, float, float] | None:
    """Low, expected and high USD, from what this job's answers cost; None without prices."""
    spent = totals.cost(job.prices)
    if spent is None:
        return None
    expected = spent / totals.billed * requests
    count, _, deviation = snapshot.moments(cost_of(job.prices))
    # A sum of so many, around a mean that is itself known from a sample only.
    margin = 2 * deviation * (requests + requests * requests / count) ** 0.5 if count else expected
    return max(0.0, expected - margin), expected, expected + margin


def _guessed_cost(job: Job, size: float, requests: int) -> tuple[float | None, float | None]:
    """Low and high USD before there is an answer: few tokens and no answer, many tokens and the longest answers."""
    low = job.prices.cost(Usage(round(size / MOST_BYTES_PER_TOKEN), 0))
    cap = job.max_output_tokens
    high = None if cap is None else job.prices.cost(Usage(round(size / LEAST_BYTES_PER_TOKEN), cap))
    return None if low is None else low * requests, None if high is None else high * requests


def _mean_body_bytes(job: Job, sample: int = 200) -> float:
    rows = itertools.islice(itertools.chain.from_iterable(job.source.rows(job.used)), sample)
    sizes = [ready.call.weight for ready in map(job.ready, rows) if ready.call is not None]
    return sum(sizes) / len(sizes) if sizes else 0.0


def _seconds(job: Job, requests: int, prompt: int | None, completion: int | None) -> float | None:
    """Time under the limits that the spec names; None when it names none."""
    limits = job.spec.limits
    waits = []
    if limits.requests_per_minute:
        waits.append(requests / limits.requests_per_minute * 60)
    if limits.tokens_per_minute and prompt is not None and completion is not None:
        waits.append((prompt + completion) / limits.tokens_per_minute * 60)
    return max(waits) if waits else None


def failures(folder: str) -> list[dict[str, Any]]:
    """Failed rows by kind, most frequent first, with one example each."""
    found = must_know(folder)
    told = []
    for kind, rows, permanent, *at in by_kind(standings(found.snapshot)).iter_rows():
        columns = ["id", "error", "http_status", "attempts", "raw", "ordinal"]
        place = pl.DataFrame([(0, *at)], ["ordinal", "piece", "place"], orient="row").cast(pl.UInt32)
        record = found.snapshot.gather(place, [name for name in columns if name != "ordinal"]).row(0, named=True)
        told.append(
            {
                "kind": kind,
                "rows": rows,
                "again_on_rerun": not permanent,
                "example": {name: record[name] for name in columns if name != "ordinal"},
            }
        )
    return told


_WRITERS = {".parquet": export_parquet, ".csv": export_csv, ".jsonl": export_jsonl, ".ndjson": export_jsonl}


def export(job: Job, target: str, *, guard_formulas: bool) -> int:
    """Write the results as they stand, rows without an answer as pending. Gives the rows. Raises SpecError."""
    write = _WRITERS.get(os.path.splitext(target)[1].lower())
    if write is None:
        raise SpecError(f"--to {target}: the name must end in .csv, .parquet or .jsonl")
    refuse_input(job, target)
    join = joined(job, must_know(job.folder))
    with writing(target):
        return write(Files(), os.path.abspath(target), join, guard_formulas)


def refuse_input(job: Job, target: str) -> None:
    """Raises SpecError for a target that is the input."""
    if any(os.path.realpath(path) == os.path.realpath(target) for path in job.source.files):
        raise SpecError(f"--to {target}: that is the input; it was not overwritten. Name another file")


@contextlib.contextmanager
def writing(target: str) -> Iterator[None]:
    """What goes wrong with a file that the user named. Raises SpecError, or StorageError when the disk fails us."""
    try:
        yield
    except OSError as exc:
        failed = StorageError if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) else SpecError
        raise failed(f"--to {target}: {exc.strerror or exc}") from exc


def evaluation(job: Job) -> Evaluation:
    """The labels as they stand, held against the gold ones. Raises SpecError without an ``evaluate`` block."""
    found = evaluated(job, joined(job, must_know(job.folder))) if job.spec.evaluate is not None else None
    if found is None:
        raise SpecError("the spec has no evaluate block; write evaluate: {gold: COLUMN, field: FIELD}")
    return found


def joined(job: Job, found: Known) -> Join:
    """The input beside its answers as they stand."""
    keys = list_keys(job, kept_keys(job, Files(), found.layout.keys, job.fingerprint()))
    standing, _ = stand(keys, found.snapshot)
    return Join(
        job.source,
        standing.table,
        found.snapshot,
        job.prices,
        job.prefix,
        fields=job.fields,
        samples=job.spec.samples,
        media=job.media,
    )
