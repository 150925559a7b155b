"""The hand as a process of its own, and this test in place of the process that leads."""

from __future__ import annotations

import os
import pickle
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.crew.mate import Mate, start
from pipeline.crew.words import Begin, Ended, KeepTo, Reason
from pipeline.errors import CheckpointError
from pipeline.ledger import Totals
from pipeline.spec import load

SPEC = """
input: {path: rows.csv, id: id}
output: {path: FOLDER}
endpoint: {base_url: "http://127.0.0.1:9/v1"}
prompt: "{{ id }}"
model: m
"""


@pytest.fixture
def hand(tmp_path: Path) -> Iterator[Mate]:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    mate = start(1, lock, -1)
    os.close(lock)
    mate.end.settimeout(60)
    yield mate
    mate.process.kill()
    mate.process.wait()
    mate.end.close()


def tell(end: socket.socket, message: object) -> None:
    data = pickle.dumps(message)
    end.sendall(struct.pack(">I", len(data)) + data)


def all_it_says(end: socket.socket) -> list[Any]:
    heard = b"".join(iter(lambda: end.recv(65_536), b""))
    said = []
    while heard:
        (length,) = struct.unpack_from(">I", heard)
        said.append(pickle.loads(heard[4 : 4 + length]))
        heard = heard[4 + length :]
    return said


def beginning(folder: Path) -> Begin:
    (folder / "job.yaml").write_text(SPEC.replace("FOLDER", str(folder / "out")))
    spec = load(folder / "job.yaml")
    return Begin(spec, None, 1, 2, 1, "r", Totals(), fresh=False, alone=False, drain_s=1, shares={}, unfetched={})


def test_it_goes_only_when_its_last_words_were_heard(hand: Mate, tmp_path: Path) -> None:
    tell(hand.end, beginning(tmp_path))
    reason, ended = all_it_says(hand.end)
    assert isinstance(reason, Reason) and reason.kind is CheckpointError  # there is no such folder
    assert ended == Ended(False)
    # Had it closed its end, this would break the line, and with it whatever of its words was not read yet.
    tell(hand.end, KeepTo({}, 1))
    hand.end.close()
    assert hand.process.wait(60) == 0


def test_it_goes_when_there_is_nobody_to_hear_them(hand: Mate, tmp_path: Path) -> None:
    tell(hand.end, beginning(tmp_path))
    hand.end.close()
    assert hand.process.wait(60) == 0
