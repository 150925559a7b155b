"""The rows through async-batch-llm with the cheapest that it can be given: a call of our own by aiohttp, its indexed
SQLite store, bounded queues, results taken as they come.

``python -m tests.bench.peers.ask_async_batch_llm ROWS BASE_URL INPUT.csv OUTPUT``, in the environment that has it.
"""

from __future__ import annotations

import asyncio
import csv
import itertools
import os
import sys
from collections.abc import Iterator
from typing import Any

import aiohttp
from async_batch_llm import (
    ArtifactIdentity,
    CallableStrategy,
    CallOutcome,
    ProcessorConfig,
    ResumePolicy,
    SqliteArtifactStore,
    process_stream,
)

from tests.bench.load import WORKERS

_QUEUED = 1_000


def prompts(count: int, source: str) -> Iterator[tuple[str, str]]:
    with open(source, encoding="utf-8", newline="") as table:
        for row in itertools.islice(csv.DictReader(table), count):
            yield row["id"], row["text"]


async def ask_all(count: int, base_url: str, source: str, target: str) -> None:
    url = f"{base_url}/chat/completions"
    headers = {"Authorization": f"Bearer {os.environ['BENCH_KEY']}"}
    connector = aiohttp.TCPConnector(limit=WORKERS)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def invoke(prompt: str, *, attempt: int, timeout: float, state: Any) -> Any:
            body = {"model": "canned", "messages": [{"role": "user", "content": prompt}], "stream": False}
            async with session.post(url, json=body) as reply:
                reply.raise_for_status()
                answer = await reply.json()
            usage = answer["usage"]
            used = {
                "input_tokens": usage["prompt_tokens"],
                "output_tokens": usage["completion_tokens"],
                "total_tokens": usage["total_tokens"],
            }
            return CallOutcome(answer["choices"][0]["message"]["content"], token_usage=used)

        identity = ArtifactIdentity(provider="canned", model="canned")
        strategy = CallableStrategy(invoke, identity=identity)
        config = ProcessorConfig(concurrency=WORKERS, max_queue_size=_QUEUED, max_result_queue_size=_QUEUED)
        store = SqliteArtifactStore(target, identity=identity)
        failed = 0
        async for result in process_stream(
            strategy,
            prompts(count, source),
            config=config,
            artifact_store=store,
            resume=ResumePolicy.REUSE_SUCCESSES,
        ):
            failed += not result.success
    if failed:
        sys.exit(f"{failed} rows have no answer")


def main() -> None:
    count, base_url, source, target = sys.argv[1:]
    asyncio.run(ask_all(int(count), base_url, source, target))


if __name__ == "__main__":
    main()
