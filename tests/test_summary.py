from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from pipeline.ledger import Prices, Totals
from pipeline.records import Usage
from pipeline.storage.files import Files
from pipeline.summary import NAME, Summary


def summary(folder: Path, **changes: Any) -> Summary:
    members: dict[str, Any] = {
        "job": "reviews",
        "exit_code": 0,
        "message": "",
        "finished": True,
        "rows": 10,
        "statuses": {"ok": 8, "failed": 2},
        "failures": {"content_policy": 2},
        "ended_this_run": 10,
        "totals": Totals(12, 9, 1, Usage(1000, 200, 1200, 10, 5), 0),
        "prices": Prices(1.0, 10.0),
        "in_doubt": 0,
        "seconds": 1.23456,
        "started": 0.0,
        "folder": str(folder),
        "simulated": False,
        "question": "q",
        "input": "i",
    }
    return Summary(**{**members, **changes})


def test_the_file_is_whole_json_for_the_owner_alone(tmp_path: Path) -> None:
    summary(tmp_path).write(Files())
    path = tmp_path / NAME
    members = json.loads(path.read_bytes())
    assert members["exit_code"] == 0
    assert members["statuses"] == {"ok": 8, "failed": 2}
    assert members["requests"] == 12
    assert members["requests_maybe_billed"] == 1
    assert members["tokens"]["prompt"] == 1000
    assert members["cost_usd"] == pytest.approx(0.003)
    assert members["started"] == "1970-01-01T00:00:00Z"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == [NAME]


def test_what_is_unknown_is_null_and_never_0(tmp_path: Path) -> None:
    members = summary(tmp_path, totals=Totals(1, 1), prices=Prices(), rows=None).members()
    assert members["cost_usd"] is None
    assert members["tokens"]["prompt"] is None
    assert members["rows"] is None


def test_a_person_reads_counts_kinds_tokens_money_and_where_the_results_are(tmp_path: Path) -> None:
    text = "\n".join(summary(tmp_path).lines())
    for told in ("10 rows: 8 ok, 2 failed", "2 content_policy", "12 requests, 9 billed", "1 more may", "$0.0030"):
        assert told in text
    assert str(tmp_path / "results.parquet") in text


def test_tables_are_named_only_when_they_were_written(tmp_path: Path) -> None:
    lines = summary(tmp_path, finished=False, message="stopped by SIGTERM").lines()
    assert not any(".parquet" in line for line in lines)
    assert "  failed: 2 content_policy; see them with `pipeline failures`" in lines
    assert lines[-1].strip() == "stopped by SIGTERM"


def test_rows_that_left_the_input_are_told_for_half_of_its_files_may_be_missing(tmp_path: Path) -> None:
    told = "  3 rows of the last run are gone from the input, or ask something else now; their answers are kept"
    assert told in summary(tmp_path, since_last_run={"kept": 10, "new": 0, "changed": 0, "gone": 3}).lines()
    whole = summary(tmp_path, since_last_run={"kept": 10, "new": 3, "changed": 1, "gone": 0}).lines()
    assert not any("are gone" in line for line in whole)


def test_answers_that_are_made_up_say_so(tmp_path: Path) -> None:
    assert any("simulator" in line for line in summary(tmp_path, simulated=True).lines())


def test_billed_attempts_without_counts_are_told(tmp_path: Path) -> None:
    assert any(
        "3 without token counts" in line for line in summary(tmp_path, totals=Totals(5, 5, 0, Usage(), 3)).lines()
    )
