from __future__ import annotations

import polars as pl

from pipeline.stand import Standing, Wish, count_ended
from pipeline.storage.output import COPY
from pipeline.storage.ranged import Ranged


def test_rows_that_are_left_alone_are_counted_as_the_checkpoint_has_them() -> None:
    """A copy has no record of its own: what runs and what rests must tell the same."""
    table = pl.DataFrame(
        {
            "ordinal": [0, 1, 2, 3, 4],
            "answered": [True, True, False, False, None],
            "permanent": [False, False, True, True, None],
            "kind": [None, None, "refused", "refused", None],
            "status": ["ok", "ok", "failed", "failed", None],
            COPY: [False, True, False, True, False],
        }
    )
    statuses, kinds, _ = count_ended(Standing(Ranged.of(table)).left_alone(Wish()))
    assert (statuses, kinds) == ({"ok": 1, "failed": 1}, {"refused": 1})
