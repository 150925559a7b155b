"""Room for a run's connections among the files that the system lets a process have open.

Each row in flight holds a connection, which counts like an open file. A run that came to its limit half way could
neither connect nor open the next part, so the room is made, or the run refused, before anything is sent.
"""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass

from pipeline.errors import SpecError

FILES = 64
"""Beside the connections: input, journal, parts, logs, attached files, event loop, threads. A run was seen with 24
of them at most; the rest is for libraries that open some for a moment."""


@dataclass(frozen=True, slots=True)
class Room:
    """``needed``: the connections and ``FILES``. The limits are None where there is none."""

    rows: int
    each: int
    needed: int
    soft: int | None
    hard: int | None

    @property
    def fits(self) -> bool:
        """As it is, or once the soft limit is raised."""
        return self.hard is None or self.needed <= self.hard

    def rows_within(self, limit: int) -> int:
        return max(0, self.rows - -(-(self.needed - limit) // self.each))


def room(rows: int, each: int = 1) -> Room:
    """What ``rows`` in flight need, ``each`` with so many connections."""
    soft, hard = _limits()
    return Room(rows, each, rows * each + FILES + max(0, _open_now() - FILES // 2), soft, hard)


def make_room(rows: int, each: int = 1) -> None:
    """Raise the soft limit as far as these rows need. Raises SpecError when the system does not allow that."""
    found = room(rows, each)
    if found.soft is None or found.needed <= found.soft:
        return
    if found.hard is not None and not found.fits:
        raise SpecError(_refusal(found, found.hard))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (found.needed, _as_limit(found.hard)))
    except (OSError, ValueError) as exc:  # a system may allow less than it says
        raise SpecError(f"{_refusal(found, found.soft)} (raising it failed: {exc})") from exc


def told(found: Room) -> str:
    """For ``pipeline check``. Raises SpecError for what ``make_room`` would refuse."""
    if found.hard is not None and not found.fits:
        raise SpecError(_refusal(found, found.hard))
    has = "no limit" if found.soft is None else f"a limit of {found.soft}"
    raised = found.soft is not None and found.needed > found.soft
    return (
        f"{found.rows} rows in flight, at most {found.needed} open files; {has}"
        f"{', which a run raises for itself' if raised else ''}"
    )


def _refusal(found: Room, allowed: int) -> str:
    fit = found.rows_within(allowed)
    lower = f"lower limits.concurrency to {fit}" if fit else "close some of the files that are open"
    return (
        f"limits.concurrency: {found.rows} rows in flight need up to {found.needed} open files and connections, and "
        f"the system allows this process {allowed}; nothing was sent. Raise that (as root "
        f"`ulimit -n {found.needed}`, in a systemd unit LimitNOFILE={found.needed}), or {lower}"
    )


def _limits() -> tuple[int | None, int | None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    return None if soft == endless else soft, None if hard == endless else hard


def _as_limit(limit: int | None) -> int:
    return resource.RLIM_INFINITY if limit is None else limit


def _open_now() -> int:
    """Ours are some of ``FILES``; there are more where whoever started us left us theirs."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return len(os.listdir(folder)) - 1  # without the folder itself
    return 0  # this system does not tell
