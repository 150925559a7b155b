from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import StorageError, TransientError
from pipeline.ledger import Totals
from pipeline.records import ApiReply, Billed, Outcome, Row, Status, Usage
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.keys import as_number
from pipeline.storage.parquet import read_columns
from pipeline.storage.ranged import Ranged
from pipeline.storage.snapshot import STANDING_SCHEMA, Snapshot
from pipeline.storage.standing import by_kind
from tests.rigs.disk import Disk


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint.open(str(tmp_path / "checkpoint"), "job", files=Disk(str(tmp_path)), seal_rows=1000)


def put(
    checkpoint: Checkpoint, row: int, status: Status, text: str, *, permanent: bool = False, **more: object
) -> None:
    failed = status in (Status.FAILED, Status.INVALID_ANSWER, Status.INVALID_INPUT)
    checkpoint.record(
        Outcome(
            f"{row:032x}",
            Row(row, f"id {row}", {}),
            status,
            text=None if failed else text,
            kind=text if failed else None,
            permanent=permanent,
            attempts=1,
            **more,  # type: ignore[arg-type]
        )
    )


def look(checkpoint: Checkpoint) -> Snapshot:
    return Snapshot(checkpoint.layout.folder, checkpoint.job.job)


def seal(checkpoint: Checkpoint) -> None:
    checkpoint.writer.commit()
    checkpoint.writer.rotate()
    checkpoint.writer.commit()
    checkpoint.writer.seal()


def row_of(key: int) -> int:
    return int(key.to_bytes(16, "little", signed=True).hex(), 16)


def stands(checkpoint: Checkpoint) -> dict[int, str]:
    """By row: the text of the answer that counts, or the kind of the failure."""
    snapshot = look(checkpoint)
    table = snapshot.standing()
    assert table["key"].is_unique().all()
    found = {}
    for key, piece, place in table.select("key", "piece", "place").rows():
        text, kind = snapshot.piece(piece, ["text", "kind"]).row(place)
        found[row_of(key)] = text or kind
    return found


def test_what_is_recorded_is_seen_at_once_without_a_lock(checkpoint: Checkpoint) -> None:
    put(checkpoint, 1, Status.OK, "one")
    assert stands(checkpoint) == {1: "one"}
    seal(checkpoint)
    put(checkpoint, 2, Status.OK, "two")
    assert stands(checkpoint) == {1: "one", 2: "two"}


def test_an_empty_checkpoint_has_no_rows(checkpoint: Checkpoint) -> None:
    assert look(checkpoint).standing().schema == STANDING_SCHEMA
    assert look(checkpoint).totals() == Totals()
    assert len(look(checkpoint)) == 0


@pytest.mark.fault("C08")
@pytest.mark.parametrize("sealed", [False, True])
def test_success_replaces_failure_and_never_the_other_way(sealed: bool, checkpoint: Checkpoint) -> None:
    history = [
        (1, Status.FAILED, "timeout"),
        (1, Status.OK, "first"),
        (1, Status.OK, "second"),
        (1, Status.FAILED, "late"),
        (2, Status.FAILED, "early"),
        (2, Status.FAILED, "latest"),
        (3, Status.TRUNCATED, "cut"),
        (3, Status.FAILED, "late"),
    ]
    for row, status, text in history:
        put(checkpoint, row, status, text)
        if sealed:
            seal(checkpoint)
    assert stands(checkpoint) == {1: "first", 2: "latest", 3: "cut"}
    answered = {row_of(key): answered for key, answered in look(checkpoint).standing().select("key", "answered").rows()}
    assert answered == {1: True, 2: False, 3: True}


@pytest.mark.parametrize("sealed", [False, True])
def test_the_latest_renewed_answer_counts_and_a_failed_renewal_changes_nothing(
    sealed: bool, checkpoint: Checkpoint
) -> None:
    history = [
        (1, Status.OK, "first", False),
        (1, Status.OK, "renewed", True),
        (1, Status.FAILED, "late", True),
        (2, Status.OK, "first", False),
        (2, Status.OK, "renewed", True),
        (2, Status.OK, "renewed again", True),
        (2, Status.OK, "not asked for", False),
        (3, Status.OK, "first", False),
        (3, Status.FAILED, "timeout", True),
        (4, Status.FAILED, "early", False),
        (4, Status.OK, "only", True),
    ]
    for row, status, text, renewed in history:
        put(checkpoint, row, status, text, renewed=renewed)
        if sealed:
            seal(checkpoint)
    assert stands(checkpoint) == {1: "renewed", 2: "renewed again", 3: "first", 4: "only"}
    assert look(checkpoint).standing()["answered"].all()
    assert look(checkpoint).totals().attempts == len(history)


def times(checkpoint: Checkpoint) -> dict[int, int]:
    return {row_of(key): at for key, at in look(checkpoint).standing().select("key", "at").rows()}


def test_an_answer_is_as_old_as_its_record_or_as_the_last_refusal_to_renew_it(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("pipeline.storage.checkpoint.time.time", lambda: now)
    for row in (1, 2, 3, 4):
        put(checkpoint, row, Status.OK, "first")
    now = 2000.9
    put(checkpoint, 1, Status.OK, "second", renewed=True)
    put(checkpoint, 2, Status.FAILED, "content_policy", renewed=True, permanent=True)
    put(checkpoint, 3, Status.FAILED, "timeout", renewed=True)
    assert times(checkpoint) == {1: 2000, 2: 2000, 3: 1000, 4: 1000}
    assert stands(checkpoint) == {1: "second", 2: "first", 3: "first", 4: "first"}


def test_a_paid_reply_that_has_expired_itself_is_not_gone_on_from(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("pipeline.storage.checkpoint.time.time", lambda: now)
    said = {row: ApiReply(200, {}, b"", f"said to {row}", Usage(), 0.1) for row in (1, 2, 3)}
    for row in (1, 2):
        checkpoint.keep(f"{row:032x}", said[row])
    put(checkpoint, 2, Status.OK, "ended")
    now = 2000.0
    for row in (1, 2, 3):
        checkpoint.keep(f"{row:032x}", said[row])
    rows = {since: {int(key, 16) for key in look(checkpoint).kept(since)} for since in (0.0, 1500.0, 2500.0)}
    assert rows == {0.0: {1, 2, 3}, 1500.0: {2, 3}, 2500.0: set()}  # an exchange is as old as its first reply
    assert len(look(checkpoint).kept()[f"{1:032x}"]) == 2


def test_a_part_of_an_earlier_version_which_knows_no_renewals_is_read(checkpoint: Checkpoint) -> None:
    put(checkpoint, 1, Status.OK, "old")
    put(checkpoint, 2, Status.OK, "old")
    seal(checkpoint)
    put(checkpoint, 1, Status.OK, "new", renewed=True)
    seal(checkpoint)
    parts = sorted(Path(checkpoint.layout.parts).iterdir())
    pl.read_parquet(parts[0]).drop("renewed").write_parquet(parts[0])
    assert stands(checkpoint) == {1: "new", 2: "old"}
    assert read_columns(str(parts[0]), ["renewed", "text"]).to_dict(as_series=False) == {
        "renewed": [None, None],
        "text": ["old", "old"],
    }
    with pytest.raises(StorageError):
        read_columns(str(parts[0]), ["renewed", "no such column"])


def test_a_paid_reply_that_is_no_answer_is_a_failure(checkpoint: Checkpoint) -> None:
    put(checkpoint, 1, Status.INVALID_ANSWER, "not_json")
    put(checkpoint, 2, Status.INVALID_INPUT, "invalid_input", permanent=True)
    table = look(checkpoint).standing()
    rows = [(row_of(key), *more) for key, *more in table.select("key", "answered", "permanent").rows()]
    assert sorted(rows) == [(1, False, False), (2, False, True)]


def test_failures_are_told_by_kind_the_most_frequent_first(checkpoint: Checkpoint) -> None:
    for row, kind in enumerate(["timeout", "policy", "timeout", "bad"]):
        put(checkpoint, row, Status.FAILED, kind, permanent=kind == "policy")
    put(checkpoint, 9, Status.OK, "fine")
    snapshot = look(checkpoint)
    kinds = by_kind(Ranged.of(snapshot.standing())).select("kind", "rows", "permanent").rows()
    assert kinds == [("timeout", 2, False), ("bad", 1, False), ("policy", 1, True)]


def test_the_totals_are_of_every_attempt_that_was_sent(checkpoint: Checkpoint) -> None:
    put(checkpoint, 1, Status.OK, "one", billed=Billed.YES, usage=Usage(10, 5, 15))
    error = TransientError("slow", kind="timeout", billed=Billed.MAYBE)
    checkpoint.superseded(f"{1:032x}", error)
    seal(checkpoint)
    put(checkpoint, 2, Status.OK, "two", billed=Billed.YES)
    put(checkpoint, 3, Status.FAILED, "refused", billed=Billed.NO)
    checkpoint.record(Outcome("f" * 32, Row(4, None, {}), Status.INVALID_INPUT, kind="invalid_input"))
    assert look(checkpoint).totals() == Totals(4, 2, 1, Usage(10, 5, 15), 1)


def test_what_is_noted_in_passing_is_what_a_look_of_its_own_tells(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.snapshot.BATCH_ROWS", 3)
    for row in range(12):
        checkpoint.superseded(f"{row:032x}", TransientError("slow", kind="timeout", billed=Billed.MAYBE))
        if row % 5 == 0:
            checkpoint.keep(f"{row:032x}", ApiReply(200, {}, b"", f"said to {row}", Usage(1, 2), 0.1))
        if row % 2:
            put(checkpoint, row, Status.OK, "one", billed=Billed.YES, usage=Usage(10, row, 15))
        if row % 3 == 0:
            seal(checkpoint)
    passed = look(checkpoint)
    passed.standing()
    assert passed.totals() == look(checkpoint).totals()
    assert passed.totals().attempts == 12 + 6 + 3
    assert passed.kept() == look(checkpoint).kept()
    assert len(passed.kept()) == 2  # of rows 0 and 10; row 5 has ended


def test_a_counter_that_nobody_reported_is_unknown_and_not_zero(checkpoint: Checkpoint) -> None:
    put(checkpoint, 1, Status.OK, "one", billed=Billed.YES, usage=Usage(prompt_tokens=0))
    assert look(checkpoint).totals().usage == Usage(prompt_tokens=0)


def test_records_are_gathered_by_place_whatever_piece_they_lie_in(checkpoint: Checkpoint) -> None:
    for row in range(6):
        put(checkpoint, row, Status.OK, f"answer {row}")
        seal(checkpoint)
    snapshot = look(checkpoint)
    standing = snapshot.standing()
    ordinals = pl.Series("ordinal", [row_of(key) for key in standing["key"]], pl.UInt32)
    places = standing.select(ordinals, "piece", "place")
    for columns in (["text"], ["id", "text"]):
        found = snapshot.gather(places.sample(fraction=1, shuffle=True, seed=1), columns).sort("ordinal")
        assert found["text"].to_list() == [f"answer {row}" for row in range(6)]
    assert snapshot.gather(places.clear(), ["text"]).height == 0


def test_a_segment_that_was_sealed_and_not_yet_removed_is_seen_once(checkpoint: Checkpoint) -> None:
    put(checkpoint, 1, Status.OK, "one", billed=Billed.YES)
    path = Path(checkpoint.layout.segment(1))
    data = path.read_bytes()
    seal(checkpoint)
    path.write_bytes(data)
    assert look(checkpoint).totals().attempts == 1


@pytest.mark.fault("C01", "C06")
def test_a_line_that_is_being_written_and_a_foreign_file_are_passed_over(checkpoint: Checkpoint) -> None:
    put(checkpoint, 1, Status.OK, "one")
    path = Path(checkpoint.layout.segment(1))
    path.write_bytes(path.read_bytes() + b'{"e":"o","k":"0000')
    (path.parent / "notes.txt").write_text("mine")
    (path.parent / "0001.jsonl.tmp").write_text("mine")
    assert stands(checkpoint) == {1: "one"}


def test_a_part_that_cannot_be_read_is_named(checkpoint: Checkpoint) -> None:
    put(checkpoint, 1, Status.OK, "one")
    seal(checkpoint)
    path = Path(checkpoint.layout.part("part-0001.parquet"))
    path.write_bytes(b"no parquet")
    with pytest.raises(StorageError, match=r"part-0001\.parquet cannot be read"):
        look(checkpoint).standing()


def test_a_key_is_the_number_that_the_part_holds(checkpoint: Checkpoint) -> None:
    put(checkpoint, 7, Status.OK, "one")
    snapshot = look(checkpoint)
    assert snapshot.piece(0, ["key"]).select(as_number())["key"].equals(snapshot.standing()["key"])
