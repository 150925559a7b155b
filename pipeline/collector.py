"""How rarely Python's collector of cycles looks."""

from __future__ import annotations

import gc


def spare() -> None:
    """For a process from here on. Each command and each request makes objects that die with it; walking all that was
    imported again and again for their sake costs a tenth of a start, and a third of a request."""
    gc.set_threshold(20_000, 20, 50)
