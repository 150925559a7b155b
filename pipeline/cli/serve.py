"""The verb that serves: the simulator on its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from pipeline.cli.given import shares
from pipeline.cli.say import say


@click.command()
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
        faults=shares(flags["faults"]),
        api_key=flags["api_key"],
        models=flags["models"] or None,
        ledger_path=flags["ledger"],
    )
    if flags["until_stdin_closes"]:
        _end_with_stdin()
    serve(settings, host, port, ready=lambda url: say(f"simulator at {url}: its answers are made up; bill at /stats"))
    return 0


def _end_with_stdin() -> None:
    import signal
    import threading

    def wait() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


VERBS = (simulate,)
