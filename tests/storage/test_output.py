from __future__ import annotations

import csv
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.errors import InputError, RunPaused
from pipeline.ledger import Prices
from pipeline.records import Billed, Outcome, Row, Status, Usage
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.export import export_csv, export_jsonl, export_parquet
from pipeline.storage.files import Files
from pipeline.storage.keys import Keys
from pipeline.storage.output import (
    ATTEMPTS,
    FAILED,
    RESULTS,
    Join,
    Media,
    added_names,
    publish,
    refuse_clashes,
    refuse_own_tables,
)
from pipeline.storage.ranged import Ranged
from pipeline.storage.snapshot import Snapshot
from pipeline.storage.source import Selection, Source
from tests.pictures import markdown, png

FILES = Files()
PRICES = Prices(1.0, 10.0, 0.5)
ROWS = [("007", "plain"), ("1e5", 'a "quoted",\ncell'), ("null", "naïve 🎈"), ("x", "")]


class Desk:
    """An input table, a checkpoint that is filled by hand, and the join of both."""

    def __init__(self, rows: list[tuple[str, str]] = ROWS, batch_rows: int = 5000) -> None:
        with Path("in.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("id", "text"), *rows])
        self.source = Source(Selection(("in.csv",), id="id"), batch_rows)
        self.keys = Keys(has_ids=True)
        self.rows: list[Row] = []
        for batch in self.source.rows(["text"]):
            for row in batch:
                self.keys.add(row.id, str(row.fields["text"]).encode())
                self.rows.append(row)

    def record(self, ordinal: int, status: Status = Status.OK, **members: Any) -> None:
        checkpoint = Checkpoint.open("checkpoint", "job")
        members = {"text": f"answer {ordinal}", "billed": Billed.YES, "attempts": 1, **members}
        checkpoint.record(Outcome(self.keys.hex(ordinal), self.rows[ordinal], status, **members))
        checkpoint.seal()
        checkpoint.release()

    def join(self, prices: Prices = PRICES, prefix: str = "", **more: Any) -> Join:
        checkpoint = Checkpoint.open("checkpoint", "job")
        job = checkpoint.job.job
        checkpoint.seal()
        checkpoint.release()
        snapshot = Snapshot("checkpoint", job, FILES)
        standing = self.keys.frame().join(snapshot.standing(), on="key", how="left", maintain_order="left")
        return Join(self.source, Ranged.of(standing), snapshot, prices, prefix, **more)

    def publish(self, **more: Any) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
        publish(FILES, ".", self.join(**more), "id")
        return pl.read_parquet(RESULTS), pl.read_parquet(FAILED), pl.read_parquet(ATTEMPTS)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_one_row_per_input_row_in_input_order_with_all_of_its_columns() -> None:
    desk = Desk()
    for ordinal in (2, 0, 3, 1):
        desk.record(ordinal)
    results, failed, attempts = desk.publish()
    assert results["id"].to_list() == attempts["id"].to_list() == ["007", "1e5", "null", "x"]
    assert results["text"].to_list() == ["plain", 'a "quoted",\ncell', "naïve 🎈", None]
    assert results["response"].to_list() == [f"answer {ordinal}" for ordinal in range(4)]
    assert failed.height == 0


@pytest.mark.parametrize("batch_rows", [1, 3, 1000])
def test_the_bytes_depend_on_rows_and_answers_alone(batch_rows: int) -> None:
    rows = [(str(place), f"text {place}") for place in range(40)]
    whole = []
    for seed in range(2):
        desk = Desk(rows, batch_rows if seed else 7)
        order = list(range(40))
        random.Random(seed).shuffle(order)
        for part in (order[:13], order[13:]):
            checkpoint = Checkpoint.open(f"checkpoint{seed}", "job", seal_rows=5 + seed)
            for ordinal in part:
                checkpoint.record(Outcome(desk.keys.hex(ordinal), desk.rows[ordinal], Status.OK, f"a {ordinal}"))
            checkpoint.seal()
            checkpoint.release()
        snapshot = Snapshot(f"checkpoint{seed}", checkpoint.job.job, FILES)
        standing = desk.keys.frame().join(snapshot.standing(), on="key", how="left", maintain_order="left")
        publish(FILES, ".", Join(desk.source, Ranged.of(standing), snapshot, PRICES), "id")
        whole.append((Path(RESULTS).read_bytes(), Path(FAILED).read_bytes()))
    assert whole[0] == whole[1]


def test_failed_rows_are_told_with_what_is_known_of_them() -> None:
    desk = Desk()
    desk.record(0)
    desk.record(
        1,
        Status.FAILED,
        text=None,
        kind="content_policy",
        error="refused",
        http_status=400,
        billed=Billed.NO,
        attempts=1,
        permanent=True,
        raw='{"error": "refused"}',
    )
    desk.record(2, Status.INVALID_INPUT, text=None, kind="invalid_input", error="null", billed=Billed.NO, attempts=0)
    desk.record(3, Status.FILTERED, text="half")
    results, failed, _ = desk.publish()
    assert results["status"].to_list() == ["ok", "failed", "invalid_input", "filtered"]
    assert failed["id"].to_list() == ["1e5", "null"]
    row = failed.row(0, named=True)
    assert (row["kind"], row["http_status"], row["permanent"]) == ("content_policy", 400, True)
    assert row["reply_excerpt"] == '{"error": "refused"}'


def test_rows_without_an_outcome_are_pending_and_null() -> None:
    desk = Desk()
    desk.record(1)
    results, _, _ = desk.publish()
    assert results["status"].to_list() == ["pending", "ok", "pending", "pending"]
    assert results["response"].to_list() == [None, "answer 1", None, None]
    assert results["cost_usd"].to_list()[0] is None


def test_columns_and_types_are_the_same_when_all_is_null() -> None:
    desk = Desk()
    desk.record(0, usage=Usage(1, 2, 3, 0, 0), model="m", request_id="r")
    schemas = [table.schema for table in desk.publish()]
    other = Desk([("only", "one")])
    schemas_of_nothing = [table.schema for table in other.publish()]
    assert schemas == schemas_of_nothing
    assert schemas[0]["cost_usd"] == pl.Float64
    assert schemas[0]["prompt_tokens"] == pl.Int64


def test_money_of_a_row_is_null_where_a_price_or_a_count_is_not_known() -> None:
    desk = Desk()
    desk.record(0, usage=Usage(1_000_000, 100_000, None, 400_000))
    desk.record(1, usage=Usage(1_000_000, None))
    desk.record(2, billed=Billed.NO, usage=Usage(5, 5))
    results, _, _ = desk.publish()
    assert results["cost_usd"].to_list() == [pytest.approx(0.6 + 0.2 + 1.0), None, None, None]
    assert desk.publish(prices=Prices())[0]["cost_usd"].null_count() == 4
    assert desk.publish(prices=Prices(per_request=0.5))[0]["cost_usd"].to_list() == [0.5, 0.5, None, None]


def test_a_prefix_keeps_our_columns_apart() -> None:
    desk = Desk()
    desk.record(0)
    results, _, _ = desk.publish(prefix="llm_")
    assert results.columns[:3] == ["id", "text", "llm_response"]
    assert all(name.startswith("llm_") for name in results.columns[2:])


def test_columns_that_would_clash_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="status, model"):
        refuse_clashes(["id", "status", "model", "text"], added_names(""))
    refuse_clashes(["id", "status"], added_names("llm_"))


def test_an_input_that_a_run_would_replace_is_refused() -> None:
    Path("out").mkdir()
    Path("link.parquet").symlink_to(Path("out") / RESULTS)
    for path in ("out/results.parquet", "./out/../out/failed.parquet", "link.parquet"):
        with pytest.raises(InputError, match="writes itself"):
            refuse_own_tables([path], "out")
    refuse_own_tables(["results.parquet", "out/in.csv"], "out")


@pytest.mark.parametrize("edit", ["shorter", "longer", "same length"])
def test_an_input_that_changed_meanwhile_puts_no_answer_beside_another_row(edit: str) -> None:
    desk = Desk()
    for ordinal in range(4):
        desk.record(ordinal)
    desk.publish()
    whole = Path(RESULTS).read_bytes()
    looks: Iterator[bool] = iter([edit == "same length"])
    rows = {"shorter": ROWS[:2], "longer": [*ROWS, ("new", "row")], "same length": ROWS}[edit]
    join = desk.join(changed=lambda: next(looks, True))
    changed = Desk(rows)
    moved = Join(changed.source, join.standing, join.snapshot, PRICES, "", join.changed)
    with pytest.raises(RunPaused, match="input changed"):
        publish(FILES, ".", moved, "id")
    assert Path(RESULTS).read_bytes() == whole
    assert not list(Path().glob("*.tmp"))


def test_an_input_without_rows_makes_tables_without_rows() -> None:
    desk = Desk([])
    results, failed, attempts = desk.publish()
    assert (results.height, failed.height, attempts.height) == (0, 0, 0)
    assert "response" in results.columns


# -- exports


def test_three_forms_tell_the_same() -> None:
    desk = Desk()
    for ordinal in range(4):
        desk.record(ordinal, usage=Usage(1, 2, 3))
    join = desk.join()
    assert export_parquet(FILES, str(Path("t.parquet").absolute()), join, True) == 4
    assert export_csv(FILES, str(Path("t.csv").absolute()), join, True) == 4
    assert export_jsonl(FILES, str(Path("t.jsonl").absolute()), join, True) == 4
    first = pl.read_parquet("t.parquet")
    assert pl.read_csv("t.csv", infer_schema=False)["id"].to_list() == first["id"].to_list()
    assert pl.read_ndjson("t.jsonl")["text"].to_list() == first["text"].to_list()
    assert pl.read_csv("t.csv", infer_schema=False)["text"].to_list() == first["text"].to_list()


@pytest.mark.fault("S14")
def test_lists_are_json_in_csv_which_knows_none() -> None:
    desk = Desk()
    desk.record(0, fields={"tags": ["a", 'b "c"']})
    desk.record(1, fields={"tags": []})
    join = desk.join(fields={"tags": ("list", "string")})
    assert export_csv(FILES, str(Path("t.csv").absolute()), join, True) == 4
    assert pl.read_csv("t.csv")["tags"].to_list() == ['["a","b \\"c\\""]', "[]", None, None]


def test_columns_of_media_are_ours_only_where_a_job_asks_for_them() -> None:
    assert "media" not in added_names("")
    assert {"llm_media", "llm_media_sha256"} <= set(added_names("llm_", media=Media()))
    assert "llm_media_error" not in added_names("llm_", media=Media())
    assert "llm_media_error" in added_names("llm_", media=Media(download=True))


def test_answers_recorded_before_media_were_asked_for_show_them_as_well() -> None:
    desk = Desk()
    desk.record(0, text=f"one {markdown(png(1))}")
    desk.record(1, text="a word")
    desk.record(2, text="a;base64,word")
    saved: dict[str, bytes] = {}
    results, _, _ = desk.publish(media=Media(save=saved.__setitem__))
    (name,) = saved
    assert saved[name] == png(1)
    assert results["response"].to_list() == [f"one ![image](media/{name})", "a word", "a;base64,word", None]
    assert results["media"].to_list() == [[f"media/{name}"], [], [], []]
    assert results["media_sha256"][0].to_list() == [hashlib.sha256(png(1)).hexdigest()]
    assert "media_error" not in results.columns
    assert results.schema == desk.publish(media=Media(save=saved.__setitem__))[0].clear().schema


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_text_that_a_spreadsheet_would_run_is_defused_in_csv_alone(start: str) -> None:
    desk = Desk([("1", "fine")])
    desk.record(0, text=f"{start}cmd|'/C calc'!A0")
    export_csv(FILES, str(Path("guarded.csv").absolute()), desk.join(), True)
    export_csv(FILES, str(Path("raw.csv").absolute()), desk.join(), False)
    assert pl.read_csv("guarded.csv", infer_schema=False)["response"][0] == f"'{start}cmd|'/C calc'!A0"
    assert pl.read_csv("raw.csv", infer_schema=False)["response"][0] == f"{start}cmd|'/C calc'!A0"
    assert desk.publish()[0]["response"][0] == f"{start}cmd|'/C calc'!A0"
