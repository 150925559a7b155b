"""The verbs that know no job yet: a starter, and the schema for editors."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.say import print_json, say
from pipeline.errors import SpecError


@click.command()
def schema() -> int:
    """The JSON Schema of the job spec, for editors."""
    from pipeline.spec import json_schema

    print_json(json_schema(), indent=True)
    return 0


@click.command()
@click.argument("target", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
def init(target: Path | None) -> int:
    """A commented starter job: to FILE, or to stdout."""
    from pipeline.spec import starter

    if target is not None and target.is_dir():
        raise SpecError(f"{target} is a folder; name the file to write, such as {target / 'my-job.yaml'}")
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
    say(f"{target} written; edit it, then: pipeline check {target}")
    return 0


VERBS = (schema, init)
