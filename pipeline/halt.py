"""``pipeline stop``: tell a running job to drain, and see it out. Nothing is ever cut off, and nobody else is told."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import orjson

from pipeline.errors import RunPaused
from pipeline.stop import DRAIN_S
from pipeline.storage.files import Files, content
from pipeline.storage.holder import noted, terminate
from pipeline.storage.layout import Layout
from pipeline.storage.lock import Holder, held
from pipeline.summary import NAME

WAIT_S = DRAIN_S + 30.0
"""For the answers that are waited for, and for what is then written."""
_POLL_S = 0.1
_NOTE_S = 2.0


def halt(
    folder: str,
    *,
    wait: bool,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Returns when no run is left, or at once without ``wait``. Raises RunPaused when it cannot be told which process
    holds the lock, or when that one takes longer than it may."""
    layout = Layout.of_output(folder)
    began = clock()
    holder = _holder(layout.lock, sleep, lambda: clock() - began)
    if holder is None:
        say(f"not running: nobody holds {layout.lock}")
        return
    who = f"process {holder.pid} on {holder.host} (since {holder.started})"
    if _stopping(layout.heartbeat, holder):
        # A second signal would cut off what the first one lets finish.
        say(f"{who} is stopping already; it was not signalled again")
    elif terminate(layout.lock, holder):
        say(f"{who} was told to stop: it draws no more rows and waits for the answers that are paid for")
    if wait:
        summary = os.path.join(folder, NAME)
        before = content(Files(), summary)
        _see_out(layout.lock, holder, sleep, lambda: clock() - began)
        after = content(Files(), summary)
        told = f": {_ending(after)}" if after is not None and after != before else ""
        say(f"it has ended, {clock() - began:.1f} s later{told}")


def _holder(path: str, sleep: Callable[[float], None], waited: Callable[[], float]) -> Holder | None:
    """None when nobody holds the lock; one who has just taken it needs an instant to write its name."""
    while held(path):
        holder = noted(path)
        if holder is not None and held(path):
            return holder
        if waited() > _NOTE_S:
            raise RunPaused(f"{path} is held, but does not say by whom; nothing was signalled. Find it with `fuser`")
        sleep(_POLL_S)
    return None


def _stopping(heartbeat: str, holder: Holder) -> bool:
    try:
        told = orjson.loads(content(Files(), heartbeat) or b"")
    except ValueError:
        return False
    return bool(told.get("pid") == holder.pid and told.get("phase") == "stopping")


def _ending(summary: bytes) -> str:
    told = orjson.loads(summary)
    rows = ", ".join(f"{count} {status}" for status, count in told["statuses"].items())
    return f"exit {told['exit_code']}, {rows or 'no rows'}"


def _see_out(path: str, holder: Holder, sleep: Callable[[float], None], waited: Callable[[], float]) -> None:
    # The next run may take the lock as soon as this one lets go of it.
    while held(path) and noted(path) in (holder, None):
        if waited() > WAIT_S:
            raise RunPaused(
                f"process {holder.pid} still holds the lock after {waited():.0f} s; it was told to stop, and nothing "
                "was cut off. Look with `pipeline status`, or run `pipeline stop` again to go on waiting"
            )
        sleep(_POLL_S)
