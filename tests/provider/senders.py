"""A client as the tests of this folder have it."""

from __future__ import annotations

from typing import Any

from pipeline.provider.client import Client

KEY = "sk-canary-0123456789abcdefghij"
CAP = 100_000
"""Bytes of the largest reply that it takes."""


def client(base_url: str = "http://127.0.0.1:9/v1", **over: Any) -> Client:
    usual: dict[str, Any] = {
        "key": KEY,
        "headers": {},
        "connect_s": 5,
        "total_s": 5,
        "concurrency": 4,
        "max_reply_bytes": CAP,
        "user_agent": "prompt-pipeline/test",
    }
    return Client(base_url=base_url, **{**usual, **over})
