"""A chat endpoint that answers anything at once, so cheaply that it is never what a benchmark measures.

``python -m tests.bench.server [--latency S] [--typed] [--numbered]`` prints its port, and ends when its stdin closes.
``GET /stats`` tells what came in since ``GET /reset``. Replies differ from row to row: one answer over and over would
make the Parquet parts of the pipeline look smaller than they are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Callable
from typing import cast

from tests.bench.load import ANSWER_CHARS, sentence
from tests.bench.process import raise_file_limit, stand_aside
from tests.bench.tally import Tally

_new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
try:
    import uvloop

    _new_loop = uvloop.new_event_loop
except ImportError:
    pass

REPLIES = 8_192
BACKLOG = 1_024
"""Connections that wait to be accepted: that of common servers, and far less than the most in flight."""


def _http(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body


def canned_replies(count: int, *, typed: bool = False) -> list[bytes]:
    """Whole HTTP replies of about 600 bytes of JSON each; the same ones in every process. ``typed``: the answer is
    itself the JSON that ``load.FIELDS`` asks for."""
    chosen = random.Random(7)
    return [
        _http(_completion(number, _typed(chosen) if typed else sentence(chosen, ANSWER_CHARS)))
        for number in range(count)
    ]


def _typed(chosen: random.Random) -> str:
    """About as long as the other answers."""
    return json.dumps(
        {
            "sentiment": chosen.choice(["positive", "negative", "neutral"]),
            "confidence": round(chosen.random(), 2),
            "stars": chosen.randrange(1, 6),
            "recommend": chosen.random() < 0.5,
            "reasons": [sentence(chosen, ANSWER_CHARS // 5) for _ in range(2)],
        }
    )


def _completion(number: int, answer: str) -> bytes:
    message = {"role": "assistant", "content": answer, "refusal": None}
    reply = {
        "id": f"chatcmpl-canned{number:08d}",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "canned",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 52,
            "completion_tokens": 46,
            "total_tokens": 98,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
        "system_fingerprint": None,
    }
    return json.dumps(reply).encode()


class Desk:
    """What all connections share."""

    def __init__(self, latency_s: float, *, typed: bool, numbered: bool) -> None:
        self.latency_s = latency_s
        self.replies = canned_replies(REPLIES, typed=typed)
        self.numbered = numbered
        self.tally = Tally(numbered=numbered)

    def page(self, path: bytes) -> bytes | None:
        """The reply to the bench itself; None for a path that is a model's."""
        if path == b"/stats":
            return _http(json.dumps(self.tally.members()).encode())
        if path == b"/reset":
            self.tally = Tally(numbered=self.numbered)
            return _http(b"{}")
        return None


class Connection(asyncio.Protocol):
    """Keep-alive HTTP/1.1 with Content-Length, one request after another."""

    def __init__(self, desk: Desk, loop: asyncio.AbstractEventLoop) -> None:
        self._desk = desk
        self._loop = loop
        self._held = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by class

    def data_received(self, data: bytes) -> None:
        held = self._held + data if self._held else data
        while held:
            head_end = held.find(b"\r\n\r\n")
            if head_end < 0:
                break
            end = head_end + 4 + _content_length(held[:head_end])
            if len(held) < end:
                break
            self._answer(held[:end])
            held = held[end:]
        self._held = held

    def _answer(self, request: bytes) -> None:
        if request.startswith(b"GET "):
            page = self._desk.page(request.split(b" ", 2)[1])
            if page is not None:
                self._write(page)
                return
        tally = self._desk.tally
        reply = self._desk.replies[tally.requests % REPLIES]
        tally.came(request)
        if self._desk.latency_s:
            self._loop.call_later(self._desk.latency_s, self._reply, reply, tally)
        else:
            self._reply(reply, tally)

    def _reply(self, reply: bytes, tally: Tally) -> None:
        self._write(reply)
        tally.went()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


def _content_length(head: bytes) -> int:
    at = head.find(b"Content-Length:")
    if at < 0:
        head = head.lower()
        at = head.find(b"content-length:")
    if at < 0:
        return 0
    line_end = head.find(b"\r\n", at)
    return int(head[at + 15 : line_end if line_end > 0 else len(head)])


async def serve(desk: Desk) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(desk, loop), "127.0.0.1", 0, backlog=BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    parent_left = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), parent_left.set)
    await parent_left.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.server")
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="of every reply, in seconds")
    parser.add_argument("--typed", action="store_true", help="answers are the JSON of five fields")
    parser.add_argument("--numbered", action="store_true", help="prompts begin with the row's number: watch the order")
    options = parser.parse_args()
    raise_file_limit()
    stand_aside()
    desk = Desk(options.latency, typed=options.typed, numbered=options.numbered)
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(serve(desk))


if __name__ == "__main__":
    main()
