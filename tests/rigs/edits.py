"""What an edit of the input costs: the keys of a table before and after, and the rows that would be asked again."""

from __future__ import annotations

import random
from collections.abc import Sequence

from pipeline.storage.keys import Keys

Table = Sequence[tuple[str | None, str]]
"""Rows of id and prompt."""


def keys_of(table: Table) -> list[str]:
    keys = Keys(has_ids=bool(table) and table[0][0] is not None)
    return [keys.add(row_id, prompt.encode()) for row_id, prompt in table]


def asked_again(before: Table, after: Table) -> int:
    return len(set(keys_of(after)) - set(keys_of(before)))


def wrong_costs(seed: int) -> list[str]:
    """Edits of a table without ids, each with what it may cost."""
    rng = random.Random(seed)
    rows = rng.randint(5, 60)
    table = [(None, f"prompt {rng.randint(0, rows // 2)}") for _ in range(rows)]  # some prompts are equal
    edited = list(table)
    places = rng.sample(range(rows), rng.randint(0, rows))
    for place in places:
        edited[place] = (None, f"edited {place}")
    at = rng.randint(0, rows)
    expected = [
        ("k prompts edited", edited, len(places)),
        ("a row inserted", [*table[:at], (None, "a new one"), *table[at:]], 1),
        ("a row inserted at the top", [(None, "a new one"), *table], 1),
        ("a row of the table once more", [*table, rng.choice(table)], 1),
        ("rows moved", rng.sample(table, rows), 0),
        ("rows removed", rng.sample(table, rows // 2), 0),
        ("nothing", table, 0),
    ]
    wrong = [
        f"{what} costs {cost} instead of {allowed}"
        for what, after, allowed in expected
        if (cost := asked_again(table, after)) != allowed
    ]
    if len(set(keys_of(table))) != rows:
        wrong.append("two rows share a key")
    return wrong
