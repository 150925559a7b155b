"""``pipeline status``: how a job stands, looked at without its lock.

While a run goes on it says itself how it stands, every two seconds, in a small file (the heartbeat): a look then costs
the same for ten rows and ten millions. Else the checkpoint is read, and again only when something in it has changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.ledger import Prices, totals_members
from pipeline.progress import money, plain, short_number, short_time
from pipeline.stand import count_ended
from pipeline.storage import job_file
from pipeline.storage.files import Files
from pipeline.storage.holder import noted
from pipeline.storage.layout import Layout
from pipeline.storage.lock import Holder, held
from pipeline.storage.snapshot import Snapshot
from pipeline.storage.standing import by_kind, standings
from pipeline.summary import NAME, read_json

WATCH_EVERY_S = 2.0
WAIT_EVERY_S = 0.5
SILENT_S = 15.0
"""A run that was not heard of for so long is told as silent: it is suspended, or its disk hangs."""

_Print = tuple[tuple[str, int, int], ...]


class Reader:
    """Looks at one job, as often as is wanted."""

    def __init__(self, folder: str, prices: Prices) -> None:
        self._files = Files()
        self._layout = Layout.of_output(folder)
        self._summary = os.path.join(folder, NAME)
        self._prices = prices
        self._seen: _Print | None = None
        self._recorded: dict[str, Any] = {}

    def look(self) -> dict[str, Any] | None:
        """None when there is no checkpoint yet. Raises CheckpointError for one that cannot be read."""
        job = job_file.read_job(self._files, self._layout)
        if job is None:
            return None
        running = held(self._layout.lock)
        holder = noted(self._layout.lock) if running else None
        heartbeat = self._heartbeat(holder, running=running)
        running = running and (heartbeat is not None or held(self._layout.lock))
        members = {"job": job.name, "running": running, "simulated": job.simulated}
        if running:
            members["phase"] = heartbeat["phase"] if heartbeat else "starting"
            members["process"] = {"pid": holder.pid, "host": holder.host, "since": holder.started} if holder else None
        members |= heartbeat.pop("recorded") if running and heartbeat else self._read_recorded(job.job)
        if running:
            return {**members, "now": heartbeat}
        cut_off = None if heartbeat is None else {"last_heard_of": heartbeat["at"], "done": heartbeat["done"]}
        return {**members, "last_run": read_json(self._summary), "cut_off": cut_off}

    def _heartbeat(self, holder: Holder | None, *, running: bool) -> dict[str, Any] | None:
        """Of the run that holds the lock, if one does; else the one that a killed run has left."""
        found: dict[str, Any] | None = read_json(self._layout.heartbeat)
        if not running or found is None:
            return found
        return found if holder is not None and holder.pid == found["pid"] else None

    def _read_recorded(self, job: str) -> dict[str, Any]:
        seen = self._print()
        if seen != self._seen:
            self._recorded = _recorded(Snapshot(self._layout.folder, job, self._files), self._prices)
            self._seen = seen
        return self._recorded

    def _print(self) -> _Print:
        """Changes with every record."""
        return tuple(sorted(_stats(self._layout.folder)) + sorted(_stats(self._layout.journal)))

    def taken(self) -> bool:
        """A run has the lock, and may not have come further yet."""
        return held(self._layout.lock)

    def runs(self) -> object:
        """Changes whenever a run takes the lock, however short it is."""
        try:
            seen = os.stat(self._layout.lock)
        except FileNotFoundError:
            return None
        return seen.st_ino, seen.st_mtime_ns


def _stats(folder: str) -> Iterator[tuple[str, int, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".jsonl"):
                    seen = entry.stat(follow_symlinks=False)
                    yield entry.name, seen.st_size, seen.st_mtime_ns
    except FileNotFoundError:
        return


def _recorded(snapshot: Snapshot, prices: Prices) -> dict[str, Any]:
    standing = standings(snapshot)
    statuses, _, _ = count_ended(standing)
    return {
        "recorded": statuses,
        "failures": dict(by_kind(standing).select("kind", "rows").iter_rows()),
        **totals_members(snapshot.totals(), prices),
    }


def follow(reader: Reader, show: Callable[[dict[str, Any] | None], None], sleep: Callable[[float], None]) -> None:
    """Show how the job stands until its run has ended; waits for one to begin, and misses none that is short."""
    runs = reader.runs()
    members = reader.look()
    began = members is not None and members["running"]
    show(members)
    while True:
        sleep(WATCH_EVERY_S if began else WAIT_EVERY_S)
        members = reader.look()
        running = members is not None and members["running"]
        ended = not running and (began or (reader.runs() != runs and not reader.taken()))
        if running or ended:
            show(members)
        if ended:
            return
        began = began or running


# -- for people --------------------------------------------------------------------------------------------------------


def watch_lines(members: dict[str, Any] | None) -> list[str]:
    if members is None:
        return ["no checkpoint yet; waiting for a run to begin (Ctrl-C ends this)"]
    return status_lines(members)


def status_lines(members: dict[str, Any]) -> list[str]:
    made_up = ", simulated answers" if members["simulated"] else ""
    lines = [f"{members['job']}: {_state(members)}{made_up}"]
    now, last = members.get("now"), members.get("last_run")
    if now:
        lines += _now_lines(now)
    elif last and last.get("rows") is not None:
        lines.append(f"  rows       {last['rows']}, {last['statuses'].get('pending', 0)} pending")
    lines += _recorded_lines(members)
    if now:
        lines += _flight_lines(now)
    if members.get("cut_off"):
        lines.append(f"  the last run was cut off, last heard of {_stamp(members['cut_off']['last_heard_of'])};")
        lines.append("  the same command goes on where it stopped")
    elif last:
        message = plain(last["message"]) or ("finished" if last["finished"] else "")
        lines.append(f"  last run   {last['started']}, exit {last['exit_code']}: {message}")
    return lines


def _state(members: dict[str, Any]) -> str:
    if not members["running"]:
        return "not running"
    holder = members["process"]
    who = f" (process {holder['pid']} since {holder['since']})" if holder else ""
    return f"{members['phase']}{who}"


def _now_lines(now: dict[str, Any]) -> list[str]:
    rows, done = now["rows"], now["done"]
    share = f" of {rows} ({100 * done / rows:.1f} %)" if rows else ""
    left = now["seconds_left"]
    time_left = f", {short_time(left)} left" if left else ""
    lines = [
        f"  rows       {done}{share}, {now['done_this_run']} in this run",
        f"  rate       {now['rows_per_s']:.1f} rows/s over the last minute{time_left}",
    ]
    silent_s = time.time() - now["at"]
    if silent_s > SILENT_S:
        lines.append(f"  silent     for {short_time(silent_s)}: it is suspended, or its disk hangs")
    return lines


def _recorded_lines(members: dict[str, Any]) -> list[str]:
    answers = {status: count for status, count in members["recorded"].items() if status != "failed"}
    lines = [f"  answers    {_listed(answers) or 'none yet'}"]
    if members["failures"]:
        lines.append(f"  failed     {_listed(members['failures'])}")
    lines.append(
        f"  requests   {members['requests']} ({members['requests_billed']} billed, "
        f"{members['requests_maybe_billed']} maybe billed)"
    )
    prompt, completion = members["prompt_tokens"] or 0, members["completion_tokens"] or 0
    lines.append(f"  tokens     {short_number(prompt)} prompt, {short_number(completion)} completion")
    lines.append(f"  money      {money(members['cost_usd'])}")
    return lines


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])))


def _flight_lines(now: dict[str, Any]) -> list[str]:
    lines = [f"  in flight  {now['in_flight']}"]
    for slow in now["slowest_in_flight"]:
        name = slow["row"] if slow["id"] is None else slow["id"]
        lines.append(f"             row {plain(str(name))} for {slow['for_s']} s")
    lines.append(f"  limits     {_limits(now['limits'])}")
    return lines


def _limits(limits: dict[str, Any]) -> str:
    given, found = limits["requests_per_minute_given"], limits["requests_per_minute"]
    if given is not None:
        per_minute = f"{given:g} requests a minute (the spec's)"
    else:
        per_minute = "none on requests found yet" if found is None else f"{found:.0f} requests a minute (found)"
    refused = f", refused {limits['refused']:.0f} x" if limits["refused"] else ""
    return f"{per_minute}, {limits['concurrency']:.0f} in flight at most{refused}{_sharing(limits)}"


def _sharing(limits: dict[str, Any]) -> str:
    """What this job has of an allowance that several jobs share."""
    jobs = limits.get("jobs_sharing") or 1
    if jobs < 2:
        return ""
    parts = [
        f"{short_number(share)} {name.removesuffix('_share').replace('_', ' ')}"
        for name, share in limits.items()
        if name.endswith("_share")
    ]
    return f"; shared by {jobs:.0f} jobs, this one has {', '.join(parts)}"


def _stamp(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
