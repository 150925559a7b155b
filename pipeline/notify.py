"""Telling somebody that a run has ended: a command of the user's, with the summary on its stdin.

It comes after everything else, when the next run may start already; whatever becomes of it, the run has ended as it
has. It gets the environment without the key, and so much time; then it is killed, and all that it started. What it
says is kept for the log, as far as that makes sense.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO

LIMIT_S = 30.0
OUTPUT_BYTES = 4_096
_LAST_WORDS_S = 0.5


@dataclass(frozen=True, slots=True)
class Notice:
    """What became of it. ``fault`` is None when all went well."""

    fault: str | None
    output: str


def notify(
    words: Sequence[str],
    summary: bytes,
    environ: Mapping[str, str],
    limit_s: float = LIMIT_S,
    shield: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> Notice:
    """Run a command. Raises nothing but what a signal raises, and then leaves nothing running: ``shield`` holds signals
    back while the command is started, when nobody could say yet what is to be killed."""
    process = None
    try:
        with shield():
            process = _started(words, summary, environ)
        return _seen_out(process, limit_s)
    except (OSError, ValueError) as exc:
        return Notice(f"cannot be run: {exc.strerror if isinstance(exc, OSError) else exc}", "")
    except BaseException:
        if process is not None:
            _kill(process)
        raise


def _started(words: Sequence[str], summary: bytes, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with tempfile.TemporaryFile() as given:  # no pipe: a command that reads nothing would be waited for
        given.write(summary)
        given.seek(0)
        return subprocess.Popen(  # noqa: S603 - the user's own command, from the user's own spec
            list(words),
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environ),
            start_new_session=True,
        )


def _seen_out(process: subprocess.Popen[bytes], limit_s: float) -> Notice:
    assert process.stdout is not None
    said = bytearray()
    listener = threading.Thread(target=_listen, args=(process.stdout, said), daemon=True)
    listener.start()
    fault = None
    try:
        code = process.wait(limit_s)
        if code:
            fault = f"ended with {code}" if code > 0 else f"was ended by {_name(-code)}"
    except subprocess.TimeoutExpired:
        fault = f"did not end within {limit_s:g} s and was killed"
        _kill(process)
    # Something it has left in the background may hold the pipe open for ever.
    listener.join(_LAST_WORDS_S)
    return Notice(fault, bytes(said).decode(errors="replace"))


def _listen(stream: IO[bytes], said: bytearray) -> None:
    """All is read, so that nobody waits for us; the beginning is kept."""
    with stream, contextlib.suppress(OSError):
        while piece := os.read(stream.fileno(), 65_536):
            said += piece[: OUTPUT_BYTES - len(said)]


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:  # not waited for yet: its group's number, which is its own, is nobody else's
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def without_key(environ: Mapping[str, str], name: str) -> dict[str, str]:
    """The environment without the variable of the key, and without any other that holds the same."""
    key = environ.get(name, "").strip()
    return {other: value for other, value in environ.items() if other != name and not (key and key in value)}
