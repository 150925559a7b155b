"""What ``plan``, ``status``, ``failures`` and ``verify`` say to people."""

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
        f"removed   {plan.removed} (answers kept, left out of the results)",
        f"to send   {plan.to_send}",
    ]
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


def status_lines(members: dict[str, Any]) -> list[str]:
    state = "running" if members["running"] else "not running"
    lines = [f"{members['job']}: {state}" + (" (simulated answers)" if members["simulated"] else "")]
    lines += [f"  {count:>9} {status}" for status, count in members["recorded"].items()]
    lines += [f"  failed: {count} {kind}" for kind, count in members["failures"].items()]
    lines.append(
        f"  requests: {members['requests']}, billed {members['requests_billed']}, "
        f"maybe billed {members['requests_maybe_billed']}; tokens: {members['prompt_tokens'] or 0} prompt, "
        f"{members['completion_tokens'] or 0} completion"
    )
    now = members.get("now")
    if now:
        left = now.get("seconds_left")
        lines.append(
            f"  now: {now['done']}/{now['rows']} rows, {now['rows_per_s']} rows/s, {money(now['cost_usd'])}, "
            f"{now['in_flight']} in flight" + (f", {short_time(left)} left" if left else "")
        )
        lines += _sharing(now.get("limits", {}))
        lines += [f"  in flight for {slow['for_s']} s: row {slow['row']}" for slow in now["slowest_in_flight"]]
    last = members.get("last_run")
    if last:
        lines.append(
            f"  last run: exit {last['exit_code']} ({plain(last['message']) or 'finished'}), {last['started']}"
        )
    return lines


def _sharing(limits: dict[str, Any]) -> list[str]:
    jobs = limits.get("jobs_sharing") or 1
    if jobs < 2:
        return []
    parts = [
        f"{short_number(share)} {name.removesuffix('_share').replace('_', ' ')}"
        for name, share in limits.items()
        if name.endswith("_share")
    ]
    return [f"  limits shared by {jobs:.0f} jobs; this one has {', '.join(parts)}"]


def failure_lines(told: list[dict[str, Any]]) -> list[str]:
    if not told:
        return ["no failed rows"]
    lines = []
    for kind in told:
        again = (
            "tried again on the next run" if kind["again_on_rerun"] else f"kept; --retry-failed {kind['kind']} sends"
        )
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
    lines += [f"not ours, left alone: {name}" for name in report.foreign]
    lines += [f"repaired: {line}" for line in report.repaired]
    if report.records_lost:
        lines.append(f"{report.records_lost} records are lost; their rows would be sent again")
    if not report.damage:
        lines.append("all is as it was written")
    elif not report.repaired:
        lines.append("run `pipeline verify JOB --repair` to keep what is whole and queue the rest again")
    return lines
