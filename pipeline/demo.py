"""``make demo``: the sample job on the simulator, as a user would run it, with the simulator's bill at the end.

The simulator is a process of its own that ends with this one, and keeps its ledger in a file, so that the bill can
be checked even after one of the two was killed.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import orjson

from pipeline.cli import call
from pipeline.errors import PipelineError
from pipeline.spec import load
from pipeline.storage.layout import Layout
from pipeline.storage.lock import held

LATENCY_S = 0.25
START_S = 20.0
WAIT_FOR_LOCK_S = 120.0


def main() -> None:
    """Arguments: the job file. Exits as the run did."""
    job_file = sys.argv[1]
    try:
        spec = load(job_file)
    except PipelineError as exc:
        raise SystemExit(f"pipeline: {exc}") from None
    address = urlsplit(spec.endpoint.base_url)
    root = f"{address.scheme}://{address.netloc}"
    ledger = Path(spec.output.path).parent / "simulator-ledger.jsonl"
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with _simulator(root, address.port or 8808, ledger):
        code = _run(job_file, Layout.of_output(spec.output.path).lock)
        stats = _stats(root) or {}
    click.echo(
        f"  the simulator's ledger ({ledger}): {stats.get('requests')} requests received, {stats.get('billed')} "
        f"billed, {stats.get('repeated')} asked more than once",
        err=True,
    )
    sys.exit(code)


def _run(job_file: str, lock: str) -> int:
    """The run itself; waits for an earlier demo whose make was killed, but which is still at work."""
    deadline = time.monotonic() + WAIT_FOR_LOCK_S
    while held(lock) and time.monotonic() < deadline:
        click.echo("an earlier demo is still at work; waiting for it", err=True)
        time.sleep(1)
    return call(["run", job_file])


@contextlib.contextmanager
def _simulator(root: str, port: int, ledger: Path) -> Iterator[None]:
    if _stats(root) is not None:
        yield  # an earlier demo's is still there
        return
    command = [sys.executable, "-m", "pipeline", "simulate", "--port", str(port), "--latency", str(LATENCY_S)]
    # It ends when its stdin does, and that ends with this block or with us, however we end.
    # A session of its own: Ctrl-C is for the run, which still waits for answers.
    with subprocess.Popen(  # noqa: S603 - our own command
        [*command, "--ledger", str(ledger), "--until-stdin-closes"], stdin=subprocess.PIPE, start_new_session=True
    ) as simulator:
        deadline = time.monotonic() + START_S
        while _stats(root) is None:
            if simulator.poll() is not None or time.monotonic() > deadline:
                raise click.ClickException(f"the simulator did not start at {root}")
            time.sleep(0.05)
        yield


def _stats(root: str) -> dict[str, Any] | None:
    try:
        with urllib.request.urlopen(f"{root}/stats", timeout=2) as reply:  # noqa: S310 - loopback, from our own sample
            stats: dict[str, Any] = orjson.loads(reply.read())
            return stats if stats.get("simulator") else None
    except (urllib.error.URLError, OSError, ValueError):
        return None


if __name__ == "__main__":
    main()
