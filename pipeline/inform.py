"""Whom a run tells that it has ended (the spec's ``notify``), when, and what about it goes into the log.

Told is every run that did something or could not begin: finished, stopped, refused, or a spec that loads and still is
wrong. Not told is a rerun with nothing to do, a run that met another one at work, and a person's second Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from pipeline import __version__
from pipeline.errors import OF_THE_USER, InUse, PipelineError, RunPaused
from pipeline.notify import Notice, notify, without_key
from pipeline.runlog import LOG, RunLog, redact
from pipeline.spec import JobSpec
from pipeline.stop import Interrupted, signals_raise, signals_wait
from pipeline.summary import FORMAT, Summary


@contextlib.contextmanager
def informing(spec: JobSpec, say: Callable[[str], None]) -> Iterator[Callable[[Summary], None]]:
    """Around a whole run, its lock included. Gives what is to be called with its summary; an exception that comes
    instead of one is told in the same form, as far as it goes, and goes on."""
    began = time.time()
    try:
        yield lambda summary: None if summary.nothing_to_do else _tell(spec, summary.members(), say)
    except (Interrupted, InUse):
        raise
    except PipelineError as exc:
        _tell(spec, _without_summary(spec, exc.exit_code, redact(str(exc)), began), say)
        raise
    except Exception as exc:
        code = 2 if isinstance(exc, OF_THE_USER) else 1
        what = f"{type(exc).__name__}; see run.log, and what the run said last"
        _tell(spec, _without_summary(spec, code, what, began), say)
        raise


def _without_summary(spec: JobSpec, exit_code: int, message: str, began: float) -> dict[str, Any]:
    """The members that are known of a run that did not come to a summary."""
    return {
        "format": FORMAT,
        "job": spec.name,
        "run": "",
        "exit_code": exit_code,
        "message": message,
        "finished": False,
        "rows": None,
        "statuses": {},
        "failures": {},
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began, 3),
        "versions": {"prompt-pipeline": __version__},
    }


def _tell(spec: JobSpec, members: dict[str, Any], say: Callable[[str], None]) -> None:
    asked = spec.notify
    if asked is None or (asked.when == "trouble" and members["exit_code"] == 0):
        return
    name = spec.endpoint.api_key_env
    log = RunLog(os.path.join(spec.output.path, LOG), members["run"], os.environ.get(name, "").strip())
    notice = _notice(asked.command, orjson.dumps(members, option=orjson.OPT_INDENT_2, default=str), name)
    level = "info" if notice.fault is None else "warning"
    log.event(level, "notify", fault=notice.fault, output=notice.output)
    log.close()
    if notice.fault is not None:
        say(f"notify: {asked.command[0]} {notice.fault}; the run's exit code stays {members['exit_code']}")


def _notice(command: tuple[str, ...], summary: bytes, key_name: str) -> Notice:
    try:
        with signals_raise():
            return notify(command, summary + b"\n", without_key(os.environ, key_name), shield=signals_wait)
    except RunPaused:
        return Notice("was stopped by a signal", "")
    except Exception as exc:  # noqa: BLE001 - the run has ended as it has, whatever becomes of telling it
        return Notice(f"cannot be run: {exc}", "")
