"""What the looking verbs share: they take JOB, --set and -C, and answer in lines or in JSON."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.cli.given import change_directory, load
from pipeline.cli.options import JobCommand, folder_option, job_argument, set_option
from pipeline.cli.say import print_json, print_lines

json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, one object a line.")


def looking(verb: Callable[..., int]) -> click.Command:
    """A command out of a verb that looks at a job: it is handed the job's spec, and gives the exit code."""

    @functools.wraps(verb)
    def load_first(job_file: Path, overrides: tuple[str, ...], directory: str | None, **flags: Any) -> int:
        change_directory(directory)
        return verb(load(job_file, overrides, flags.pop("limit", None)), **flags)

    return click.command(cls=JobCommand)(job_argument(set_option(folder_option(load_first))))


def show(objects: Iterable[Any], lines: Sequence[str], *, as_json: bool) -> None:
    """What was found, for programs or for people."""
    if as_json:
        for members in objects:
            print_json(members)
    else:
        print_lines(lines)
