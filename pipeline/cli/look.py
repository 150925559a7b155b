"""The verbs that look at a job, and send nothing."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.given import api_key, job_of, read_env_file
from pipeline.cli.looking import json_option, looking, show
from pipeline.cli.options import RETRY_FAILED, env_file_option, refresh_option
from pipeline.cli.say import print_json, print_lines, say
from pipeline.errors import CheckpointError, SpecError

if TYPE_CHECKING:
    from pipeline.spec import JobSpec
    from pipeline.status import Reader


@looking
@env_file_option
def check(spec: JobSpec, env_file: str | None) -> int:
    """Everything that can be known without sending. Spec, input, columns, templates, output folder, key."""
    from pipeline.checks import check as check_job

    read_env_file(env_file)
    for line in check_job(job_of(spec), key=lambda: api_key(spec)):
        say(line)
    return 0


@looking
@click.option("-n", "count", default=3, show_default=True, type=click.IntRange(min=0), help="Rows to show.")
@click.option("--full", is_flag=True, help="Show the content of attachments whole.")
def preview(spec: JobSpec, count: int, full: bool) -> int:
    """The exact request bodies that would be sent. One JSON object a line."""
    from pipeline.look import previews

    for shown in previews(job_of(spec), count, full=full):
        print_json(shown)
    return 0


@looking
@click.option(RETRY_FAILED, is_flag=False, flag_value="all", metavar="[KIND]", help="As for run.")
@refresh_option
@json_option
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows.")
def plan(spec: JobSpec, retry_failed: str | None, refresh_expired: bool, as_json: bool) -> int:
    """What a run would do, and what it would take. Rows of each kind; tokens, money and time."""
    from pipeline.look import forecast
    from pipeline.tell import forecast_lines, forecast_members

    found = forecast(job_of(spec), retry_failed, refresh_expired=refresh_expired)
    show([forecast_members(found)], forecast_lines(found), as_json=as_json)
    return 0


@looking
@json_option
@click.option("--watch", is_flag=True, help="Again every two seconds until the run ends; waits for one to begin.")
def status(spec: JobSpec, as_json: bool, watch: bool) -> int:
    """How the job stands, while it runs or after."""
    from pipeline.job import prices_of
    from pipeline.status import Reader, status_lines

    reader = Reader(spec.output.path, prices_of(spec))
    if watch:
        return _watch(reader, as_json=as_json)
    members = reader.look()
    if members is None:
        raise CheckpointError(f"{spec.output.path} has no checkpoint yet; start with `pipeline run`")
    show([members], status_lines(members), as_json=as_json)
    return 0


def _watch(reader: Reader, *, as_json: bool) -> int:
    """Until the run ends, or whoever looks has seen enough."""
    import time

    from pipeline.errors import RunPaused
    from pipeline.screen import Screen, obeys
    from pipeline.status import follow, watch_lines
    from pipeline.stop import signals_raise

    look: Callable[[dict[str, Any] | None], None]
    with contextlib.suppress(RunPaused), signals_raise() as raise_again, contextlib.ExitStack() as stack:

        def sleep(seconds: float) -> None:
            raise_again()
            time.sleep(seconds)

        if as_json:
            look = print_json
        elif obeys(sys.stdout, os.environ):
            screen = stack.enter_context(Screen(sys.stdout))
            look = lambda members: screen.show(watch_lines(members))  # noqa: E731
        else:
            look = lambda members: print_lines([*watch_lines(members), ""])  # noqa: E731
        follow(reader, look, sleep)
    return 0


@looking
@click.option("--no-wait", is_flag=True, help="Leave as soon as the run has been told.")
def stop(spec: JobSpec, no_wait: bool) -> int:
    """Let a run finish what is paid for, and end. It draws no more rows; waits until it has ended."""
    from pipeline.halt import halt

    halt(spec.output.path, wait=not no_wait, say=say)
    return 0


@looking
@json_option
def failures(spec: JobSpec, as_json: bool) -> int:
    """Failed rows by kind, with an example each."""
    from pipeline.look import failures as look_at_failures
    from pipeline.storage.layout import Layout
    from pipeline.storage.lock import held
    from pipeline.summary import Summary
    from pipeline.tell import failure_lines

    told = look_at_failures(spec.output.path)
    goes_on = held(Layout.of_output(spec.output.path).lock)
    last = None if goes_on else Summary.last_failures(spec.output.path)
    show(told, failure_lines(told, last), as_json=as_json)
    return 0


@looking
@click.option("--to", "target", required=True, metavar="FILE", help="A .csv, .parquet or .jsonl file.")
@click.option("--raw-csv", is_flag=True, help="Leave text that a spreadsheet would run as a formula as it is.")
def export(spec: JobSpec, target: str, raw_csv: bool) -> int:
    """Results as csv, parquet or jsonl. Also while a run goes on, with the rest as pending."""
    from pipeline.look import export as export_results

    rows = export_results(job_of(spec), target, guard_formulas=not raw_csv)
    say(f"{rows} rows written to {target}")
    return 0


@looking
@json_option
def evaluate(spec: JobSpec, as_json: bool) -> int:
    """The answers held against gold labels. Accuracy, kappa, precision and recall, confusion matrix."""
    from pipeline.look import evaluation

    found = evaluation(job_of(spec))
    show([found.members()], found.lines(), as_json=as_json)
    return 0


@looking
@click.option("--to", "target", metavar="FILE", help="An .html file; default: report.html in the job's folder.")
def report(spec: JobSpec, target: str | None) -> int:
    """One HTML page that needs no network. Progress, latency, money, labels, gold, failures, drift; at any time."""
    try:
        from pipeline.report import write
    except ModuleNotFoundError as exc:
        if exc.name != "matplotlib":
            raise
        raise SpecError(
            "the report draws its charts with matplotlib, which is not installed; install it with\n"
            "  pip install 'prompt-pipeline[report]'"
        ) from exc
    say(f"report written to {write(job_of(spec), target)}")
    return 0


@looking
@click.option("--repair", is_flag=True, help="Mend what is damaged; rows that were lost are pending again.")
def verify(spec: JobSpec, repair: bool) -> int:
    """Check every file of the checkpoint. Exit 2 when something is damaged and was not repaired."""
    from pipeline.storage.layout import CHECKPOINT
    from pipeline.storage.verify import verify as verify_checkpoint
    from pipeline.tell import verify_lines

    found = verify_checkpoint(os.path.join(spec.output.path, CHECKPOINT), repair=repair)
    print_lines(verify_lines(found))
    return 2 if found.damage and not repair else 0


VERBS = (check, preview, plan, status, stop, failures, export, evaluate, report, verify)
