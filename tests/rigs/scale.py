"""How long the rigs run: the short form is part of every test run, the long one of ``make torture``."""

from __future__ import annotations

import os

TORTURE = float(os.environ.get("PIPELINE_TORTURE") or 0)
"""0 for the short form; 1 for the figures that the project promises, more for more."""


def pick(short: int, long: int) -> int:
    return int(long * TORTURE) if TORTURE else short
