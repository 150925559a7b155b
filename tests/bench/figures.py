"""A figure with its spread and its goal, or the reason why there is none; the table and the JSON of all of them."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

PACKAGES = ("aiohttp", "orjson", "polars", "pydantic", "uvloop")


@dataclass(frozen=True, slots=True)
class Figure:
    """``value`` is None when it was not measured; ``note`` then says why."""

    name: str
    value: float | None
    unit: str
    goal: str = ""
    note: str = ""
    samples: list[float] = field(default_factory=list)

    @classmethod
    def median(cls, name: str, samples: Sequence[float], unit: str, goal: str = "", note: str = "") -> Figure:
        return cls(name, statistics.median(samples), unit, goal, note, list(samples))

    @property
    def told(self) -> str:
        return "not measured" if self.value is None else f"{_plain(self.value)} {self.unit}".rstrip()

    @property
    def spread(self) -> str:
        if len(self.samples) < 2:
            return ""
        return f"{_plain(min(self.samples))}-{_plain(max(self.samples))} of {len(self.samples)}"


def _plain(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def table(figures: Sequence[Figure]) -> str:
    heads = ("measure", "figure", "min-max", "goal", "note")
    lines = [heads, *((one.name, one.told, one.spread, one.goal, one.note) for one in figures)]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, (*widths, 0), strict=True)).rstrip() for line in lines
    )


def machine() -> dict[str, Any]:
    """What the figures depend on, as it is before the first one is taken."""
    return {
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "load_average": os.getloadavg(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def members(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    return [asdict(one) for one in figures]
