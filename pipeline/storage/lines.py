"""What is recorded of a row, as the body of a journal line; ``parquet.LINE_SCHEMA`` has the short names."""

from __future__ import annotations

import time
from typing import Any

import orjson

from pipeline.errors import ProviderError
from pipeline.records import NO_USAGE, ApiReply, Billed, Outcome, Usage
from pipeline.storage.journal import body_of


def _counts(usage: Usage) -> list[int | None] | None:
    return None if usage == NO_USAGE else list(usage)


def attempt_body(key: str, error: ProviderError) -> bytes:
    members = {
        "e": "t",
        "k": key,
        "x": error.kind,
        "d": str(error),
        "h": error.status,
        "r": error.request_id,
        "u": _counts(error.usage),
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
        "u": _counts(reply.usage),
        "b": Billed.YES,
        "a": reply.attempts,
        "l": round(reply.latency_s, 4),
        "w": round(time.time(), 3),
        "z": orjson.dumps(reply.json).decode(),
    }
    return body_of(_without_nulls(members))


def outcome_body(outcome: Outcome, media: str | None) -> bytes:
    """Written for speed: a paid answer is in no file until this is done."""
    row, usage = outcome.row, outcome.usage
    members: dict[str, Any] = {
        "e": "o",
        "k": outcome.key,
        "n": row.ordinal,
        "s": outcome.status,
        "b": outcome.billed,
        "a": outcome.attempts,
        "w": round(time.time(), 3),
    }
    # One by one: a table of all members, sifted afterwards, took twice as long.
    if row.id is not None:
        members["i"] = row.id
    if outcome.text is not None:
        members["t"] = outcome.text
    if outcome.kind is not None:
        members["x"] = outcome.kind
    if outcome.error is not None:
        members["d"] = outcome.error
    if outcome.finish_reason is not None:
        members["f"] = outcome.finish_reason
    if outcome.model is not None:
        members["m"] = outcome.model
    if outcome.request_id is not None:
        members["r"] = outcome.request_id
    if outcome.http_status is not None:
        members["h"] = outcome.http_status
    if usage is not NO_USAGE:
        members["u"] = list(usage)
    if outcome.latency_s is not None:
        members["l"] = round(outcome.latency_s, 4)
    if outcome.reasoning is not None:
        members["g"] = outcome.reasoning
    if outcome.raw is not None:
        members["z"] = outcome.raw
    if outcome.permanent:
        members["p"] = True
    if outcome.fields is not None:
        members["j"] = orjson.dumps(outcome.fields).decode()
    if outcome.step is not None:
        members["v"] = outcome.step
    if outcome.earlier_replies or outcome.earlier is not NO_USAGE:
        members["q"] = [*outcome.earlier, outcome.earlier_replies]
    if outcome.votes is not None:
        members["vt"] = orjson.dumps(outcome.votes._asdict()).decode()
    if outcome.renewed:
        members["y"] = True
    if media is not None:
        members["o"] = media
    return body_of(members)


def _without_nulls(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
