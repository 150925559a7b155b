"""What the wire is told of a job: address, limits, budget, and who fetches what answers link to."""

from __future__ import annotations

from pipeline.job import Job, on_loopback
from pipeline.ledger import Totals
from pipeline.provider.budget import Purse
from pipeline.provider.fetch import Fetcher
from pipeline.provider.purses import money_purse, token_purse
from pipeline.provider.wire import Address, Limits

FETCH_S = 120.0
"""The most that one link may take; signed ones expire anyway."""


def address_of(job: Job, key: str | None) -> Address:
    endpoint = job.spec.endpoint
    return Address(
        endpoint.base_url,
        key,
        endpoint.headers,
        endpoint.timeout_s.connect,
        endpoint.timeout_s.total,
        int(endpoint.max_reply_mb * 1_000_000),
        endpoint.proxy,
        endpoint.timeout_s.idle,
    )


def limits_of(job: Job) -> Limits:
    limits, retry = job.spec.limits, job.spec.retry
    return Limits(
        limits.requests_per_minute,
        limits.tokens_per_minute,
        limits.input_tokens_per_minute,
        limits.output_tokens_per_minute,
        limits.concurrency,
        job.max_output_tokens,
        retry.max_attempts,
        retry.max_wait_s,
        retry.max_in_doubt,
    )


def fetcher_of(job: Job) -> Fetcher | None:
    """For jobs whose links are to be fetched. A loopback endpoint may be fetched from, no other address of its kind."""
    media, endpoint = job.spec.media, job.spec.endpoint
    if media is None or not job.downloads:
        return None
    return Fetcher(
        connect_s=endpoint.timeout_s.connect,
        total_s=min(FETCH_S, endpoint.timeout_s.total),
        max_bytes=int(media.max_mb * 1_000_000),
        concurrency=job.spec.limits.concurrency,
        proxy=endpoint.proxy,
        own=endpoint.base_url if on_loopback(job.spec) else None,
    )


def connections_each(job: Job, *, served_here: bool) -> int:
    """How many connections a row in flight may hold at most. ``served_here``: the endpoint is part of this process."""
    return (1 + job.downloads) * (1 + served_here)


def purses_of(job: Job, before: Totals) -> list[Purse]:
    """The job's budget, less what earlier runs spent; none without a cap on answers (see ``Job``)."""
    budget, cap = job.spec.budget, job.most_output_tokens
    if cap is None:
        return []
    each = job.spec.attachments.max_tokens or 0  # named wherever there is a budget and something attached
    purses = []
    if budget.tokens is not None:
        purses.append(token_purse(budget.tokens, before, cap, each))
    if budget.usd is not None:
        purses.append(money_purse(budget.usd, before, cap, job.prices, each))
    return purses
