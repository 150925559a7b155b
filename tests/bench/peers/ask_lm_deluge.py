"""The rows through lm-deluge, as its documentation has it: one client, limits that never bind, all prompts in one call.
The answers are in memory until the end, and written there.

``python -m tests.bench.peers.ask_lm_deluge ROWS BASE_URL INPUT.csv OUTPUT``, in the environment that has it.
"""

from __future__ import annotations

import asyncio
import csv
import itertools
import json
import sys

from lm_deluge import LLMClient
from lm_deluge.models import register_model

from tests.bench.load import WORKERS

_NEVER_BINDS = 10**9


async def ask_all(count: int, base_url: str, source: str, target: str) -> None:
    with open(source, encoding="utf-8", newline="") as table:
        rows = list(itertools.islice(csv.DictReader(table), count))
    register_model(id="canned", name="canned", api_base=base_url, api_key_env_var="BENCH_KEY", api_spec="openai")
    client = LLMClient(
        "canned",
        max_requests_per_minute=_NEVER_BINDS,
        max_tokens_per_minute=_NEVER_BINDS,
        max_concurrent_requests=WORKERS,
    )
    texts = await client.process_prompts_async(
        [row["text"] for row in rows], show_progress=False, return_completions_only=True
    )
    with open(target, "w", encoding="utf-8") as out:
        for row, text in zip(rows, texts, strict=True):
            out.write(json.dumps({"id": row["id"], "answer": text}) + "\n")
    if None in texts:
        sys.exit(f"{texts.count(None)} rows have no answer")


def main() -> None:
    count, base_url, source, target = sys.argv[1:]
    asyncio.run(ask_all(int(count), base_url, source, target))


if __name__ == "__main__":
    main()
