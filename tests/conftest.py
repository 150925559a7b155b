"""For all tests: what hypothesis tries is the same on every machine, and no slow machine fails a test."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")
