"""What a reply says, through the real client and the chat dialogue; no server, so that only the words matter."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aioresponses import aioresponses

from pipeline.errors import ProviderError, RateLimited, RowRejected, RunBlocked
from pipeline.provider.endpoints.chat import dialogue
from pipeline.records import Billed, Completion, Model, Prompt, Status
from tests.provider.senders import client

URL = "https://example.test/v1/chat/completions"


@pytest.fixture(autouse=True)
def by_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """aioresponses stands in for a session; what a reply means is the same whichever way it came."""
    monkeypatch.setattr("pipeline.provider.client.is_tried", lambda: False)


class Reply(aiohttp.ClientResponse):
    """aioresponses makes replies without the ``stream_writer`` that aiohttp has asked for since 3.14."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"stream_writer": SimpleNamespace(output_size=0), **kwargs})


async def ask(**reply: Any) -> Completion:
    """One prompt, answered with the given status, body or payload."""
    exchange = dialogue(Model("m"))(Prompt([{"role": "user", "content": "hello"}]))
    sender = client("https://example.test/v1", total_s=1, max_reply_bytes=1_000_000)
    with aioresponses() as wire:
        wire.post(URL, response_class=Reply, **reply)
        async with sender:
            answer = await sender.send(next(exchange))
            sent = next(iter(wire.requests.values()))[0].kwargs
            assert sent["allow_redirects"] is False
    try:
        exchange.send(answer)
    except StopIteration as end:
        completion: Completion = end.value
        return completion
    raise AssertionError("the dialogue asks again")


def completion(content: Any, finish: str = "stop", **usage: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {
        "id": "chatcmpl-1",
        "model": "m-1",
        "choices": [{"message": message, "finish_reason": finish}],
        "usage": usage,
    }


@pytest.mark.parametrize(
    ("content", "finish", "status", "text"),
    [
        ("positive", "stop", Status.OK, "positive"),
        ([{"type": "text", "text": "posi"}, {"type": "text", "text": "tive"}], "STOP", Status.OK, "positive"),
        ("posi", "length", Status.TRUNCATED, "posi"),
        (None, "MAX_TOKENS", Status.TRUNCATED, None),
        ("", "content_filter", Status.FILTERED, ""),
    ],
)
async def test_a_completion_is_read_by_what_it_says(
    content: Any, finish: str, status: Status, text: str | None
) -> None:
    read = await ask(payload=completion(content, finish))
    assert (read.status, read.text, read.model, read.request_id) == (status, text, "m-1", "chatcmpl-1")


@pytest.mark.parametrize(
    ("status", "payload", "error", "kind", "billed"),
    [
        (403, {"error": {"message": "Insufficient balance", "type": "403"}}, RunBlocked, "balance", Billed.NO),
        (401, {"error": {"message": "Invalid signature", "type": "401"}}, RunBlocked, "unauthorized", Billed.NO),
        (429, {"error": {"message": "slow down", "code": "429"}}, RateLimited, "rate_limited", Billed.NO),
        (
            503,
            {"error": {"message": "The input may not meet the guidelines, adjust and try again", "type": "503"}},
            RowRejected,
            "content_policy",
            Billed.NO,
        ),
        (200, {"error": {"message": "Insufficient balance"}}, RunBlocked, "balance", Billed.NO),
    ],
)
async def test_words_come_before_the_status(
    status: int, payload: dict[str, Any], error: type[ProviderError], kind: str, billed: Billed
) -> None:
    with pytest.raises(error) as caught:
        await ask(status=status, payload=payload)
    assert (caught.value.kind, caught.value.billed) == (kind, billed)
