"""A big job that has been run already, made without sending: for measuring plan, resume and the final tables.

``python -m tests.bench.filled FOLDER ROWS [--done SHARE] [--url URL] [--without-keys]`` writes ``rows.csv`` (an id and
about 200 characters a row), ``job.yaml`` and the checkpoint that a run leaves which was killed when that share of the
rows was done. The keys are the real ones, so ``pipeline plan FOLDER/job.yaml`` finds the rows done. ``--without-keys``
leaves no list of keys, as a first run does that was killed.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from pipeline.job import Job
from pipeline.plan import keys_name
from pipeline.records import Row
from pipeline.spec import load
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.files import Files
from pipeline.storage.keys import Keys
from pipeline.storage.manifest import Part, part_line
from pipeline.storage.parquet import PART_SCHEMA, part_bytes, part_name
from pipeline.storage.writer import SEAL_ROWS
from tests.bench.load import ANSWER_CHARS, PROMPT_CHARS, sentence

SENTENCES = 20_011  # a prime, so that rows and answers do not go in step with the parts

_JOB = """\
name: filled
input: {{path: {table}, id: id}}
prompt: "{{{{ text }}}}"
model: canned
endpoint: {{base_url: "{url}", api_key_env: BENCH_KEY}}
limits: {{concurrency: 256}}
output: {folder}
"""


def fill(folder: Path, rows: int, share: float, url: str, *, with_keys: bool) -> Path:
    """Gives the job file. A checkpoint that is there already is thrown away."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "out", ignore_errors=True)
    write_table(folder / "rows.csv", rows)
    file = folder / "job.yaml"
    table, out = json.dumps(str(folder / "rows.csv")), json.dumps(str(folder / "out"))
    file.write_text(_JOB.format(table=table, folder=out, url=url), encoding="utf-8")
    job = Job(load(file))
    files = Files()
    checkpoint = Checkpoint.open(str(folder / "out" / "checkpoint"), "filled")
    checkpoint.update(question=job.question)
    keys = Keys(has_ids=True)
    done = round(rows * share)
    number = 1_000  # above whatever the checkpoint has begun by itself
    for batch in _batches(job):
        hexes = [keys.add(row.id, job.asked(row)) for row in batch]
        ended = [(key, row) for key, row in zip(hexes, batch, strict=True) if row.ordinal < done]
        if ended:
            number += 1
            data = part_bytes(_records(ended))
            (folder / "out/checkpoint/parts" / part_name(number)).write_bytes(data)
            part = Part(number, part_name(number), len(ended), len(data), hashlib.sha256(data).hexdigest())
            checkpoint.writer.manifest.add(part_line(part, checkpoint.job.job))
        elif not with_keys:
            break
    if with_keys:
        keys.save(files, checkpoint.layout.keys, keys_name(job, job.fingerprint()))
    checkpoint.seal()
    checkpoint.release()
    return file


def write_table(path: Path, rows: int) -> None:
    """The same bytes for the same number of rows; no two rows are equal."""
    chosen = random.Random(rows)
    texts = [sentence(chosen, PROMPT_CHARS - 9) for _ in range(min(rows, SENTENCES))]
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("id,text\n")
        for begin in range(0, rows, 10_000):
            numbers = range(begin, min(begin + 10_000, rows))
            file.write("".join([f"{number:08d},{number:08d} {texts[number % SENTENCES]}\n" for number in numbers]))


def _batches(job: Job) -> Iterator[list[Row]]:
    held: list[Row] = []
    for batch in job.source.rows(job.used):
        held += batch
        while len(held) >= SEAL_ROWS:
            yield held[:SEAL_ROWS]
            held = held[SEAL_ROWS:]
    if held:
        yield held


@functools.cache
def _answers() -> list[str]:
    chosen = random.Random(7)
    return [sentence(chosen, ANSWER_CHARS) for _ in range(SENTENCES)]


_TOKENS = {
    "prompt_tokens": 52,
    "completion_tokens": 46,
    "total_tokens": 98,
    "cached_tokens": 0,
    "reasoning_tokens": 0,
}


def _records(ended: list[tuple[str, Row]]) -> pl.DataFrame:
    """A part as the writer makes it of plain answers, in about the order in which 256 workers end them."""
    mixed = random.Random(ended[0][1].ordinal)
    ended = sorted(ended, key=lambda one: one[1].ordinal + mixed.random() * 256)
    count, now = len(ended), time.time()
    ordinals = [row.ordinal for _, row in ended]
    columns = {
        "key": pl.Series([bytes.fromhex(key) for key, _ in ended], dtype=pl.Binary),
        "event": pl.repeat("outcome", count, eager=True),
        "ordinal": pl.Series(ordinals, dtype=pl.Int64),
        "id": pl.Series([row.id for _, row in ended], dtype=pl.String),
        "status": pl.repeat("ok", count, eager=True),
        "text": pl.Series([_answers()[ordinal * 7 % SENTENCES] for ordinal in ordinals], dtype=pl.String),
        "finish_reason": pl.repeat("stop", count, eager=True),
        "model": pl.repeat("canned", count, eager=True),
        "request_id": pl.Series([f"chatcmpl-canned{ordinal:08d}" for ordinal in ordinals], dtype=pl.String),
        "http_status": pl.repeat(200, count, eager=True),
        "billed": pl.repeat("yes", count, eager=True),
        "attempts": pl.repeat(1, count, eager=True),
        "latency_s": pl.Series([round(mixed.uniform(0.2, 2.0), 4) for _ in ended], dtype=pl.Float64),
        "ended_at": pl.Series([round(now + place / 1_000, 3) for place in range(count)], dtype=pl.Float64),
        **{name: pl.repeat(tokens, count, eager=True) for name, tokens in _TOKENS.items()},
    }
    nothing = pl.lit(None)
    frame = pl.DataFrame(columns)
    return frame.select(
        (pl.col(name) if name in columns else nothing).cast(kind).alias(name) for name, kind in PART_SCHEMA.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.filled", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("rows", type=int)
    parser.add_argument("--done", type=float, default=1.0, metavar="SHARE", help="of the rows, the first ones (1.0)")
    parser.add_argument("--url", default="http://127.0.0.1:9/v1", help="base_url of the job's endpoint")
    parser.add_argument("--without-keys", action="store_true", help="leave no list of keys")
    options = parser.parse_args()
    print(fill(options.folder, options.rows, options.done, options.url, with_keys=not options.without_keys))


if __name__ == "__main__":
    main()
