from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest

from pipeline.drift import MOST_LABELS
from pipeline.errors import StorageError
from pipeline.storage.labels import Table, flips, label_columns, slices, tally

LABELS = ("yes", "no", "maybe")
LONG = "x" * 61


def table_of(path: Path, rows: Mapping[str, str | None], failed: frozenset[str] = frozenset()) -> Table:
    status = ["failed" if name in failed else "ok" for name in rows]
    pl.DataFrame(
        {"id": list(rows), "text": [f"t{zlib.crc32(name.encode()) % 5}" for name in rows]}
        | {"label": list(rows.values()), "status": status},
        schema_overrides={"label": pl.String},
    ).write_parquet(path, row_group_size=7)
    counted = tally(slices(str(path), ["label", "status"]), {"label": "label"}, "status")
    return Table(str(path), "status", counted)


@pytest.mark.parametrize("seed", range(10))
def test_counts_and_flips_equal_those_of_counting_row_by_row(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    values = (*LABELS, None, LONG)
    old = {f"r{n}": chance.choice(values) for n in range(90)}
    new = {f"r{n}": chance.choice((*values, "new")) for n in chance.sample(range(60, 150), 90)}
    lost = frozenset(chance.sample(sorted(new), 9))
    before, now = table_of(tmp_path / "old", old), table_of(tmp_path / "new", new, lost)

    counted = now.labels["label"]
    ok = [label for name, label in new.items() if name not in lost]
    assert counted.ok == len(ok)
    assert counted.counts == Counter(label for label in ok if label not in (None, LONG))
    assert counted.others == ok.count(LONG)

    both = [
        (old[name], label)
        for name, label in new.items()
        if name in old and name not in lost and old[name] is not None and label is not None
    ]
    both = [(a, b) for a, b in both if (a, b) != (LONG, LONG)]
    (found,) = flips(before, now, ["label"], ["id"], unique=True, range_rows=7)
    assert (found.flipped, found.compared) == (sum(a != b for a, b in both), len(both))


def test_rows_without_ids_are_known_by_what_they_hold_and_their_turn_among_equals(tmp_path: Path) -> None:
    old, new = {f"r{n}": LABELS[n % 3] for n in range(40)}, {f"s{n}": LABELS[n % 2] for n in range(40)}
    before, now = table_of(tmp_path / "old", old), table_of(tmp_path / "new", new)

    def named(rows: dict[str, str]) -> dict[tuple[str, int], str]:
        seen: Counter[str] = Counter()
        found = {}
        for name, label in rows.items():
            text = f"t{zlib.crc32(name.encode()) % 5}"
            found[text, seen[text]] = label
            seen[text] += 1
        return found

    then, since = named(old), named(new)
    both = then.keys() & since.keys()
    (found,) = flips(before, now, ["label"], ["text"], unique=False)
    assert (found.flipped, found.compared) == (sum(then[key] != since[key] for key in both), len(both))
    assert found.compared > 20


def test_a_column_of_many_values_keeps_the_first_and_counts_the_rest(tmp_path: Path) -> None:
    rows: dict[str, str | None] = {f"r{n}": f"label {n}" for n in range(MOST_LABELS + 50)}
    counted = table_of(tmp_path / "t", rows).labels["label"]
    assert (len(counted.counts), counted.others, counted.ok) == (MOST_LABELS, 50, MOST_LABELS + 50)
    assert not counted.followed


def test_counts_do_not_depend_on_how_the_table_was_cut(tmp_path: Path) -> None:
    chance = random.Random(1)
    table = pl.DataFrame({"label": [f"l{chance.randrange(300)}" for _ in range(5000)], "status": ["ok"] * 5000})
    whole = tally([table], {"label": "label"}, "status")
    assert tally(table.iter_slices(37), {"label": "label"}, "status") == whole


def test_a_response_is_a_label_in_lower_case_without_blanks_around() -> None:
    table = pl.DataFrame({"response": ["Yes", " yes\n", "NO", None], "status": ["ok", "ok", "ok", "failed"]})
    counted = tally([table], label_columns({}, ""), "status")["response"]
    assert counted.counts == {"yes": 2, "no": 1}


def test_only_fields_of_one_text_whole_number_or_truth_hold_labels() -> None:
    fields: dict[str, str | tuple[str, str]] = {
        "a": "string",
        "b": "integer",
        "c": "boolean",
        "d": "number",
        "e": "json",
        "f": ("list", "string"),
    }
    assert label_columns(fields, "p_") == {"a": "p_a", "b": "p_b", "c": "p_c"}


def test_tables_that_cannot_be_compared_are_told(tmp_path: Path) -> None:
    before, now = table_of(tmp_path / "old", {"a": "yes"}), table_of(tmp_path / "new", {"a": "no"})
    (tmp_path / "old").write_bytes(b"no table")
    with pytest.raises(StorageError, match="cannot be compared"):
        flips(before, now, ["label"], ["id"], unique=True)
