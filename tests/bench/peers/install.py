"""The peers' own environment. What cannot be installed is told, and the others are measured all the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.bench.process import NotMeasured
from tests.bench.report import FOLDER

REQUIREMENTS = Path(__file__).parent / "requirements.txt"
TRANSPORT = "aiohttp"
_PATIENCE_S = 600


def pins() -> dict[str, str]:
    """Package and version, as pinned."""
    lines = [line.split("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()]
    return {name: version for name, _, version in (line.partition("==") for line in lines if line)}


class Environment:
    """A virtual environment under data/out/bench/, made once."""

    def __init__(self) -> None:
        self.folder = FOLDER / "peers"
        self.python = self.folder / "bin" / "python"

    def make(self) -> None:
        """Raises NotMeasured."""
        if not self.python.exists():
            self._run([sys.executable, "-m", "venv", str(self.folder)], "the environment could not be made")

    def install(self, package: str) -> None:
        """With the transport. Raises NotMeasured, with the last that pip said."""
        wanted = [f"{name}=={version}" for name, version in pins().items() if name in (package, TRANSPORT)]
        command = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
        self._run(command, f"{package} could not be installed into {self.folder}")

    def versions(self) -> Mapping[str, str]:
        """Of everything that is in it."""
        command = [str(self.python), "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False)
        return {one["name"]: one["version"] for one in json.loads(listed.stdout or "[]")}

    def _run(self, command: list[str], trouble: str) -> None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired as exc:
            raise NotMeasured(f"{trouble} within {_PATIENCE_S} s") from exc
        if done.returncode != 0:
            said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            raise NotMeasured(f"{trouble}: {said[-1].strip() if said else f'exit {done.returncode}'}")
