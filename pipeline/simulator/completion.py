"""The shapes of a chat completion: as one object, and as a stream of events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

FINGERPRINT = "simulator"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the simulated model says. ``completion_tokens`` holds the reasoning tokens too."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    model: str | None = None  # as it calls itself, where that is not what was asked for


def as_object(answer: Answer, model: str, completion_id: str, created: int) -> dict[str, Any]:
    return {
        "id": completion_id,
        "object": "chat.completion",
        "created": created,
        "model": answer.model or model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": None,
                "finish_reason": answer.finish_reason,
            }
        ],
        "usage": {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "total_tokens": answer.prompt_tokens + answer.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
        },
        "system_fingerprint": FINGERPRINT,
    }


def as_events(completion: Any, *, with_usage: bool) -> list[bytes]:
    """The same as server-sent events, word by word. What has no choices goes out as one event, as gateways do."""
    if not isinstance(completion, Mapping) or not completion.get("choices"):
        return [event(completion)]
    choice = completion["choices"][0]
    head = {key: value for key, value in completion.items() if key not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk"
    message = choice.get("message") or {}
    content = message.get("content")
    words = content.split(" ") if isinstance(content, str) and content else []
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word if at == 0 else " " + word} for at, word in enumerate(words)]
    deltas += [{key: message[key]} for key in ("refusal", "tool_calls") if message.get(key)]
    chunks = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": choice.get("finish_reason")}]})
    if with_usage and "usage" in completion:
        chunks.append({**head, "choices": [], "usage": completion["usage"]})
    return [*map(event, chunks), b"data: [DONE]\n\n"]


def event(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
