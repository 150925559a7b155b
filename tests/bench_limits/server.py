"""The simulator in a process of its own, with a diary: when each request came, when it left, how, and its tokens.

The clock of outages and changed limits starts with the first request. It ends with its stdin, and then writes the
diary as JSON lines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from pathlib import Path
from statistics import NormalDist
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from pipeline.simulator import Settings
from pipeline.simulator.answers import Answerer
from pipeline.simulator.chance import digest
from pipeline.simulator.completion import Answer
from pipeline.simulator.question import Question
from pipeline.simulator.server import SERVICE, create_app

BACKLOG = 4096
_UNIT = 2.0**-64


class Unforeseeable(Answerer):
    """Answers whose lengths are lognormal: most are short, a few are very long, and nothing tells which."""

    def __init__(self, seed: int, median_tokens: float, sigma: float, most: int) -> None:
        super().__init__(seed)
        self._prefix = str(seed).encode()
        self._median_tokens = median_tokens
        self._sigma = sigma
        self._most = most

    def answer(self, question: Question, media_root: str = "") -> Answer:
        drawn = digest(self._prefix + orjson.dumps(question.messages))
        fraction = (int.from_bytes(drawn[:8], "big") + 0.5) * _UNIT
        tokens = self._median_tokens * math.exp(self._sigma * NormalDist().inv_cdf(fraction))
        length = max(1, min(self._most, int(tokens)))
        return Answerer(0, answer_tokens=(length, length)).answer(question)


class Diary:
    """One entry per request that asks something: came, left, status (0: none), tokens."""

    def __init__(self) -> None:
        self.entries: list[tuple[float, float, int, int]] = []

    def middleware(self, *, timed: bool) -> Middleware:
        """``timed``: the simulator has a plan by the clock, which begins with the first request."""

        @web.middleware
        async def noted(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.method != "POST" or not request.path.endswith("/chat/completions"):
                return await handler(request)
            came = time.monotonic()
            if not self.entries and timed:
                await request.app[SERVICE].reset(request)
            place = len(self.entries)
            self.entries.append((came, came, 0, 0))
            response = None
            try:
                response = await handler(request)
                return response
            finally:
                status, tokens = _told(request, response)
                self.entries[place] = (came, time.monotonic(), status, tokens)

        return noted

    def write(self, path: Path) -> None:
        path.write_bytes(b"".join(orjson.dumps(entry) + b"\n" for entry in self.entries))


def _told(request: web.Request, response: web.StreamResponse | None) -> tuple[int, int]:
    if response is None or request.transport is None or request.transport.is_closing():
        return 0, 0
    if response.status != 200 or not isinstance(response, web.Response):
        return response.status, 0
    body = response.body
    usage = orjson.loads(body).get("usage") if isinstance(body, bytes) else None
    return 200, usage["total_tokens"] if usage else 0


async def serve(settings: Settings, lengths: dict[str, Any] | None, diary: Diary) -> None:
    app = create_app(settings)
    timed = settings.outage is not None or settings.change_after_s is not None
    app.middlewares.append(diary.middleware(timed=timed))
    if lengths is not None:
        app[SERVICE]._answers = Unforeseeable(settings.seed, **lengths)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=BACKLOG).start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    print(json.dumps(app[SERVICE].ledger.stats()), flush=True)
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("diary", type=Path)
    parser.add_argument("settings", type=json.loads)
    parser.add_argument("--lengths", type=json.loads, default=None)
    args = parser.parse_args()
    told: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in args.settings.items()}
    diary = Diary()
    asyncio.run(serve(Settings(**told), args.lengths, diary))
    diary.write(args.diary)


if __name__ == "__main__":
    main()
