"""What a command line and its environment give: the spec, the directory, the key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import SpecError

if TYPE_CHECKING:
    from pipeline.job import Job
    from pipeline.spec import JobSpec


def job_of(spec: JobSpec) -> Job:
    from pipeline.job import Job

    return Job(spec)


def load(job_file: Path, overrides: tuple[str, ...], limit: int | None = None) -> JobSpec:
    from pipeline.spec import load as load_spec

    extra = () if limit is None else (f"input.limit={limit}",)
    spec: JobSpec = load_spec(job_file, (*overrides, *extra))
    return spec


def change_directory(directory: str | None) -> None:
    if directory is not None:
        try:
            os.chdir(directory)
        except OSError as exc:
            raise SpecError(f"-C {directory}: {exc.strerror}") from exc


def read_env_file(path: str | None) -> None:
    from pipeline.environment import load_env_file

    if path is not None:
        load_env_file(path, os.environ)


def may_be_simulated(spec: JobSpec) -> bool | None:
    """A loopback endpoint may be the simulator, or a server of the user's own: its first reply tells."""
    from pipeline.job import on_loopback

    return None if on_loopback(spec) else False


def api_key(spec: JobSpec) -> str | None:
    """The key out of the environment. Raises SpecError when there is none, except for a loopback endpoint."""
    name = spec.endpoint.api_key_env
    key = os.environ.get(name, "").strip()
    if key:
        return key
    if may_be_simulated(spec) is None:
        return None
    raise SpecError(
        f"the environment variable {name} is not set; it should hold the key for {spec.endpoint.base_url} "
        f"(export {name}=..., or name another variable in endpoint.api_key_env). Nothing was sent"
    )


def shares(pairs: tuple[str, ...]) -> dict[str, float]:
    """``KIND=SHARE`` pairs of the simulator, which checks the kinds itself. Raises SpecError."""
    found = {}
    for pair in pairs:
        kind, _, share = pair.partition("=")
        try:
            found[kind] = float(share)
        except ValueError:
            raise SpecError(f"--fault {pair}: write KIND=SHARE with a share from 0 to 1, such as mixed=0.1") from None
    return found
