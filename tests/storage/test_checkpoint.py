from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from pathlib import Path

import orjson
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import CheckpointError, RunPaused, StorageError, TransientError
from pipeline.records import Billed, Outcome, Row, Status, Usage, Votes
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.files import Files
from pipeline.storage.journal import FORMAT
from pipeline.storage.packing import PACKED, Packer
from pipeline.storage.parquet import PART_SCHEMA
from pipeline.storage.snapshot import Snapshot
from pipeline.storage.verify import verify
from tests.descriptors import open_under
from tests.rigs.disk import Disk, Fault, Killed, tree_of

PATIENCE_S = 20.0
AT_LENGTH = "answer {}" + " at such length that it is packed" * 3


def key(row: int) -> str:
    return f"{row + 1:032x}"


def answer(row: int, text: str | None = None) -> Outcome:
    text = f"answer {row}" if text is None else text
    return Outcome(key(row), Row(row, f"id {row}", {}), Status.OK, text, billed=Billed.YES, attempts=1)


def failure(row: int, kind: str = "timeout", *, permanent: bool = False) -> Outcome:
    return Outcome(
        key(row), Row(row, None, {}), Status.FAILED, kind=kind, error="no luck", attempts=1, permanent=permanent
    )


def opened(folder: Path, **more: object) -> Checkpoint:
    files = more.pop("files", None) or Disk(str(folder))
    return Checkpoint.open(str(folder / "checkpoint"), "job", files=files, **more)  # type: ignore[arg-type]


def close(checkpoint: Checkpoint) -> None:
    checkpoint.seal()
    checkpoint.release()


def die(checkpoint: Checkpoint) -> None:
    """End as ``kill -9`` ends a process: nothing is closed in order."""
    checkpoint.lock.release()
    assert isinstance(checkpoint.files, Disk)
    checkpoint.files.die()


def records(folder: Path) -> pl.DataFrame:
    job = orjson.loads((folder / "checkpoint/job.json").read_bytes())["job"]
    snapshot = Snapshot(str(folder / "checkpoint"), job)
    pieces = [snapshot.piece(number, list(PART_SCHEMA)) for number in range(len(snapshot))]
    return pl.concat([pl.DataFrame(schema=dict(PART_SCHEMA)), *pieces])


def texts(folder: Path) -> list[str]:
    return records(folder).filter(event="outcome")["text"].to_list()


# -- what is recorded --------------------------------------------------------------------------------------------------

counts = st.none() | st.integers(0, 2**63 - 1)
outcomes = st.builds(
    Outcome,
    key=st.binary(min_size=16, max_size=16).map(bytes.hex),
    row=st.builds(Row, st.integers(0, 2**40), st.none() | st.text(), st.just({})),
    status=st.sampled_from([status for status in Status if status is not Status.PENDING]),
    text=st.none() | st.text(),
    kind=st.none() | st.text(),
    error=st.none() | st.text(),
    finish_reason=st.none() | st.text(),
    model=st.none() | st.text(),
    request_id=st.none() | st.text(),
    http_status=st.none() | st.integers(100, 599),
    usage=st.builds(Usage, counts, counts, counts, counts, counts),
    billed=st.sampled_from(Billed),
    attempts=st.integers(0, 1000),
    latency_s=st.none() | st.floats(0, 1e6, allow_nan=False).map(lambda seconds: round(seconds, 4)),
    reasoning=st.none() | st.text(),
    raw=st.none() | st.text(),
    permanent=st.booleans(),
    fields=st.none() | st.dictionaries(st.text(), st.text() | st.integers(-9, 9) | st.lists(st.booleans())),
    step=st.none() | st.text(),
    earlier=st.builds(Usage, counts, counts, counts, counts, counts),
    earlier_replies=st.integers(0, 1000),
    votes=st.none()
    | st.builds(Votes, st.lists(st.none() | st.text()), st.dictionaries(st.text(), st.floats(0, 1).map(float))),
)
COUNTERS = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given=st.lists(outcomes, min_size=1, max_size=4))
def test_every_outcome_comes_back_from_its_part_as_it_was(given: list[Outcome], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "checkpoint", ignore_errors=True)
    checkpoint = opened(tmp_path)
    for outcome in given:
        checkpoint.record(outcome)
    close(checkpoint)
    rows = records(tmp_path).rows(named=True)
    assert len(rows) == len(given)
    for row, outcome in zip(rows, given, strict=True):
        assert (row["key"].hex(), row["event"], row["status"]) == (outcome.key, "outcome", outcome.status)
        assert (row["ordinal"], row["id"]) == (outcome.row.ordinal, outcome.row.id)
        for name in ("text", "kind", "error", "finish_reason", "model", "request_id", "http_status", "billed"):
            assert row[name] == getattr(outcome, name)
        for name in ("attempts", "latency_s", "reasoning", "raw"):
            assert row[name] == getattr(outcome, name)
        assert bool(row["permanent"]) == outcome.permanent
        told = None if outcome.votes is None else {**outcome.votes._asdict()}
        assert (None if row["votes"] is None else json.loads(row["votes"])) == told
        for name in COUNTERS:
            assert row[name] == getattr(outcome.usage, name)


def test_recovery_gives_the_same_records_as_a_quiet_end(tmp_path: Path) -> None:
    for name in ("quiet", "killed"):
        checkpoint = opened(tmp_path / name)
        for row in range(5):
            checkpoint.record(answer(row))
        die(checkpoint) if name == "killed" else close(checkpoint)
    close(opened(tmp_path / "killed"))
    volatile = ["ended_at"]
    assert records(tmp_path / "killed").drop(volatile).equals(records(tmp_path / "quiet").drop(volatile))


def test_a_superseded_attempt_is_kept_beside_the_answer(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    checkpoint.sent(key(0))
    error = TransientError("reset", kind="connection_lost", billed=Billed.MAYBE, status=502, usage=Usage(3))
    checkpoint.superseded(key(0), error)
    checkpoint.record(answer(0))
    close(checkpoint)
    attempt = records(tmp_path).filter(event="attempt").row(0, named=True)
    assert (attempt["kind"], attempt["error"], attempt["billed"]) == ("connection_lost", "reset", "maybe")
    assert (attempt["http_status"], attempt["prompt_tokens"], attempt["text"]) == (502, 3, None)


# -- in doubt ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault("P01")
def test_a_request_without_an_answer_when_the_run_was_killed_is_in_doubt_once(tmp_path: Path) -> None:
    first = opened(tmp_path)
    for row in range(4):
        first.sent(key(row))
    first.record(answer(0))
    first.superseded(key(1), TransientError("slow", kind="timeout"))
    first.superseded(key(2), TransientError("slow", kind="timeout"))
    first.sent(key(2))
    die(first)
    second = opened(tmp_path)
    assert second.in_doubt == 2
    close(second)
    doubts = records(tmp_path).filter(kind="in_doubt")
    assert sorted(doubts["key"].bin.encode("hex").to_list()) == [key(2), key(3)]
    assert doubts["billed"].to_list() == ["maybe", "maybe"]
    third = opened(tmp_path)
    assert third.in_doubt == 0
    close(third)
    assert records(tmp_path).filter(kind="in_doubt").height == 2


def test_a_row_in_doubt_is_pending(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.sent(key(0))
    die(first)
    close(opened(tmp_path))
    assert Snapshot(str(tmp_path / "checkpoint"), first.job.job).standing().height == 0


def test_what_was_in_flight_at_a_rotation_is_still_in_doubt_after_its_segment_is_sealed(tmp_path: Path) -> None:
    first = opened(tmp_path, seal_rows=2)
    first.sent(key(9))
    for row in range(3):
        first.record(answer(row))
    first.writer.commit()
    first.writer.seal()
    die(first)
    second = opened(tmp_path)
    assert second.in_doubt == 1
    close(second)


# -- whose folder it is ------------------------------------------------------------------------------------------------


def test_the_folder_of_another_job_is_refused_and_left_alone(tmp_path: Path) -> None:
    close(opened(tmp_path))
    before = tree_of(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"'job', not of 'other'\. Give this job an output of its own"):
        Checkpoint.open(str(tmp_path / "checkpoint"), "other")
    assert tree_of(str(tmp_path)) == before
    close(opened(tmp_path))


def test_simulated_and_real_answers_are_never_mixed(tmp_path: Path) -> None:
    close(opened(tmp_path, simulated=True))
    with pytest.raises(CheckpointError, match="simulated answers, and this run would add real ones"):
        opened(tmp_path, simulated=False)
    checkpoint = opened(tmp_path, simulated=None)
    with pytest.raises(CheckpointError, match="never mixed"):
        checkpoint.settle_simulated(False, fresh=False)
    checkpoint.settle_simulated(False, fresh=True)
    close(checkpoint)
    close(opened(tmp_path, simulated=False))


@pytest.mark.fault("C07")
def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    close(opened(tmp_path))
    path = tmp_path / "checkpoint/job.json"
    path.write_bytes(path.read_bytes().replace(b'"format": 2', b'"format": 3'))
    with pytest.raises(CheckpointError, match="format 3, this version reads 1 and 2"):
        opened(tmp_path)


def left_by_an_older_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Half way: three answers, none of their lines packed, and a request in flight. Gives the segment."""
    path = folder / "checkpoint/job.json"
    with monkeypatch.context() as older:
        older.setattr(Packer, "packed", lambda _, body: body)
        checkpoint = opened(folder)
        for row in range(3):
            checkpoint.sent(key(row))
            checkpoint.record(answer(row, AT_LENGTH.format(row)))
        checkpoint.sent(key(3))
        checkpoint.writer.commit()
        die(checkpoint)
    path.write_bytes(path.read_bytes().replace(b'"format": 2', b'"format": 1'))
    return folder / "checkpoint/journal/0001.jsonl"


def format_of(folder: Path) -> int:
    return int(orjson.loads((folder / "checkpoint/job.json").read_bytes())["format"])


@pytest.mark.fault("C07")
def test_a_folder_that_an_older_version_left_half_way_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on that version must leave it alone."""
    segment = left_by_an_older_version(tmp_path, monkeypatch)
    assert PACKED not in segment.read_bytes()
    assert verify(str(tmp_path / "checkpoint")).damage == []
    checkpoint = opened(tmp_path)
    assert (checkpoint.in_doubt, format_of(tmp_path)) == (1, FORMAT)
    checkpoint.record(answer(3, AT_LENGTH.format(3)))
    close(checkpoint)
    assert texts(tmp_path) == [AT_LENGTH.format(row) for row in range(4)]


@pytest.mark.fault("C07")
def test_a_damaged_folder_of_an_older_version_is_left_alone_until_it_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """... and is this version's before the first packed line is in it, wherever the repair ends."""
    segment = left_by_an_older_version(tmp_path, monkeypatch)
    segment.write_bytes(segment.read_bytes().replace(b"answer 1", b"answer 2"))
    before = tree_of(str(tmp_path))
    with pytest.raises(CheckpointError, match="nothing was changed"):
        opened(tmp_path)
    assert tree_of(str(tmp_path)) == before
    packed = 0
    for at in range(1, 40):
        shutil.copytree(tmp_path / "checkpoint", tmp_path / "killed/checkpoint")
        disk = Disk(str(tmp_path / "killed"), Fault("rename", at, "kill"))
        with contextlib.suppress(Killed):
            verify(str(tmp_path / "killed/checkpoint"), repair=True, files=disk)
        disk.die()
        segments = (tmp_path / "killed/checkpoint/journal").iterdir()
        if any(PACKED in each.read_bytes() for each in segments):
            packed += 1
            assert format_of(tmp_path / "killed") == FORMAT
        shutil.rmtree(tmp_path / "killed")
        if not disk.fired:
            break
    assert packed


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"format": 1}', b'{"format": 1, "what": 2}'])
def test_answers_without_a_readable_job_file_are_not_begun_anew(content: bytes | None, tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    checkpoint.record(answer(0))
    close(checkpoint)
    path = tmp_path / "checkpoint/job.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CheckpointError, match="backup"):
        opened(tmp_path)


@pytest.mark.fault("P14")
def test_a_folder_that_was_moved_goes_on_where_it_was(tmp_path: Path) -> None:
    first = opened(tmp_path / "here")
    first.record(answer(0))
    die(first)
    shutil.move(tmp_path / "here", tmp_path / "there")
    second = opened(tmp_path / "there")
    second.record(answer(1))
    close(second)
    assert texts(tmp_path / "there") == ["answer 0", "answer 1"]


@pytest.mark.fault("P10")
def test_a_second_run_is_turned_away_and_changes_nothing(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.record(answer(0))
    before = tree_of(str(tmp_path))
    with pytest.raises(RunPaused, match="in use by another run"):
        opened(tmp_path)
    assert tree_of(str(tmp_path)) == before
    close(first)


@pytest.mark.fault("P12")
def test_a_lock_file_deleted_under_a_run_is_noticed_before_the_next_segment(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, seal_rows=3)
    os.unlink(tmp_path / "checkpoint/LOCK")
    checkpoint.record(answer(0))
    checkpoint.record(answer(1))
    with pytest.raises(CheckpointError, match="deleted or replaced"):
        checkpoint.record(answer(2))
    checkpoint.abandon()
    close(opened(tmp_path))
    assert len(texts(tmp_path)) == 3


@pytest.mark.fault("C12")
def test_a_planted_link_in_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/LOCK").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="cannot be used"):
        opened(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.fault("C06")
def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    close(opened(tmp_path))
    strangers = ["journal/notes.txt", "parts/part-0001.parquet.bak", "parts/x.parquet", "README"]
    for name in strangers:
        (tmp_path / "checkpoint" / name).write_text("mine")
    checkpoint = opened(tmp_path)
    checkpoint.record(answer(0))
    close(checkpoint)
    assert texts(tmp_path) == ["answer 0"]
    assert all((tmp_path / "checkpoint" / name).read_text() == "mine" for name in strangers)
    assert sorted(verify(str(tmp_path / "checkpoint")).foreign) == strangers[:3]


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("C02", "C03", "C05")
@pytest.mark.parametrize("damage", ["flip", "empty", "gone"])
def test_a_damaged_part_never_starts_a_run(damage: str, tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    checkpoint.record(answer(0))
    close(checkpoint)
    path = tmp_path / "checkpoint/parts/part-0001.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:50] + b"?" + data[51:] if damage == "flip" else b"")
    if damage == "gone":
        path.unlink()
    before = tree_of(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"damaged; nothing was sent(.|\n)*part-0001(.|\n)*verify JOB --repair"):
        opened(tmp_path)
    assert tree_of(str(tmp_path)) == before


def test_a_part_is_made_again_from_its_segment_where_that_is_still_there(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    checkpoint.record(answer(0))
    checkpoint.writer.commit()
    segment = tmp_path / "checkpoint/journal/0001.jsonl"
    data = segment.read_bytes()
    close(checkpoint)
    segment.write_bytes(data)
    (tmp_path / "checkpoint/parts/part-0001.parquet").write_bytes(b"")
    close(opened(tmp_path))
    assert texts(tmp_path) == ["answer 0"]


@pytest.mark.fault("C04")
def test_a_segment_with_less_than_its_damaged_part_does_not_take_its_place(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    checkpoint.record(answer(0))
    data = (tmp_path / "checkpoint/journal/0001.jsonl").read_bytes()
    checkpoint.record(answer(1))
    close(checkpoint)
    (tmp_path / "checkpoint/journal/0001.jsonl").write_bytes(data)
    (tmp_path / "checkpoint/parts/part-0001.parquet").write_bytes(b"")
    with pytest.raises(CheckpointError, match="0 bytes instead of"):
        opened(tmp_path)


# -- ends --------------------------------------------------------------------------------------------------------------


def test_leaving_in_a_hurry_keeps_all_that_was_received(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, seal_rows=2)
    for row in range(5):
        checkpoint.record(answer(row))
    checkpoint.abandon()
    close(opened(tmp_path))
    assert texts(tmp_path) == [f"answer {row}" for row in range(5)]


def test_changing_the_job_file_is_all_or_nothing(tmp_path: Path) -> None:
    disk = Disk(str(tmp_path))
    checkpoint = opened(tmp_path, files=disk)
    checkpoint.update(question="one")
    disk.faults = (Fault("rename", disk.calls["rename"] + 1, "ENOSPC"),)
    with pytest.raises(StorageError, match=r"job\.json cannot be written"):
        checkpoint.update(question="two")
    assert checkpoint.job.question == "one"
    close(checkpoint)
    assert opened(tmp_path).job.question == "one"


def test_a_heartbeat_is_never_worth_an_error(tmp_path: Path) -> None:
    disk = Disk(str(tmp_path))
    checkpoint = opened(tmp_path, files=disk)
    checkpoint.heartbeat({"done": 1})
    for kind in ("open", "write", "rename"):
        disk.faults = (Fault(kind, disk.calls[kind] + 1, "ENOSPC"),)
        checkpoint.heartbeat({"done": 2})
    assert orjson.loads((tmp_path / "checkpoint/status.json").read_bytes()) == {"done": 1}
    close(checkpoint)


def test_no_descriptor_stays_open_behind_a_run(tmp_path: Path) -> None:
    for _ in range(3):
        checkpoint = opened(tmp_path, files=Files(), seal_rows=2)
        for row in range(5):
            checkpoint.record(answer(row))
        assert open_under(tmp_path)
        close(checkpoint)
    assert open_under(tmp_path) == []


def test_the_ballast_is_real_while_a_run_goes_on_and_gone_behind_it(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, files=Files())
    ballast = os.stat(tmp_path / "checkpoint/ballast")
    assert ballast.st_size == 8 << 20
    close(checkpoint)
    assert not (tmp_path / "checkpoint/ballast").exists()


def test_in_the_background_a_run_acknowledges_and_seals_and_the_next_finds_it_all(tmp_path: Path) -> None:
    failed = threading.Event()
    checkpoint = opened(tmp_path, files=Files(), seal_rows=20)
    checkpoint.start(failed.set)
    for row in range(100):
        checkpoint.sent(key(row))
        checkpoint.record(answer(row))
    close(checkpoint)
    assert not failed.is_set()
    assert checkpoint.acknowledged == 100
    assert sorted(texts(tmp_path)) == sorted(f"answer {row}" for row in range(100))
    assert verify(str(tmp_path / "checkpoint")).damage == []
