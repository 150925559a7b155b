"""The verbs that send: to the endpoint, or to the simulator within."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.given import api_key, change_directory, load, may_be_simulated, read_env_file, shares
from pipeline.cli.options import EXIT_CODES, JobCommand, env_file_option, run_options
from pipeline.cli.say import say
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.progress import Display
    from pipeline.spec import JobSpec
    from pipeline.storage.lock import Lock
    from pipeline.summary import Summary


@click.command(cls=JobCommand, epilog=EXIT_CODES)
@run_options
@env_file_option
def run(job_file: Path, env_file: str | None, **flags: Any) -> int:
    """Plan, then send what is not done yet. The same command resumes."""
    from pipeline.inform import informing
    from pipeline.storage.layout import Layout
    from pipeline.storage.lock import claimed

    with _telling(flags):
        change_directory(flags["directory"])
        read_env_file(env_file)
        spec = load(job_file, flags["overrides"], flags["limit"])
        with informing(spec, _saying(flags)) as ended:
            with claimed(Layout.of_output(spec.output.path).folder) as lock:
                summary = _go(spec, flags, simulated=may_be_simulated(spec), key=lambda: api_key(spec), lock=lock)
            ended(summary)
        return summary.exit_code


@click.command(cls=JobCommand, epilog=EXIT_CODES)
@click.option("--latency", default=0.05, show_default=True, metavar="SECONDS", help="Of the simulator's answers.")
@click.option("--fault", "faults", multiple=True, metavar="KIND=SHARE", help="Faults of the simulator: mixed=0.05")
@run_options
def rehearse(job_file: Path, latency: float, faults: tuple[str, ...], **flags: Any) -> int:
    """The same run against the embedded simulator. Into OUTPUT/rehearsal: no key, no cost, nothing sent outside."""
    from pipeline.job import rehearsed
    from pipeline.simulator import Settings
    from pipeline.simulator.background import in_background

    with _telling(flags):
        change_directory(flags["directory"])
        spec = load(job_file, flags["overrides"], flags["limit"])
        with in_background(Settings(latency_s=latency, faults=shares(faults))) as base_url:
            return _go(rehearsed(spec, base_url), flags, simulated=True, key=lambda: None).exit_code


def _go(
    spec: JobSpec,
    flags: dict[str, Any],
    *,
    simulated: bool | None,
    key: Callable[[], str | None],
    lock: Lock | None = None,
) -> Summary:
    from pipeline.checks import doubts
    from pipeline.job import Job
    from pipeline.run import Options
    from pipeline.run import run as run_job
    from pipeline.storage.layout import Layout

    quiet, as_json = flags["quiet"], flags["log_format"] == "json"
    options = Options(
        retry_failed=flags["retry_failed"],
        accept_changes=flags["accept_changes"],
        refresh_expired=flags["refresh_expired"],
        max_failed=flags["max_failed"],
        max_minutes=flags["max_minutes"],
        processes=flags["processes"],
        simulated=simulated,
    )
    job, saying = Job(spec), _saying(flags)
    if lock is not None and not os.path.lexists(Layout(os.path.dirname(lock.path)).job):
        key()  # a first run cannot do without one: told before a folder is made that looks like a job's
    for line in doubts(job):
        saying(line)
    summary = run_job(
        job,
        key,
        options,
        say=saying,
        display=lambda: None if quiet or as_json or flags["no_progress"] else _display(),
        echo=_echo(quiet) if as_json else None,
        lock=lock,
    )
    if as_json:
        return summary  # the log has told
    if not quiet:
        for line in summary.lines():
            say(line)
    elif summary.exit_code:
        say(f"pipeline: {summary.message}")
    return summary


def _display() -> Display:
    from pipeline.progress import Bar, Lines
    from pipeline.screen import obeys

    if obeys(sys.stderr, os.environ) and not os.environ.get("TQDM_DISABLE"):
        return Bar(sys.stderr)
    return Lines(say)


def _saying(flags: dict[str, Any]) -> Callable[[str], None]:
    return _silent if flags["quiet"] or flags["log_format"] == "json" else say


def _silent(text: str) -> None:
    return


def _echo(quiet: bool) -> Callable[[str, dict[str, Any], str], None]:
    def echo(level: str, members: dict[str, Any], line: str) -> None:
        if not quiet or level == "error" or members.get("exit_code"):
            say(line)

    return echo


@contextlib.contextmanager
def _telling(flags: dict[str, Any]) -> Iterator[None]:
    """Under ``--log-format json`` an error is a line of JSON, too."""
    try:
        yield
    except PipelineError as exc:
        if flags["log_format"] != "json":
            raise
        from pipeline.runlog import as_json, redact

        told = {"level": "error", "event": "end", "exit_code": exc.exit_code, "message": redact(str(exc))}
        say(as_json(told))
        raise click.exceptions.Exit(exc.exit_code) from exc


VERBS = (run, rehearse)
