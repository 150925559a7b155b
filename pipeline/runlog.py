"""``run.log``: JSON lines of what happened, for programs and for the morning after.

Prompts and answers are never in it. A filter takes out anything that looks like a key, whoever logged it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
import traceback
from collections.abc import Callable
from typing import Any

import orjson

FILE_MODE = 0o600
_KEY = re.compile(r"(?i)(bearer\s+)[^\s\"'\\,;]+|\bsk-[A-Za-z0-9_\-]{8,}")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\n]")

Echo = Callable[[str, dict[str, Any], str], None]
"""Told of every event: its level, its members, and the line as the log has it."""


def redact(text: str, secret: str | None = None) -> str:
    """The text without keys: the one of this run, and what looks like one."""
    if secret:
        text = text.replace(secret, "[key]")
    return _KEY.sub(lambda match: f"{match[1] or ''}[key]", text)


class RunLog:
    """Appends to one run's log. Never raises: a log that cannot be written must not cost an answer."""

    def __init__(self, path: str | None, run: str, secret: str | None = None) -> None:
        self.run = run
        self.secret = secret  # the key of this run, once it is known
        self._fd = -1
        if path is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(path, flags, FILE_MODE)
        self.echo: Echo | None = None

    def event(self, level: str, event: str, **members: Any) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
        line = {"ts": stamp, "level": level, "event": event, "run": self.run, **members}
        text = redact(as_json(line), self.secret)
        if self._fd >= 0:
            try:
                os.write(self._fd, text.encode() + b"\n")
            except OSError:
                self.close()
        if self.echo is not None:
            self.echo(level, line, text)

    def info(self, event: str, **members: Any) -> None:
        self.event("info", event, **members)

    def warning(self, event: str, **members: Any) -> None:
        self.event("warning", event, **members)

    def error(self, event: str, exc: BaseException | None = None, **members: Any) -> None:
        if exc is not None:
            members["traceback"] = "".join(traceback.format_exception(exc))
        self.event("error", event, **members)

    def capture_library_warnings(self) -> None:
        """What asyncio and aiohttp log on their own (with request objects in it) goes here, redacted, and only here."""
        handler = _Handler(self)
        for name in ("asyncio", "aiohttp"):
            logger = logging.getLogger(name)
            logger.handlers = [handler]
            logger.propagate = False

    def close(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1


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


class _Handler(logging.Handler):
    def __init__(self, log: RunLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.warning("library", logger=record.name, message=record.getMessage()[:500])
