"""The door of the command: which verbs there are, and where every exception ends."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from pipeline import __version__
from pipeline.cli import look, send, serve, start
from pipeline.cli.given import change_directory
from pipeline.cli.options import EXIT_CODES, folder_option
from pipeline.cli.say import open_streams, say, to_nowhere
from pipeline.collector import spare
from pipeline.errors import OF_THE_USER, PipelineError


class _Verbs(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # whoever read our output has left: no fault, though click would exit with 1
            to_nowhere(1)
            return 0


@click.group(
    cls=_Verbs, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="pipeline")
@folder_option
def cli(directory: str | None) -> None:
    """Send a table of prompts through a language model, and get a table of answers back."""
    change_directory(directory)


for _verb in (*send.VERBS, *look.VERBS, *serve.VERBS, *start.VERBS):
    cli.add_command(_verb)


def main() -> NoReturn:
    """The installed command."""
    # Read by polars' allocator when it is loaded: give memory back soon, or the peak of a long table doubles.
    os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:100,muzzy_decay_ms:0")
    spare()
    open_streams()
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
            say(told.getvalue().rstrip("\n"))
        code = 2
    except click.exceptions.Abort:
        code = 130
    except PipelineError as exc:
        _complain(exc)
        code = exc.exit_code
    except OSError as exc:
        say(f"pipeline: {exc.filename}: {exc.strerror}" if exc.filename else f"pipeline: {exc}")
        code = 2 if isinstance(exc, OF_THE_USER) else 1
    except Exception:  # noqa: BLE001 - the last door: a bug is told as one, and never as something a user did
        from pipeline.runlog import redact

        say(redact(traceback.format_exc()))
        say("pipeline: this is a fault of the tool, not yours; please report the lines above")
        code = 1
    return code if isinstance(code, int) else 0


def _complain(exc: PipelineError) -> None:
    from pipeline.runlog import redact

    say(f"pipeline: {redact(str(exc))}")
