"""Verbs, flags and exit codes.

Only the standard library and click are imported at the top of these rooms; a verb imports what it needs, so that
``--help`` is instant, and the second of two runs leaves at once.
"""

from __future__ import annotations

from pipeline.cli.entry import call, main

__all__ = ["call", "main"]
