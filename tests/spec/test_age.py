from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import SpecError
from pipeline.spec import load
from pipeline.spec.age import age_s

SPEC = "input: a.csv\nprompt: x\nmodel: m\nexpire: {}\n"


def loaded(folder: Path, written: str) -> str | None:
    path = folder / "job.yaml"
    path.write_text(SPEC.format(written))
    return load(path).expire


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1m", 60),
        ("90m", 5_400),
        ("12h", 43_200),
        ("30d", 2_592_000),
        ('"2w"', 1_209_600),
        ("999999w", 604_799_395_200),
    ],
)
def test_an_age_is_a_whole_number_and_a_unit(written: str, seconds: int, tmp_path: Path) -> None:
    expire = loaded(tmp_path, written)
    assert expire is not None
    assert age_s(expire) == seconds


def test_nothing_and_null_mean_that_no_answer_expires(tmp_path: Path) -> None:
    assert loaded(tmp_path, "") is None
    assert loaded(tmp_path, "null") is None


@pytest.mark.parametrize(
    "written",
    [
        *("30", "30.5", "0d", "030d", "-1d", "30D", "30 d", '"30d "', "30d12h", "d", "month", "1e3d", "[30d]", "true"),
        *("30s", "1000000d", '"\u0663d"', '""'),
    ],
)
def test_anything_else_is_refused_with_path_and_line(written: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"job\.yaml: line 4: expire must be a whole number above 0 and m, h, d or w"):
        loaded(tmp_path, written)


def test_an_override_may_set_it(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(SPEC.format("30d"))
    assert load(path, ["expire=2h"]).expire == "2h"
    with pytest.raises(SpecError, match="--set expire"):
        load(path, ["expire=soon"])
