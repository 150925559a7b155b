"""The bare loop: what asking costs when nothing else is done. Every ratio of the benchmark is against this.

256 workers over one aiohttp session on asyncio's own loop, ``json=`` and ``r.json()``, one JSON line a result; no
retries, no limits, no resume. Keep it as it is: a faster reference is another reference.

``python -m tests.bench.bare ROWS URL INPUT.csv OUTPUT.jsonl [WORKERS]``; with more workers it is another reference, and
said to be.
"""

from __future__ import annotations

import asyncio
import csv
import itertools
import json
import sys
from collections.abc import Iterator
from typing import IO

import aiohttp

from tests.bench.load import WORKERS
from tests.bench.process import raise_file_limit


async def worker(rows: Iterator[dict[str, str]], url: str, session: aiohttp.ClientSession, out: IO[str]) -> None:
    for row in rows:
        body = {"model": "canned", "messages": [{"role": "user", "content": row["text"]}], "stream": False}
        async with session.post(url, json=body) as reply:
            answer = await reply.json()
        text = answer["choices"][0]["message"]["content"]
        out.write(json.dumps({"id": row["id"], "answer": text}) + "\n")


async def ask_all(count: int, url: str, source: str, target: str, workers: int = WORKERS) -> None:
    with open(source, encoding="utf-8", newline="") as table, open(target, "w", encoding="utf-8") as out:
        rows = itertools.islice(csv.DictReader(table), count)
        connector = aiohttp.TCPConnector(limit=workers)
        headers = {"Authorization": "Bearer made-up"}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            await asyncio.gather(*(worker(rows, url, session, out) for _ in range(workers)))


def main() -> None:
    raise_file_limit()
    count, url, source, target, *workers = sys.argv[1:]
    asyncio.run(ask_all(int(count), url, source, target, *map(int, workers)))


if __name__ == "__main__":
    main()
