"""Verbs, flags and exit codes. What people look at goes to stderr, what programs read goes to stdout.

Only the standard library and click are imported here; a verb imports what it needs, so that ``--help`` is instant.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from pipeline import __version__
from pipeline.errors import OF_THE_USER, CheckpointError, PipelineError, SpecError

if TYPE_CHECKING:
    from pipeline.job import Job
    from pipeline.progress import Display
    from pipeline.spec import JobSpec
    from pipeline.status import Reader
    from pipeline.storage.lock import Lock
    from pipeline.summary import Summary

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
            click.option(
                "--processes", type=click.IntRange(min=1), default=1, metavar="N", help="Send from N processes."
            ),
            click.option("--max-minutes", type=click.FloatRange(min=0), metavar="M", help="Stop after M minutes (75)."),
            click.option(
                "--retry-failed",
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


def looking(verb: Callable[..., int]) -> click.Command:
    """A verb that looks at a job: it takes JOB, --set and -C, and is handed the job's spec."""

    @functools.wraps(verb)
    def load_first(job_file: Path, overrides: tuple[str, ...], directory: str | None, **flags: Any) -> int:
        _change_directory(directory)
        return verb(_load(job_file, overrides, flags.pop("limit", None)), **flags)

    return cli.command()(job_argument(set_option(folder_option(load_first))))


class _Verbs(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # whoever read our output has left: no fault, though click would exit with 1
            _to_nowhere(1)
            return 0


@click.group(
    cls=_Verbs, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="pipeline")
def cli() -> None:
    """Send a table of prompts through a language model, and get a table of answers back."""


def main() -> NoReturn:
    """The installed command."""
    # Read by polars' allocator when it is loaded: give memory back soon, or the peak of a long table doubles.
    os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:100,muzzy_decay_ms:0")
    _open_streams()
    code = call()
    if code == 130:
        # At once: a thread that still reads the input would be waited for, or die in the middle of foreign code.
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def call(arguments: Sequence[str] | None = None) -> int:
    """Do what a command line says; gives the exit code. Raises nothing."""
    try:
        code = cli.main(arguments, standalone_mode=False)
    except click.ClickException as exc:
        with io.StringIO() as told:
            exc.show(told)
            _say(told.getvalue().rstrip("\n"))
        code = 2
    except click.exceptions.Abort:
        code = 130
    except PipelineError as exc:
        _complain(exc)
        code = exc.exit_code
    except OSError as exc:
        _say(f"pipeline: {exc.filename}: {exc.strerror}" if exc.filename else f"pipeline: {exc}")
        code = 2 if isinstance(exc, OF_THE_USER) else 1
    except Exception:  # noqa: BLE001 - the last door: a bug is told as one, and never as something a user did
        from pipeline.runlog import redact

        _say(redact(traceback.format_exc()))
        _say("pipeline: this is a fault of the tool, not yours; please report the lines above")
        code = 1
    return code if isinstance(code, int) else 0


def _complain(exc: PipelineError) -> None:
    from pipeline.runlog import redact

    _say(f"pipeline: {redact(str(exc))}")


def _open_streams() -> None:
    """Standard streams that cron or a script has closed: nothing that we open must come to stand in their places."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


def _to_nowhere(stream: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


# -- sending -----------------------------------------------------------------------------------------------------------


@cli.command(epilog=EXIT_CODES)
@run_options
@env_file_option
def run(job_file: Path, env_file: str | None, **flags: Any) -> int:
    """Plan, then send what is not done yet. The same command resumes."""
    from pipeline.inform import informing
    from pipeline.storage.lock import claimed

    with _telling(flags):
        _change_directory(flags["directory"])
        _read_env_file(env_file)
        spec = _load(job_file, flags["overrides"], flags["limit"])
        with informing(spec, _saying(flags)) as ended:
            with claimed(os.path.join(spec.output.path, "checkpoint")) as lock:
                summary = _go(spec, flags, simulated=_may_be_simulated(spec), key=lambda: _api_key(spec), lock=lock)
            ended(summary)
        return summary.exit_code


@cli.command(epilog=EXIT_CODES)
@click.option("--latency", default=0.05, show_default=True, metavar="SECONDS", help="Of the simulator's answers.")
@click.option("--fault", "faults", multiple=True, metavar="KIND=SHARE", help="Faults of the simulator: mixed=0.05")
@run_options
def rehearse(job_file: Path, latency: float, faults: tuple[str, ...], **flags: Any) -> int:
    """The same run against the embedded simulator, into OUTPUT/rehearsal: no key, no cost, nothing sent outside."""
    from pipeline.job import rehearsed
    from pipeline.simulator import Settings
    from pipeline.simulator.background import in_background

    with _telling(flags):
        _change_directory(flags["directory"])
        spec = _load(job_file, flags["overrides"], flags["limit"])
        with in_background(Settings(latency_s=latency, faults=_shares(faults))) as base_url:
            return _go(rehearsed(spec, base_url), flags, simulated=True, key=lambda: None).exit_code


def _go(
    spec: JobSpec,
    flags: dict[str, Any],
    *,
    simulated: bool | None,
    key: Callable[[], str | None],
    lock: Lock | None = None,
) -> Summary:
    from pipeline.job import Job
    from pipeline.run import Options
    from pipeline.run import run as run_job

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
    summary = run_job(
        Job(spec),
        key,
        options,
        say=_saying(flags),
        display=lambda: None if quiet or as_json or flags["no_progress"] else _display(),
        echo=_echo(quiet) if as_json else None,
        lock=lock,
    )
    if as_json:
        return summary  # the log has told
    if not quiet:
        for line in summary.lines():
            _say(line)
    elif summary.exit_code:
        _say(f"pipeline: {summary.message}")
    return summary


def _display() -> Display:
    from pipeline.progress import Bar, Lines

    if sys.stderr.isatty() and not os.environ.get("TQDM_DISABLE") and os.environ.get("TERM") != "dumb":
        return Bar(sys.stderr)
    return Lines(_say)


def _say(text: str) -> None:
    """What is said may quote an input or a server: nothing in it can command a terminal."""
    from pipeline.progress import plain

    try:
        # Not by click, which swallows whatever is raised in the middle of it: a signal of ours, for one.
        sys.stderr.write("\n".join(plain(line) for line in text.split("\n")) + "\n")
        sys.stderr.flush()
    except OSError:
        _to_nowhere(2)  # the terminal is gone, or a pipe's reader: the run goes on, and nobody listens


def _saying(flags: dict[str, Any]) -> Callable[[str], None]:
    return _silent if flags["quiet"] or flags["log_format"] == "json" else _say


def _silent(text: str) -> None:
    return


def _echo(quiet: bool) -> Callable[[str, dict[str, Any], str], None]:
    def echo(level: str, members: dict[str, Any], line: str) -> None:
        if not quiet or level == "error" or members.get("exit_code"):
            _say(line)

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
        _say(as_json(told))
        raise click.exceptions.Exit(exc.exit_code) from exc


# -- looking -----------------------------------------------------------------------------------------------------------


@looking
@env_file_option
def check(spec: JobSpec, env_file: str | None) -> int:
    """Everything that can be known without sending: spec, input, columns, templates, output folder, key."""
    from pipeline.checks import check as check_job

    _read_env_file(env_file)
    for line in check_job(_job(spec), key=lambda: _api_key(spec)):
        _say(line)
    return 0


@looking
@click.option("-n", "count", default=3, show_default=True, type=click.IntRange(min=0), help="Rows to show.")
@click.option("--full", is_flag=True, help="Show the content of attachments whole.")
def preview(spec: JobSpec, count: int, full: bool) -> int:
    """The exact request bodies that would be sent, one JSON object a line."""
    from pipeline.look import previews

    for shown in previews(_job(spec), count, full=full):
        _print_json(shown)
    return 0


@looking
@click.option("--retry-failed", is_flag=False, flag_value="all", metavar="[KIND]", help="As for run.")
@refresh_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows.")
def plan(spec: JobSpec, retry_failed: str | None, refresh_expired: bool, as_json: bool) -> int:
    """Rows done, new, changed, failed, expired, removed; and the tokens, money and time that the rest would take."""
    from pipeline.look import forecast
    from pipeline.tell import forecast_lines, forecast_members

    found = forecast(_job(spec), retry_failed, refresh_expired=refresh_expired)
    if as_json:
        _print_json(forecast_members(found))
    else:
        _print_lines(forecast_lines(found))
    return 0


@looking
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
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
    if as_json:
        _print_json(members)
    else:
        _print_lines(status_lines(members))
    return 0


def _watch(reader: Reader, *, as_json: bool) -> int:
    """Until the run ends, or whoever looks has seen enough."""
    import time

    from pipeline.errors import RunPaused
    from pipeline.screen import Screen, obeys
    from pipeline.status import follow, watch_lines
    from pipeline.stop import signals_raise

    show: Callable[[dict[str, Any] | None], None]
    with contextlib.suppress(RunPaused), signals_raise() as raise_again, contextlib.ExitStack() as stack:

        def sleep(seconds: float) -> None:
            raise_again()
            time.sleep(seconds)

        if as_json:
            show = _print_json
        elif obeys(sys.stdout, os.environ):
            screen = stack.enter_context(Screen(sys.stdout))
            show = lambda members: screen.show(watch_lines(members))  # noqa: E731
        else:
            show = lambda members: _print_lines([*watch_lines(members), ""])  # noqa: E731
        follow(reader, show, sleep)
    return 0


@looking
@click.option("--no-wait", is_flag=True, help="Leave as soon as the run has been told.")
def stop(spec: JobSpec, no_wait: bool) -> int:
    """Stop a run that goes on: it draws no more rows, and writes down what is paid for. Waits until it has ended."""
    from pipeline.halt import halt

    halt(spec.output.path, wait=not no_wait, say=_say)
    return 0


@looking
@click.option("--json", "as_json", is_flag=True, help="One JSON object a kind.")
def failures(spec: JobSpec, as_json: bool) -> int:
    """Failed rows by kind, with an example each."""
    from pipeline.look import failures as look_at_failures
    from pipeline.tell import failure_lines

    told = look_at_failures(spec.output.path)
    if as_json:
        for kind in told:
            _print_json(kind)
    else:
        _print_lines(failure_lines(told))
    return 0


@looking
@click.option("--to", "target", required=True, metavar="FILE", help="A .csv, .parquet or .jsonl file.")
@click.option("--raw-csv", is_flag=True, help="Leave text that a spreadsheet would run as a formula as it is.")
def export(spec: JobSpec, target: str, raw_csv: bool) -> int:
    """Results as csv, parquet or jsonl; also while a run goes on, with the rest as pending."""
    from pipeline.look import export as export_results

    rows = export_results(_job(spec), target, guard_formulas=not raw_csv)
    _say(f"{rows} rows written to {target}")
    return 0


@looking
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def evaluate(spec: JobSpec, as_json: bool) -> int:
    """The answers held against gold labels: accuracy, kappa, precision and recall, confusion matrix."""
    from pipeline.look import evaluation

    found = evaluation(_job(spec))
    if as_json:
        _print_json(found.members())
    else:
        _print_lines(found.lines())
    return 0


@looking
@click.option("--to", "target", metavar="FILE", help="An .html file; default: report.html in the job's folder.")
def report(spec: JobSpec, target: str | None) -> int:
    """One HTML page that needs no network: progress, latency, money, labels, gold, failures, drift. At any time."""
    try:
        from pipeline.report import write
    except ModuleNotFoundError as exc:
        if exc.name != "matplotlib":
            raise
        raise SpecError(
            "the report draws its charts with matplotlib, which is not installed; install it with\n"
            "  pip install 'prompt-pipeline[report]'"
        ) from exc
    click.echo(f"report written to {write(_job(spec), target)}", err=True)
    return 0


@looking
@click.option("--repair", is_flag=True, help="Mend what is damaged; rows that were lost are pending again.")
def verify(spec: JobSpec, repair: bool) -> int:
    """Check every file of the checkpoint. Exit 2 when something is damaged and was not repaired."""
    from pipeline.storage.layout import CHECKPOINT
    from pipeline.storage.verify import verify as verify_checkpoint
    from pipeline.tell import verify_lines

    report = verify_checkpoint(os.path.join(spec.output.path, CHECKPOINT), repair=repair)
    _print_lines(verify_lines(report))
    return 2 if report.damage and not repair else 0


# -- the simulator -----------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8808, show_default=True, help="0: any free one.")
@click.option("--seed", default=1, show_default=True, help="Of the answers and the faults.")
@click.option("--latency", default=0.2, show_default=True, metavar="SECONDS", help="Median of the answers' latency.")
@click.option(
    "--spread", default=0.0, show_default=True, metavar="SIGMA", help="Of the lognormal latency; 0: constant."
)
@click.option("--rpm", type=int, metavar="N", help="Enforced requests per minute.")
@click.option("--tpm", type=int, metavar="N", help="Enforced tokens per minute.")
@click.option("--window", type=click.Choice(["sliding", "fixed", "bucket"]), default="sliding", show_default=True)
@click.option("--burst", type=int, metavar="N", help="Size of the bucket, in requests.")
@click.option("--concurrency", type=int, metavar="N", help="Requests in flight at most.")
@click.option("--no-rate-headers", is_flag=True, help="429 without Retry-After and x-ratelimit-*.")
@click.option("--fault", "faults", multiple=True, metavar="KIND=SHARE", help="A share of faulty replies: mixed=0.1")
@click.option("--api-key", metavar="KEY", help="Answer 401 to any other key (a made-up one: it is seen by ps).")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Models that there are; default: any.")
@click.option("--ledger", type=click.Path(path_type=Path), metavar="FILE", help="Keep the ledger over restarts.")
@click.option("--until-stdin-closes", is_flag=True, hidden=True, help="End with the process that holds our stdin.")
@click.option("--list-faults", is_flag=True, help="Say what each kind of fault does, and stop.")
def simulate(host: str, port: int, list_faults: bool, **flags: Any) -> int:
    """An OpenAI-compatible endpoint of our own on loopback. Its answers are made up; its bill is at /stats."""
    from pipeline.simulator import FAULTS, Settings, serve

    if list_faults:
        for kind, fault in FAULTS.items():
            click.echo(f"{kind:<22} {'billed  ' if fault.billed else 'unbilled'} {fault.about}")
        return 0
    settings = Settings(
        seed=flags["seed"],
        latency_s=flags["latency"],
        latency_sigma=flags["spread"],
        requests_per_minute=flags["rpm"],
        tokens_per_minute=flags["tpm"],
        window=flags["window"],
        burst=flags["burst"],
        concurrency=flags["concurrency"],
        rate_headers=not flags["no_rate_headers"],
        faults=_shares(flags["faults"]),
        api_key=flags["api_key"],
        models=flags["models"] or None,
        ledger_path=flags["ledger"],
    )
    if flags["until_stdin_closes"]:
        _end_with_stdin()
    serve(settings, host, port, ready=lambda url: _say(f"simulator at {url}: its answers are made up; bill at /stats"))
    return 0


def _end_with_stdin() -> None:
    import signal
    import threading

    def wait() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


# -- the rest ----------------------------------------------------------------------------------------------------------


@cli.command()
def schema() -> int:
    """The JSON Schema of the job spec, for editors."""
    from pipeline.spec import json_schema

    _print_json(json_schema(), indent=True)
    return 0


@cli.command()
@click.argument("target", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
def init(target: Path | None) -> int:
    """A commented starter job: to FILE, or to stdout."""
    from pipeline.spec import starter

    text = starter(target.stem if target else "my-job")
    if target is None:
        click.echo(text, nl=False)
        return 0
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SpecError(f"{target} exists; it was not overwritten. Name another file") from None
    except OSError as exc:
        raise SpecError(f"{target} cannot be written: {exc.strerror}") from exc
    _say(f"{target} written; edit it, then: pipeline check {target}")
    return 0


def _job(spec: JobSpec) -> Job:
    from pipeline.job import Job

    return Job(spec)


def _load(job_file: Path, overrides: tuple[str, ...], limit: int | None = None) -> JobSpec:
    from pipeline.spec import load

    extra = () if limit is None else (f"input.limit={limit}",)
    spec: JobSpec = load(job_file, (*overrides, *extra))
    return spec


def _change_directory(directory: str | None) -> None:
    if directory is not None:
        try:
            os.chdir(directory)
        except OSError as exc:
            raise SpecError(f"-C {directory}: {exc.strerror}") from exc


def _read_env_file(path: str | None) -> None:
    from pipeline.environment import load_env_file

    if path is not None:
        load_env_file(path, os.environ)


def _may_be_simulated(spec: JobSpec) -> bool | None:
    """A loopback endpoint may be the simulator, or a server of the user's own: its first reply tells."""
    from pipeline.job import on_loopback

    return None if on_loopback(spec) else False


def _api_key(spec: JobSpec) -> str | None:
    """The key out of the environment. Raises SpecError when there is none, except for a loopback endpoint."""
    name = spec.endpoint.api_key_env
    key = os.environ.get(name, "").strip()
    if key:
        return key
    if _may_be_simulated(spec) is None:
        return None
    raise SpecError(
        f"the environment variable {name} is not set; it should hold the key for {spec.endpoint.base_url} "
        f"(export {name}=..., or name another variable in endpoint.api_key_env). Nothing was sent"
    )


def _print_json(members: Any, *, indent: bool = False) -> None:
    from pipeline.runlog import as_json

    sys.stdout.buffer.write(as_json(members, indent=indent).encode() + b"\n")
    sys.stdout.buffer.flush()


def _print_lines(lines: Sequence[str]) -> None:
    from pipeline.progress import plain

    for line in lines:
        click.echo(plain(line))
    sys.stdout.flush()


def _shares(pairs: tuple[str, ...]) -> dict[str, float]:
    """``KIND=SHARE`` pairs of the simulator, which checks the kinds itself. Raises SpecError."""
    shares = {}
    for pair in pairs:
        kind, _, share = pair.partition("=")
        try:
            shares[kind] = float(share)
        except ValueError:
            raise SpecError(f"--fault {pair}: write KIND=SHARE with a share from 0 to 1, such as mixed=0.1") from None
    return shares
