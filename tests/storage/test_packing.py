from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage import packing
from pipeline.storage.files import Files
from pipeline.storage.journal import Segment, body_of, job_seed, line_of, lines_of, scan
from pipeline.storage.packing import MOST_BYTES, PACKED, Packer, Unpacker

JOB = "0011223344556677"
ANSWER = body_of(
    {
        "e": "o",
        "k": f"{7:032x}",
        "n": 7,
        "s": "ok",
        "b": "yes",
        "a": 1,
        "t": "positive",
        "f": "stop",
        "m": "gpt-5-mini",
        "r": "chatcmpl-7f3a",
        "h": 200,
        "u": [52, 1, 53, None, 0],
        "l": 0.0321,
    }
)
LINE = (
    "7b227a220228b52ffd20b5750100434103492d1441ab2d6951cd177defa10bfca567888688d31fe726af5e4de0f87fbf"
    "c8eee8b247bc316b18629ce3"
)


@given(st.lists(st.binary(max_size=2 * MOST_BYTES), max_size=5))
def test_what_is_packed_comes_back_and_is_one_line(bodies: list[bytes]) -> None:
    packer = Packer()
    lines = [packer.packed(body) for body in bodies]
    packed = [line for line, body in zip(lines, bodies, strict=True) if line is not body]
    assert [Unpacker().unpacked(line) for line in packed] == [
        body for line, body in zip(lines, bodies, strict=True) if line is not body
    ]
    assert all(line.startswith(PACKED) and b"\n" not in line for line in packed)
    assert all(len(line) <= len(body) for line, body in zip(lines, bodies, strict=True))


@given(st.lists(st.text(max_size=600), min_size=1, max_size=20))
def test_records_come_back_from_a_segment_in_their_order(texts: list[str]) -> None:
    bodies = [body_of({"e": "o", "k": f"{number:032x}", "t": text}) for number, text in enumerate(texts)]
    header = b'{"e":"h","format":2,"job":"%b","seg":1,"salt":"0000002a"' % JOB.encode()
    data = line_of(header, job_seed(JOB)) + lines_of(bodies, 42, Packer())
    held = scan(data, JOB)
    assert held.lines == [body + b"}" for body in bodies]
    assert [orjson.loads(line)["t"] for line in held.lines] == texts
    assert (held.damaged, held.tail) == (0, b"")


@pytest.mark.parametrize("newlines", [0, 1, 200])
def test_a_byte_stands_in_for_newlines_however_many_there_are(newlines: int) -> None:
    """Frames of what cannot be packed hold it as it is."""
    packer = Packer()
    noise = bytes(byte for byte in hashlib.sha256(b"1").digest() if byte != 10)
    body = noise + b"\n" * newlines + b"x" * MOST_BYTES
    packed = packer.packed(body[:MOST_BYTES])
    assert packed.startswith(PACKED)
    assert Unpacker().unpacked(packed) == body[:MOST_BYTES]


def test_a_frame_that_spares_no_byte_is_left_as_a_json_line() -> None:
    body = bytes(range(256)) + b"x" * 1000
    assert Packer().packed(body) is body


def test_an_answer_takes_less_than_half_its_space() -> None:
    assert 2 * len(Packer().packed(ANSWER)) < len(ANSWER)


def test_the_dictionary_never_changes() -> None:
    """What was packed with it can be read with nothing else. Another one needs a name and a mark of its own."""
    words = Path(packing.__file__).with_name("journal.zdict").read_bytes()
    assert hashlib.sha256(words).hexdigest() == "802a1bd9636393a53bf334d91aad34b334a9797adfb885b84ddaf6ccbca2c576"


def test_a_line_of_the_first_version_is_read_for_good() -> None:
    """Packed with the dictionary and library of that version."""
    line = bytes.fromhex(LINE)
    assert Unpacker().unpacked(line) == ANSWER


def test_a_frame_that_holds_what_a_line_begins_with_is_left_as_a_json_line() -> None:
    """Or a lost newline before it would cost two records."""
    noise = hashlib.shake_256(b"1").digest(300)
    assert Packer().packed(b'{"' + noise + b"x" * 600) == b'{"' + noise + b"x" * 600
    assert Packer().packed(b"{'" + noise + b"x" * 600).startswith(PACKED)


UNREADABLE = [
    b"",
    b"\0",
    b"\0\x28\xb5\x2f\xfd",
    b"\0\x28\xb5\x2f\xfd\xe0" + (1 << 62).to_bytes(8, "little") + b"\1\0\0",
    b"\0no frame at all",
    Packer().packed(ANSWER)[4:-3],
    b"\0" + zstandard.compress(b""),
    b"\0" + zstandard.compress(b"of no record"),
]


@pytest.mark.fault("C02")
@pytest.mark.parametrize("frame", UNREADABLE, ids=range(len(UNREADABLE)))
def test_a_line_with_its_check_and_no_record_is_told_and_costs_no_other(frame: bytes, tmp_path: Path) -> None:
    log = Segment(Files(), str(tmp_path / "0001.jsonl"), JOB, 1)
    log.append(lines_of([ANSWER], log.seed, Packer()), [ANSWER])
    bad = sealed(PACKED + frame, log.seed)
    log.append(bad)
    log.append(lines_of([ANSWER], log.seed, Packer()), [ANSWER])
    log.append(b"torn\n")
    log.sync()
    log.note_synced()
    log.append(bad)
    held = scan(Files().read(log.path), JOB)
    assert held.lines == [ANSWER + b"}"] * 2
    assert (held.damaged, held.tail) == (2, b"%btorn\n%b" % (bad, bad[:-1]))


def sealed(line: bytes, seed: int) -> bytes:
    return b"%b%08x\n" % (line, zlib.crc32(line, seed))
