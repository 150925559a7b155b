"""Judge of a checkpoint folder: an own reader of the files, and what must hold of what it finds.

It shares no line with the product's reader; only the last questions are put to the product itself.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import zstandard

import pipeline
from pipeline.errors import PipelineError
from pipeline.storage.checkpoint import Checkpoint
from pipeline.storage.files import Files
from pipeline.storage.snapshot import Snapshot
from tests.pictures import data_url
from tests.rigs.work import NAME, Truth, key_of, outcome_of


@dataclass(frozen=True, slots=True)
class Found:
    key: str
    what: str  # answer failure attempt kept fetched in_doubt renewal refusal
    text: str


def read_folder(folder: str) -> list[Found]:
    """Every record of the parts that the manifest names, then of the journal, in order."""
    job = str(json.loads(_bytes(folder, "job.json"))["job"])
    parts: dict[int, dict[str, Any]] = {}
    for line in _bytes(folder, "manifest.jsonl").split(b"\n"):
        member = _line(line, zlib.crc32(job.encode()))
        if member is not None and "seg" in member and "e" not in member:
            parts[member["seg"]] = member
    found: list[Found] = []
    for number, member in sorted(parts.items()):
        if not member.get("dropped"):
            found += _part(os.path.join(folder, "parts", member["part"]), member)
        parts[number] = member
    for name in sorted(os.listdir(os.path.join(folder, "journal"))):
        if name.endswith(".jsonl") and int(name[:4]) not in parts:
            found += _segment(_bytes(folder, "journal", name), job)
    return [replace(each, text=_as_it_came(folder, each)) for each in found]


_PATH = re.compile(r"media/[0-9a-f]{32}-\d+-[0-9a-f]{8}\.png")


def _as_it_came(folder: str, each: Found) -> str:
    """The text with its pictures in it, read from the files that stand for them; what a link led to."""
    if each.what == "fetched":
        (file,) = json.loads(each.text)["fetched"]
        return _media(folder, file["path"], file["sha256"]).decode()
    return _PATH.sub(lambda path: data_url(_media(folder, path[0], path[0][-12:-4])), each.text)


def _media(folder: str, path: str, sha256: str) -> bytes:
    """A file that a record names: whole, and there."""
    data = _bytes(os.path.dirname(folder), path)
    if not hashlib.sha256(data).hexdigest().startswith(sha256):
        raise AssertionError(f"{path} is named by a record, and is not whole")
    return data


def _bytes(*path: str) -> bytes:
    try:
        with open(os.path.join(*path), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


_WORDS = Path(pipeline.__file__).parent / "storage/journal.zdict"
_FRAMES = zstandard.ZstdDecompressor(dict_data=zstandard.ZstdCompressionDict(_WORDS.read_bytes()))


def _line(line: bytes, seed: int) -> dict[str, Any] | None:
    if line[:4] == b'{"z"':
        if line[-8:] != b"%08x" % zlib.crc32(line[:-8], seed):
            return None
        frame = line[5:-8].replace(line[4:5], b"\n")
        packed: dict[str, Any] = json.loads(_FRAMES.decompress(frame) + b"}")
        return packed
    body, mark, check = line.rpartition(b',"c":"')
    if not mark or check != b'%08x"}' % zlib.crc32(body, seed):
        return None
    members: dict[str, Any] = json.loads(line)
    return members


def _part(path: str, member: dict[str, Any]) -> list[Found]:
    data = _bytes(path)
    if hashlib.sha256(data).hexdigest() != member["sha256"]:
        raise AssertionError(f"{path} is not as the manifest has it")
    return list(rows_of(data))


@functools.lru_cache(64)
def rows_of(data: bytes) -> tuple[Found, ...]:
    names = ["key", "event", "text", "kind", "error", "raw", "renewed", "media"]
    rows = pl.read_parquet(data, columns=names).rows()
    return tuple(_found(key.hex(), *more) for key, *more in rows)


def _segment(data: bytes, job: str) -> list[Found]:
    first, *lines = data.split(b"\n")
    header = _line(first, zlib.crc32(job.encode()))
    members = [_line(line, int(header["salt"], 16)) for line in lines[:-1]] if header else []
    events = {"o": "outcome", "t": "attempt", "k": "kept", "f": "media"}
    return [
        _found(each["k"], events[each["e"]], *(each.get(name) for name in ("t", "x", "d", "z", "y", "o")))
        for each in members
        if each is not None and each["e"] in events
    ]


def _found(
    key: str,
    event: str,
    text: str | None,
    kind: str | None,
    error: str | None,
    raw: str | None,
    renewed: bool | None,
    media: str | None,
) -> Found:
    if event == "media":
        return Found(key, "fetched", media or "")
    if event == "kept":
        return Found(key, "kept", str(json.loads(raw or "null")))
    if kind == "in_doubt":
        return Found(key, "in_doubt", "")
    ends = ("refusal", "renewal") if renewed else ("failure", "answer")
    what = "attempt" if event == "attempt" else ends[text is not None]
    return Found(key, what, (error if text is None else text) or "")


def judge(
    folder: str,
    truth: Truth,
    safe: frozenset[str],
    *,
    files: Files,
    whole: bool = False,
    rows: int = 0,
) -> list[str]:
    """What is wrong with a folder after a crash; recovers it on the way. ``whole``: no written record may be missing
    and the requests in doubt are known, as after a kill without a power cut. ``rows``: have the next run do them."""
    try:
        return _judge(folder, truth, safe, files, whole, rows)
    except (PipelineError, AssertionError, OSError, pl.exceptions.PolarsError, ValueError, KeyError) as exc:
        return [f"{type(exc).__name__}: {exc}"]


def _judge(folder: str, truth: Truth, safe: frozenset[str], files: Files, whole: bool, rows: int) -> list[str]:
    _recover(folder, files)
    found = read_folder(folder)
    wrong = _content(found, truth, safe)
    doubts = Counter(each.key for each in found if each.what == "in_doubt")
    sent = truth.sends
    wrong += [f"in doubt more often than sent: {key}" for key, count in doubts.items() if count > sent.get(key, 0)]
    if whole:
        texts = {each.text for each in found}
        wrong += [f"received and lost: {said.text[:20]}" for said in truth.written if said.text not in texts]
        known = truth.open_marks | truth.unsure | truth.once_open
        missed = truth.open_marks - doubts.keys()
        wrong += [f"in doubt, and not told: {key}" for key in missed - truth.unsure]
        wrong += [f"told in doubt, and answered: {key}" for key in doubts.keys() - known]
    wrong += _standing(folder, found)
    wrong += _again(folder, files, found)
    if rows:
        wrong += _completes(folder, files, truth, found, rows)
    return wrong


def _recover(folder: str, files: Files) -> Checkpoint:
    checkpoint = Checkpoint.open(folder, NAME, files=files)
    checkpoint.seal()
    checkpoint.release()
    return checkpoint


def _content(found: list[Found], truth: Truth, safe: frozenset[str]) -> list[str]:
    wrong: list[str] = []
    seen: Counter[str] = Counter()
    for each in found:
        if each.what == "in_doubt":
            continue
        seen[each.text] += 1
        said = truth.tried.get(each.text)
        if said is None:
            wrong.append(f"invented: {each.text[:40]!r}")
        elif (said.key, said.what) != (each.key, each.what):
            wrong.append(f"wrong: {each.what} of {each.key} says {each.text[:20]!r}")
    # When a sync fails, what is not acknowledged is written again elsewhere; a crash in that moment leaves it twice.
    wrong += [f"{count} times: {text[:20]!r}" for text, count in seen.items() if count > 1 + (text not in safe)]
    wrong += [f"acknowledged and lost: {text[:20]!r}" for text in sorted(safe - seen.keys())]
    return wrong


def _expected(found: list[Found]) -> dict[str, Found]:
    """The latest renewal counts, or the first answer; without either, the latest failure."""
    expected: dict[str, Found] = {}
    ends = (each for each in found if each.what in ("answer", "failure", "renewal", "refusal"))
    for each in ends:
        had = expected.get(each.key)
        if had is None or each.what == "renewal" or had.what in ("failure", "refusal"):
            expected[each.key] = each
    return expected


def _standing(folder: str, found: list[Found]) -> list[str]:
    snapshot = Snapshot(folder, str(json.loads(_bytes(folder, "job.json"))["job"]))
    table = snapshot.standing()
    wrong = ["a key stands twice"] if table["key"].n_unique() != table.height else []
    pieces = [snapshot.piece(number, ["text", "error", "renewed"]).rows() for number in range(len(snapshot))]
    stands = {}
    for key, piece, place, answered in table.select("key", "piece", "place", "answered").rows():
        text, error, renewed = pieces[piece][place]
        name = key.to_bytes(16, "little", signed=True).hex()
        stood = _found(name, "outcome", text if answered else None, None, error, None, renewed, None)
        stands[name] = replace(stood, text=_as_it_came(folder, stood))
    if stands != _expected(found):
        wrong.append(f"stands as {stands}, not as {_expected(found)}"[:400])
    return wrong


def _again(folder: str, files: Files, found: list[Found]) -> list[str]:
    """Recovering what is recovered changes nothing."""
    checkpoint = _recover(folder, files)
    left = [name for name in files.names(os.path.join(os.path.dirname(folder), "media")) if name.endswith(".tmp")]
    if left:
        return [f"left aside: {', '.join(left)}"]
    wrong = [] if read_folder(folder) == found else ["a second recovery changed the records"]
    if checkpoint.in_doubt or checkpoint.cut_tails:
        wrong.append("a second recovery found something to do")
    return wrong


def _completes(folder: str, files: Files, truth: Truth, found: list[Found], rows: int) -> list[str]:
    """The next run asks the rest, and every row has its answer once."""
    checkpoint = Checkpoint.open(folder, NAME, files=files)
    had = {key for key, each in _expected(found).items() if each.what in ("answer", "renewal")}
    for row in range(rows):
        if key_of(row) not in had:
            checkpoint.record(outcome_of(truth.say(key_of(row), "answer")))
    checkpoint.seal()
    checkpoint.release()
    found = read_folder(folder)
    answers = [each for each in _expected(found).values() if each.what in ("answer", "renewal")]
    wrong = _content(found, truth, frozenset())
    missing = rows - len(answers)
    return [*wrong, f"{missing} rows without an answer after the follow-up"] if missing else wrong
