"""Which files of a folder this process has open."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def open_under(folder: Path) -> list[str]:
    """Of that folder alone: what other tests have left to the garbage collector may close meanwhile."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists them is gone by now
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return sorted(file for file in found if Path(file).is_relative_to(folder.resolve()))
