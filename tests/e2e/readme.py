"""The README's own blocks, as a user copies them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def block(language: str, first_line: str) -> str:
    """The one block of a language that begins with this line."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (found,) = [each for each in blocks if each.startswith(first_line + "\n")]
    assert isinstance(found, str)
    return found
