"""What ``plan``, ``failures`` and ``verify`` say to people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipeline.look import Forecast
from pipeline.progress import money, plain, short_number, short_time
from pipeline.storage.verify import Report


def forecast_members(found: Forecast) -> dict[str, Any]:
    plan = found.plan
    return {
        "plan": {**asdict(plan), "to_send": plan.to_send},
        "prompt_tokens": found.prompt_tokens,
        "completion_tokens": found.completion_tokens,
        "cost_usd": {"low": found.cost_low_usd, "expected": found.cost_usd, "high": found.cost_high_usd},
        "seconds_at_least": found.seconds,
        "learned_from_requests": found.learned_from,
    }


def forecast_lines(found: Forecast) -> list[str]:
    plan = found.plan
    lines = [
        f"rows      {plan.rows}",
        f"  done    {plan.done}",
        f"  new     {plan.new}",
        f"  changed {plan.changed}",
        f"  failed  {plan.failed_again} to be tried again, {plan.failed_kept} for good (--retry-failed sends them)",
        *_expired(found),
        f"removed   {plan.removed} (answers kept, left out of the results)",
        f"to send   {plan.to_send}",
    ]
    if plan.copies:
        lines.append(f"copies    {plan.copies} (rows that ask what another row asks; their answers are free)")
    if plan.again:
        lines.append(f"  of these {plan.again} were answered before the question changed: needs --accept-changes")
    if plan.to_send:
        lines.append(_tokens(found))
        lines.append(f"money     {_money(found)}")
        at_least = (
            "unknown: the spec names no limit" if found.seconds is None else f"{short_time(found.seconds)} at least"
        )
        lines.append(f"time      {at_least}")
    return lines


def _expired(found: Forecast) -> list[str]:
    plan = found.plan
    if not plan.expired:
        return []
    again = "to be asked again" if plan.expired_again else "kept (--refresh-expired asks them again)"
    return [f"expired   {plan.expired} of those done, {again}"]


def _tokens(found: Forecast) -> str:
    prompt = "?" if found.prompt_tokens is None else short_number(found.prompt_tokens)
    completion = "?" if found.completion_tokens is None else short_number(found.completion_tokens)
    learned = (
        f"learned from {found.learned_from} answers" if found.learned_from else "guessed from the length of prompts"
    )
    return f"tokens    {prompt} prompt, {completion} completion ({learned})"


def _money(found: Forecast) -> str:
    if found.cost_low_usd is None:
        return "unknown: the spec has no prices"
    high = (
        "no bound without model.max_tokens" if found.cost_high_usd is None else f"{money(found.cost_high_usd)} at most"
    )
    if found.cost_usd is None:
        return f"{money(found.cost_low_usd)} at least, {high} (no answer yet to learn from)"
    return f"{money(found.cost_usd)} expected ({money(found.cost_low_usd)} to {money(found.cost_high_usd)})"


def failure_lines(told: list[dict[str, Any]], last: dict[str, int] | None = None) -> list[str]:
    """``last``: the failed rows that the last run's input has. The folder remembers those of earlier questions, too."""
    if not told:
        return ["no failed rows"]
    lines = []
    for kind in told:
        again = (
            "tried again on the next run" if kind["again_on_rerun"] else f"kept; --retry-failed {kind['kind']} sends"
        )
        still = kind["rows"] if last is None else min(kind["rows"], last.get(kind["kind"], 0))
        if still == 0:
            again = "of an earlier question, or of rows that are gone; not sent"
        elif still < kind["rows"]:
            again = f"{again}; {kind['rows'] - still} of an earlier question, or of rows that are gone, are not sent"
        lines.append(f"{kind['rows']} x {kind['kind']} ({again})")
        example = kind["example"]
        name = "" if example["id"] is None else f"row {plain(example['id'])}: "
        lines.append(f"    {name}{plain(example['error'] or '')}")
        if example["raw"]:
            lines.append(f"    the reply began: {plain(example['raw'])[:300]}")
    return lines


def verify_lines(report: Report) -> list[str]:
    lines = [f"{report.parts} parts with {report.records} records, {report.segments} open journal segment(s)"]
    lines += [f"damaged: {line}" for line in report.damage]
    lines += [f"media: {line}; the answer is kept, the file does not come back" for line in report.media]
    lines += [f"not ours, left alone: {name}" for name in report.foreign]
    lines += [f"repaired: {line}" for line in report.repaired]
    if report.records_lost:
        lines.append(f"{report.records_lost} records are lost; their rows would be sent again")
    if not report.damage:
        lines.append("all is as it was written")
    elif not report.repaired:
        lines.append("run `pipeline verify JOB --repair` to keep what is whole and queue the rest again")
    return lines
