"""What both sides and the server are given: rows of about 200 characters, 256 at a time."""

from __future__ import annotations

import csv
import random
from pathlib import Path

WORKERS = 256
PROMPT_CHARS = 200
ANSWER_CHARS = 230
FIELDS = (
    "{sentiment: [positive, negative, neutral], confidence: number, stars: integer, recommend: boolean, "
    "reasons: {list: string}}"
)
"""Five fields, as the ``answer`` block of a job asks for them."""

TEMPLATE = "{{ title }} ({{ place }}): {{ text }}"
"""A prompt of three columns, which a ``wide`` table has."""

_TEXT = (
    "the review says that a battery lasts two days while the screen is bright and clear although delivery took more "
    "than one week so overall opinion stays good with some doubt about price and support after first repair"
)
_WORDS = _TEXT.split()


def sentence(chosen: random.Random, chars: int) -> str:
    return " ".join(chosen.choices(_WORDS, k=chars // 3))[:chars]


def write_table(path: Path, rows: int, *, numbered: bool = False, wide: bool = False) -> None:
    """A CSV with the columns ``id`` and ``text``; the same bytes for the same number of rows. ``numbered``: the text
    begins with the row's number; ``wide``: the columns of ``TEMPLATE``, which make about as long a prompt."""
    chosen = random.Random(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["id", "title", "place", "text"] if wide else ["id", "text"])
        for number in range(rows):
            text = sentence(chosen, PROMPT_CHARS)
            if wide:
                out.writerow([f"{number:08d}", text[:30], text[30:40], text[40:]])
            else:
                out.writerow([f"{number:08d}", f"{number} {text}" if numbered else text])
