"""A hand as the process that leads sees it: how it is started, what it last said, and how it ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field

import pipeline
from pipeline.crew.line import Line
from pipeline.crew.words import Pulse
from pipeline.sharing import in_thread

HAND = ["-m", "pipeline.crew.hand"]
"""What the interpreter is told to run."""

_HELD_BACK = {signal.SIGINT, signal.SIGHUP, signal.SIGTERM}


@dataclass(slots=True)
class Mate:
    lane: int
    process: subprocess.Popen[bytes]
    end: socket.socket
    line: Line | None = None
    begun: bool = False
    pulse: Pulse = field(default_factory=Pulse)
    ended: bool = False  # it has said so itself
    exhausted: bool = False
    gone: bool = False
    died: str = ""  # of what
    turn: int = 0  # of the share that it was told last

    def send(self, message: object) -> None:
        if self.line is not None:
            self.line.send(message)

    def hang_up(self) -> None:
        """It ends what is in flight, and itself."""
        if self.line is not None:
            self.line.close()
        else:
            self.end.close()

    async def buried(self) -> None:
        """Wait for its end, and note what it died of, if it did."""
        code = await in_thread(self.process.wait)
        self.gone = True
        if code or not self.ended:
            self.died = _death(code)


def start(lane: int, lock: int, page: int) -> Mate:
    """Its end of the line, the lock and the page of the budget (-1: none) are all it gets; the rest is told over the
    line. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    passed = [number for number in (theirs.fileno(), lock, page) if number >= 0]
    command = [sys.executable, "-P", *HAND, str(theirs.fileno()), str(lock), str(page)]
    # Until it has said what it does with them: a Ctrl-C in its first moment must not kill it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    try:
        process = subprocess.Popen(  # noqa: S603 - this very interpreter, and a module of ours
            command, stdin=subprocess.DEVNULL, pass_fds=passed, env=_environment()
        )
    except OSError:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    return Mate(lane, process, ours)


def _environment() -> dict[str, str]:
    """With this very package, wherever it lies. A folder of installed packages is found without being told."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(pipeline.__file__)))
    if os.path.basename(home) in ("site-packages", "dist-packages"):
        return dict(os.environ)
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def _death(code: int) -> str:
    if code >= 0:
        return f"exit {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
