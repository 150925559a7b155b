"""What is recorded of a row, as the body of a journal line; ``parquet.LINE_SCHEMA`` has the short names."""

from __future__ import annotations

import time
from typing import Any

import orjson

from pipeline.errors import ProviderError
from pipeline.records import NO_USAGE, ApiReply, Billed, Outcome, Usage
from pipeline.storage.journal import body_of


def _usage_members(usage: Usage) -> list[int | None] | None:
    counts = [
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.total_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
    ]
    return None if counts == [None] * 5 else counts


def attempt_body(key: str, error: ProviderError) -> bytes:
    members = {
        "e": "t",
        "k": key,
        "x": error.kind,
        "d": str(error),
        "h": error.status,
        "r": error.request_id,
        "u": _usage_members(error.usage),
        "b": error.billed,
        "l": error.latency_s,
        "w": round(time.time(), 3),
    }
    return body_of(_without_nulls(members))


def reply_body(key: str, reply: ApiReply) -> bytes:
    members = {
        "e": "k",
        "k": key,
        "h": reply.status,
        "u": _usage_members(reply.usage),
        "b": Billed.YES,
        "a": reply.attempts,
        "l": round(reply.latency_s, 4),
        "w": round(time.time(), 3),
        "z": orjson.dumps(reply.json).decode(),
    }
    return body_of(_without_nulls(members))


_OUTCOME = (
    "e",
    "k",
    "n",
    "s",
    "b",
    "a",
    "w",
    "i",
    "t",
    "x",
    "d",
    "f",
    "m",
    "r",
    "h",
    "u",
    "l",
    "g",
    "z",
    "p",
    "j",
    "v",
)
_OUTCOME_TOO = ("q", "vt", "y", "o")


def outcome_body(outcome: Outcome, media: str | None) -> bytes:
    """Written for speed: a paid answer is in no file until this is done."""
    values = (
        "o",
        outcome.key,
        outcome.row.ordinal,
        outcome.status,
        outcome.billed,
        outcome.attempts,
        round(time.time(), 3),
        outcome.row.id,
        outcome.text,
        outcome.kind,
        outcome.error,
        outcome.finish_reason,
        outcome.model,
        outcome.request_id,
        outcome.http_status,
        _usage_members(outcome.usage),
        None if outcome.latency_s is None else round(outcome.latency_s, 4),
        outcome.reasoning,
        outcome.raw,
        outcome.permanent or None,
        None if outcome.fields is None else orjson.dumps(outcome.fields).decode(),
        outcome.step,
    )
    members = {name: value for name, value in zip(_OUTCOME, values, strict=True) if value is not None}
    if (
        outcome.earlier is not NO_USAGE
        or outcome.earlier_replies
        or outcome.votes is not None
        or outcome.renewed
        or media is not None
    ):
        votes = None if outcome.votes is None else orjson.dumps(outcome.votes._asdict()).decode()
        rare = (_earlier_members(outcome), votes, outcome.renewed or None, media)
        members |= {name: value for name, value in zip(_OUTCOME_TOO, rare, strict=True) if value is not None}
    return body_of(members)


def _earlier_members(outcome: Outcome) -> list[int | None] | None:
    """Token counts of the replies before the last, and their number behind them."""
    if not outcome.earlier_replies and outcome.earlier is NO_USAGE:
        return None
    return [*(_usage_members(outcome.earlier) or [None] * 5), outcome.earlier_replies]


def _without_nulls(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
