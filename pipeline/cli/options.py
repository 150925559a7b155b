"""Flags that more than one verb has, and what the exit codes mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

EXIT_CODES = """\b
Exit codes:
  0    every row has its answer
  1    a fault of ours (the traceback is in run.log), or the disk failed
  2    usage, spec or input wrong; nothing was sent
  3    finished, but more rows failed than --max-failed allows, or an alarm of the spec went off
  4    the endpoint refuses us: key, balance, permission, unknown model, never reachable
  5    the budget is spent
  75   stopped early, will go on: run the same command again
  130  second Ctrl-C: run it again
"""

RETRY_FAILED = "--retry-failed"
_JOB_ENDINGS = (".yaml", ".yml", ".json")


class JobCommand(click.Command):
    """A verb that takes a JOB. ``--retry-failed JOB`` means every kind: the name of a file is no kind of failure."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        following = [*args[1:], ""]
        spelled = [
            f"{word}=all" if word == RETRY_FAILED and after.endswith(_JOB_ENDINGS) else word
            for word, after in zip(args, following, strict=True)
        ]
        return super().parse_args(ctx, spelled)


Verb = TypeVar("Verb", bound=Callable[..., Any])

job_argument = click.argument("job_file", metavar="JOB", type=click.Path(path_type=Path))
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one value of the spec: limits.concurrency=8",
)
env_file_option = click.option(
    "--env-file",
    metavar="FILE",
    help="Read KEY=VALUE lines into the environment first; a variable that is set already wins.",
)
folder_option = click.option("-C", "directory", metavar="DIR", help="Change to this directory first, as make does.")
refresh_option = click.option(
    "--refresh-expired", is_flag=True, help="Ask again where the answer is older than the spec's expire."
)


def run_options(verb: Verb) -> Verb:
    for option in reversed(
        [
            job_argument,
            click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows."),
            click.option("--max-minutes", type=click.FloatRange(min=0), metavar="M", help="Stop after M minutes (75)."),
            click.option(
                RETRY_FAILED,
                is_flag=False,
                flag_value="all",
                metavar="[KIND]",
                help="Send rows again that failed for good; of one kind, or all.",
            ),
            refresh_option,
            click.option("--accept-changes", is_flag=True, help="Buy finished rows again where the question changed."),
            click.option(
                "--max-failed",
                default="0",
                metavar="N|P%",
                show_default=True,
                help="Failed rows that still are exit 0.",
            ),
            set_option,
            click.option("--no-progress", is_flag=True, help="No bar and no lines while it runs."),
            click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True),
            click.option("--quiet", is_flag=True, help="Errors only."),
            folder_option,
        ]
    ):
        verb = option(verb)
    return verb
