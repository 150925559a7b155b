"""Fixtures of the end-to-end tests; the tools themselves are in rig.py."""

from __future__ import annotations

from tests.e2e.rig import new_job, simulate

__all__ = ["new_job", "simulate"]
