"""Figures taken, told as a table, and left as JSON in data/out/bench/."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.bench.figures import Figure, members, table
from tests.bench.measures import Bench
from tests.bench.process import ROOT, NotMeasured

FOLDER = ROOT / "data" / "out" / "bench"

Measure = Callable[[Bench], list[Figure]]


def measure(measures: Mapping[str, Measure], bench: Bench) -> list[Figure]:
    """What cannot be measured is a figure without a value, and stops nothing."""
    figures = []
    for name, take in measures.items():
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        try:
            figures += take(bench)
        except NotMeasured as reason:
            figures.append(Figure(name, None, "", "", str(reason)))
    return figures


def tell(figures: Sequence[Figure], seen: Mapping[str, Any], *, quick: bool) -> None:
    load_before, load_after = seen["load_average"][0], os.getloadavg()[0]
    print(table(figures))
    print(
        f"\n{seen['usable_cores']} cores, Python {seen['python']}, load average {load_before:.1f} before and "
        f"{load_after:.1f} after. Server and client shared this machine, with whatever else ran on it: "
        "trust ratios of one run, not its times."
    )
    if quick:
        print("Quick: this shows that the benchmark works. The figures are too small to be trusted.")


def write(
    name: str,
    figures: Sequence[Figure],
    seen: Mapping[str, Any],
    sizes: Mapping[str, Any],
    began: float,
    *,
    quick: bool,
) -> int:
    """The exit code: 1 when something could not be measured. A quick run leaves the figures of a real one alone."""
    path = FOLDER / f"{name}{'-quick' if quick else ''}.json"
    report = {
        "format": 1,
        "quick": quick,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began, 1),
        "shared_machine": True,
        "machine": seen,
        "load_average_after": os.getloadavg(),
        "sizes": sizes,
        "figures": members(figures),
    }
    aside = path.with_suffix(".aside")
    aside.write_text(json.dumps(report, indent=2) + "\n")
    aside.rename(path)
    print(f"{path.relative_to(ROOT)} written, after {report['seconds']:,.0f} s")
    return 1 if any(one.value is None for one in figures) else 0
