"""What people look at goes to stderr, what programs read goes to stdout; and the streams themselves."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

_COLUMNS = 80
"""Of a terminal that does not say."""


def open_streams() -> None:
    """Standard streams that cron or a script has closed: nothing that we open must come to stand in their places."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


def to_nowhere(stream: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def say(text: str) -> None:
    """What is said may quote an input or a server: nothing in it can command a terminal."""
    from pipeline.progress import plain
    from pipeline.screen import fold

    lines = [plain(line) for line in text.split("\n")]
    try:
        if sys.stderr.isatty():  # a terminal would break them in the middle of words
            lines = [fold(line, os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS) for line in lines]
        # Not by click, which swallows whatever is raised in the middle of it: a signal of ours, for one.
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()
    except OSError:
        to_nowhere(2)  # the terminal is gone, or a pipe's reader: the run goes on, and nobody listens


def print_json(members: Any, *, indent: bool = False) -> None:
    from pipeline.runlog import as_json

    sys.stdout.buffer.write(as_json(members, indent=indent).encode() + b"\n")
    sys.stdout.buffer.flush()


def print_lines(lines: Sequence[str]) -> None:
    from pipeline.progress import plain

    for line in lines:
        click.echo(plain(line))
    sys.stdout.flush()
