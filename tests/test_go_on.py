"""A first run that was cut off: what it had listed is gone on with only where that tells the same as the whole list."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipeline.job import Job
from pipeline.plan import Looked, Plan, Wish, go_on, keys_name, list_keys, make, no_keys, stand
from pipeline.records import Outcome, Row, Status
from pipeline.spec import load
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.files import Files
from pipeline.storage.layout import Layout
from pipeline.storage.snapshot import Snapshot
from tests.rigs.disk import Disk, Fault

FILES = Files()
LAYOUT = Layout("out/checkpoint")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.storage.keys.BLOCK_ROWS", 3)
    monkeypatch.setattr("pipeline.storage.begun.BLOCK_ROWS", 3)
    monkeypatch.setattr("pipeline.storage.begun._BLOCK_BYTES", 3 * 16)


def job_of(texts: list[str], *, ids: bool = True, prompt: str = "Say {{ text }}") -> Job:
    Path("in.csv").write_text("id,text\n" + "".join(f"{place},{text}\n" for place, text in enumerate(texts)))
    named = ", id: id" if ids else ""
    Path("job.yaml").write_text(
        f"input: {{path: in.csv{named}}}\nprompt: '{prompt}'\nmodel: {{name: m, max_tokens: 5}}\noutput: out\n"
    )
    return Job(load(Path("job.yaml")))


def cut_off(job: Job, drawn: int, ended: list[int], files: Files = FILES, *, stranger: bool = False) -> None:
    """A first run that drew some rows and was killed when some of these had ended."""
    checkpoint = Checkpoint.open("out/checkpoint", "job")
    keys = no_keys(job)
    keys.begin(files, LAYOUT.begun, keys_name(job, job.fingerprint()), job.source.count())
    rows = [row for batch in job.source.rows(job.used) for row in batch]
    hexes = [keys.add(row.id, job.asked(row)) for row in rows[:drawn]]
    for ordinal in ended:
        checkpoint.record(Outcome(hexes[ordinal], rows[ordinal], Status.OK, "answer"))
    if stranger:
        checkpoint.record(Outcome("7" * 32, Row(0, "gone", {}), Status.OK, "answer"))
    checkpoint.seal()
    checkpoint.release()


def looked(job: Job) -> tuple[Looked | None, Snapshot]:
    checkpoint = Checkpoint.open("out/checkpoint", "job")
    checkpoint.seal()
    checkpoint.release()
    snapshot = Snapshot("out/checkpoint", checkpoint.job.job)
    return go_on(job, FILES, LAYOUT, job.fingerprint(), snapshot), snapshot


def plans(job: Job, found: Looked, snapshot: Snapshot) -> tuple[Plan, Plan]:
    """From what was begun, and from all rows."""
    every, gone = stand(list_keys(job, None), snapshot)
    rest = {"wish": Wish(), "asked_before": ""}
    begun = make(job, found.standing, found.gone, snapshot, rows=found.rows, **rest)  # type: ignore[arg-type]
    return begun, make(job, every, gone, snapshot, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_it_plans_as_the_whole_list_would(seed: int, ids: bool) -> None:
    chance = random.Random(seed)
    texts = [chance.choice("abc") for _ in range(20)]
    job = job_of(texts, ids=ids)
    drawn = chance.randrange(1, 21)
    cut_off(job, drawn, chance.sample(range(drawn), chance.randrange(drawn + 1)))
    found, snapshot = looked(job)
    assert found is not None
    begun, whole = plans(job, found, snapshot)
    assert begun == whole
    every = list_keys(job, None)
    assert [found.keys.hex(at) for at in range(len(found.keys))] == [every.hex(at) for at in range(len(found.keys))]
    # And it goes on: the rows behind get the keys that the whole list gives them.
    rows = [row for batch in job.source.rows(job.used, len(found.keys)) for row in batch]
    assert [found.keys.add(row.id, job.asked(row)) for row in rows] == [every.hex(row.ordinal) for row in rows]


def test_rows_that_were_never_drawn_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(list("abcdefghijkl"))
    cut_off(job, 7, [0, 1, 2, 4, 6])
    asked: list[int] = []
    whole = Job.asked

    def watched(self: Job, row: Row) -> bytes:
        asked.append(row.ordinal)
        return whole(self, row)

    monkeypatch.setattr(Job, "asked", watched)
    found, _ = looked(job)
    assert found is not None
    assert (len(found.keys), found.rows, asked) == (7, 12, [6])  # six of them are in whole blocks


def test_a_record_of_a_row_that_is_not_in_the_list_means_a_look_at_all_of_them() -> None:
    job = job_of(list("abcdefghijkl"))
    cut_off(job, 7, [0, 1, 2], stranger=True)
    assert looked(job)[0] is None


def test_a_list_of_another_input_or_question_is_not_gone_on_with() -> None:
    job = job_of(list("abcdefghijkl"))
    cut_off(job, 7, [0, 1, 2])
    assert looked(job_of(list("abcdefghijkl"), prompt="Shout {{ text }}"))[0] is None
    assert looked(job_of(list("abcdefghijkX")))[0] is None
    assert looked(job_of(list("abcdefghijkl")))[0] is not None


@pytest.mark.fault("C06")
def test_what_is_torn_or_flipped_is_rendered_again() -> None:
    job = job_of(list("abcdefghijkl"))
    cut_off(job, 12, list(range(12)))
    whole = Path(LAYOUT.begun).read_bytes()
    every = list_keys(job, None)
    for at in range(0, len(whole), 5):
        flipped = whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]
        for data in (flipped, whole[:at]):
            Path(LAYOUT.begun).write_bytes(data)
            found, snapshot = looked(job)
            assert found is None or plans(job, found, snapshot)[0] == plans(job, found, snapshot)[1]
            keys = every if found is None else found.keys
            assert [keys.hex(place) for place in range(12)] == [every.hex(place) for place in range(12)]


def test_a_block_of_another_list_does_not_pass_for_one_of_ours() -> None:
    other = job_of(list("ABCDEFGHIJKL"))
    cut_off(other, 12, [])
    stale = Path(LAYOUT.begun).read_bytes()
    job = job_of(list("abcdefghijkl"))
    cut_off(job, 12, list(range(12)))
    ours = Path(LAYOUT.begun).read_bytes()
    two_blocks = len(ours) - 2 * (3 * 16 + 4)
    Path(LAYOUT.begun).write_bytes(ours[:two_blocks] + stale[two_blocks:])
    found, _ = looked(job)
    every = list_keys(job, None)
    assert found is not None
    assert [found.keys.hex(at) for at in range(12)] == [every.hex(at) for at in range(12)]


class Unreadable(Files):
    """A disk that has lost the sectors of one file."""

    def read_at(self, fd: int, size: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")


def test_a_list_that_cannot_be_read_stops_nobody() -> None:
    job = job_of(list("abcdefghijkl"))
    cut_off(job, 7, [0, 1, 2])
    checkpoint = Checkpoint.open("out/checkpoint", "job")
    checkpoint.seal()
    checkpoint.release()
    snapshot = Snapshot("out/checkpoint", checkpoint.job.job)
    assert go_on(job, Unreadable(), LAYOUT, job.fingerprint(), snapshot) is None


@pytest.mark.parametrize("fault", [Fault("open", 1, "ENOSPC"), Fault("write", 1, "short"), Fault("write", 2, "ENOSPC")])
def test_without_room_there_is_no_list_and_nothing_else_is_lost(fault: Fault) -> None:
    job = job_of(list("abcdefghijkl"))
    cut_off(job, 7, [0, 1, 2], Disk(str(Path.cwd()), fault))
    found, snapshot = looked(job)
    assert found is None or plans(job, found, snapshot)[0] == plans(job, found, snapshot)[1]


def test_once_the_whole_list_is_kept_the_beginning_is_forgotten() -> None:
    job = job_of(list("abcdefghijkl"))
    keys = no_keys(job)
    Path("out/checkpoint").mkdir(parents=True)
    keys.begin(FILES, LAYOUT.begun, "name", 12)
    assert Path(LAYOUT.begun).exists()
    keys.save(FILES, LAYOUT.keys, "name")
    assert not Path(LAYOUT.begun).exists()
