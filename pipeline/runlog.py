"""``run.log``: JSON lines of what happened, for programs and for the morning after.

Prompts and answers are never in it: what an endpoint or an input said goes to whoever listens, not into the file. A
filter takes out anything that looks like a key, whoever logged it.

Each run that sends something has a log of its own; those before it become ``run.1.log`` and so on, ten of them. A run
that sends nothing adds its few lines, if it has any, to the log that is there. An event that may come by the million is
written in full a thousand times a kind, and counted after that.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

LOG = "run.log"
FILE_MODE = 0o600
KEPT = 10
"""Older logs that stay."""
FULL = 1_000
"""So many events of one kind are written in full."""
COUNT_EVERY_S = 60.0
MOST_BYTES = 16 << 20
"""A larger log steps aside for a run that sends nothing, too, or a job refused every minute would fill the disk."""

_KEY = re.compile(r"(?i)(bearer\s+)[^\s\"'\\,;]+|\bsk-[A-Za-z0-9_\-]{8,}")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\n]")
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW

Echo = Callable[[str, dict[str, Any], str], None]
"""Told of every event: its level, its members, and the line as the log has it."""


def redact(text: str, secret: str | None = None) -> str:
    """The text without keys: the one of this run, and what looks like one."""
    if secret:
        text = text.replace(secret, "[key]")
    return _KEY.sub(lambda match: f"{match[1] or ''}[key]", text)


@dataclass(slots=True)
class _Tally:
    seen: int = 0
    untold: int = 0


class RunLog:
    """One run's log. Lines wait until ``begin`` (the run is about to send) or ``close``. Nothing but these two touches
    the disk before; and nothing but ``begin`` raises: a log that cannot be written must not cost an answer."""

    def __init__(
        self, path: str | None, run: str, secret: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.run = run
        self.secret = secret  # the key of this run, once it is known
        self.echo: Echo | None = None
        self._path = path
        self._fd = -1
        self._held: list[bytes] = []
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._clock = clock
        self._counted_at = clock()

    def begin(self) -> None:
        """A log of this run's own, for its owner alone. Raises OSError when there can be none."""
        if self._path is not None:
            fd = os.open(self._path, _FLAGS, FILE_MODE)
            if os.fstat(fd).st_size and _step_aside(self._path):
                os.close(fd)
                fd = os.open(self._path, _FLAGS, FILE_MODE)
            self._fd = fd
            self._release()

    def join(self) -> None:
        """Add to the log that is there, which another process has begun. Raises nothing."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._fd = os.open(self._path, _FLAGS, FILE_MODE)
                self._release()

    def event(self, level: str, event: str, *, aloud: Mapping[str, Any] | None = None, **members: Any) -> None:
        """``aloud``: members for who listens alone, because they may quote a prompt or an answer."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
        line = {"ts": stamp, "level": level, "event": event, "run": self.run, **members}
        text = redact(as_json(line), self.secret)
        if self._path is not None:
            self._held.append(text.encode() + b"\n")
            if self._fd >= 0:
                self._release()
        if self.echo is not None:
            if aloud:
                line |= aloud
                text = redact(as_json(line), self.secret)
            self.echo(level, line, text)

    def info(self, event: str, **members: Any) -> None:
        self.event("info", event, **members)

    def warning(self, event: str, **members: Any) -> None:
        self.event("warning", event, **members)

    def error(self, event: str, exc: BaseException | None = None, **members: Any) -> None:
        if exc is not None:
            members["traceback"] = frames(exc)
        self.event("error", event, **members)

    def often(self, event: str, kind: str, **members: Any) -> None:
        """A warning that may come by the million."""
        tally = self._tallies.setdefault((event, kind), _Tally())
        tally.seen += 1
        if tally.seen <= FULL:
            self.warning(event, kind=kind, **members)
        else:
            tally.untold += 1

    def tick(self) -> None:
        """To be called every few seconds."""
        if self._clock() - self._counted_at >= COUNT_EVERY_S:
            self.count()

    def count(self) -> None:
        """Say how many there were that were not written in full."""
        over_s = round(self._clock() - self._counted_at, 1)
        for (event, kind), tally in self._tallies.items():
            if tally.untold:
                self.warning(f"{event}_more", kind=kind, count=tally.untold, over_s=over_s, so_far=tally.seen)
                tally.untold = 0
        self._counted_at = self._clock()

    def capture_library_warnings(self) -> None:
        """What asyncio and aiohttp log on their own goes here, and only here."""
        handler = _Handler(self)
        for name in ("asyncio", "aiohttp"):
            logger = logging.getLogger(name)
            logger.handlers = [handler]
            logger.propagate = False

    def close(self) -> None:
        self.count()
        if self._fd < 0 and self._held and self._path is not None:
            with contextlib.suppress(OSError):
                self._fd = os.open(self._path, _FLAGS, FILE_MODE)
                if os.fstat(self._fd).st_size > MOST_BYTES:
                    os.close(self._fd)
                    self.begin()
                self._release()
        self._drop()

    def _release(self) -> None:
        held, self._held = self._held, []
        try:
            for line in held:
                os.write(self._fd, line)
        except OSError:
            self._drop()

    def _drop(self) -> None:
        self._path = None
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1


def _step_aside(path: str) -> bool:
    """``run.log`` becomes ``run.1.log``. The oldest moves first: a crash in between leaves a gap and loses nothing, and
    the next time only those before the gap move. False when a name cannot be given: then the log goes on as it is."""
    stem, suffix = os.path.splitext(path)
    names = [path, *(f"{stem}.{number}{suffix}" for number in range(1, KEPT + 1))]
    free = next((place for place, name in enumerate(names) if not os.path.lexists(name)), KEPT)
    try:
        for place in range(free, 0, -1):
            os.rename(names[place - 1], names[place])
    except OSError:
        return False
    return True


def as_json(members: Any, *, indent: bool = False) -> str:
    """For programs, and harmless on a terminal: what is not to be printed is written as an escape. Takes anything."""
    try:
        text = orjson.dumps(members, default=str, option=orjson.OPT_INDENT_2 if indent else 0).decode()
    except TypeError:  # a file's name that is no text, a number of more than 64 bits
        text = json.dumps(members, default=str, indent=2 if indent else None)
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    """Outside of ASCII nothing but text in quotes can stand in JSON."""
    return match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1]


def frames(exc: BaseException) -> str:
    """Where it happened and of what type it is, causes first. Not its words, which may quote a row."""
    cause = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    before = f"{frames(cause)}\nthen:\n" if cause is not None else ""
    system = f": {exc.strerror}" if isinstance(exc, OSError) and exc.strerror else ""
    return f"{before}{''.join(traceback.format_tb(exc.__traceback__))}{type(exc).__qualname__}{system}"


class _Handler(logging.Handler):
    def __init__(self, log: RunLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        # The first line and no arguments: those show requests, and exceptions with their words.
        message = str(record.msg).split("\n", 1)[0][:200]
        self._log.often("library", record.name, message=message)
