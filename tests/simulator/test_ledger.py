from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import SpecError
from pipeline.simulator.chance import body_hash
from pipeline.simulator.ledger import Ledger


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def filled(path: Path | None = None) -> Ledger:
    ledger = Ledger(Clock(), path)
    for body, fault in ((b"one", None), (b"one", None), (b"two", "truncated"), (b"three", None)):
        name = ledger.receive(body)
        ledger.see(name)
        ledger.bill(name, 10, 5, fault)
        ledger.reply(200)
        ledger.leave()
    return ledger


def test_the_bill_adds_up() -> None:
    stats = filled().stats(bodies=True, seconds=True)
    assert (stats["requests"], stats["answers"], stats["billed"]) == (4, 3, 4)
    assert (stats["prompt_tokens"], stats["completion_tokens"], stats["total_tokens"]) == (40, 20, 60)
    assert stats["billed_by_fault"] == {"truncated": {"billed": 1, "prompt_tokens": 10, "completion_tokens": 5}}
    assert (stats["distinct"], stats["repeated"], stats["max_repeats"]) == (3, 1, 1)
    assert stats["bodies"][body_hash(b"one")] == [2, 2]
    assert stats["requests_by_second"] == {"0": [4, 4]}


def test_a_request_seen_before_but_never_billed_is_no_repeat() -> None:
    ledger = Ledger(Clock())
    ledger.receive(b"one")
    ledger.receive(b"one")
    assert ledger.stats()["repeated"] == 0
    assert ledger.stats()["max_in_flight"] == 2


def test_the_bill_outlives_the_process_that_kept_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "bill.jsonl"
    before = filled(path).stats(bodies=True)  # never closed, as after a kill
    again = Ledger(Clock(), path)
    after = again.stats(bodies=True)
    kept = ("requests", "answers", "billed", "total_tokens", "distinct", "repeated", "billed_by_fault", "bodies")
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    assert again.times_seen(again.receive(b"one")) == 2
    assert again.stats()["repeated"] == 2


def test_a_line_torn_by_a_death_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "bill.jsonl"
    filled(path).close()
    path.write_bytes(path.read_bytes() + b'{"received":"ab')
    for requests in (4, 5):
        ledger = Ledger(Clock(), path)
        assert ledger.stats()["requests"] == requests
        ledger.receive(b"four")
        ledger.close()


def test_a_reset_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "bill.jsonl"
    ledger = filled(path)
    ledger.reset()
    assert ledger.stats()["requests"] == 0
    assert Ledger(Clock(), path).stats()["billed"] == 0


@pytest.mark.parametrize("text", ['{"review_id": 7}\n', "[1]\n", "7\n"])
def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(text)
    with pytest.raises(SpecError, match="line 1: this is no line of a simulator's ledger"):
        Ledger(Clock(), path)
    assert path.read_text() == text


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot keep its ledger in"):
        Ledger(Clock(), tmp_path)
