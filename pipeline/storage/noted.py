"""What records say about media, and the columns that come of it.

The journal keeps an answer's text as it came, and marks that its media are wanted (``mark``); so what is paid for is
written down at once, in one piece. Whoever makes a table of journal lines takes the data URLs out (``lightened``):
sealing saves their bytes first, a mere reader only names them. Both see the same names, since these depend on nothing
but key and text. What was fetched from links is a record of its own (``fetched_note``), behind the answer's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import orjson
import polars as pl

from pipeline.media import may_hold_pieces, take
from pipeline.storage.shelf import FOLDER, Entry

Save = Callable[[str, bytes], None]
"""Keeps the bytes of a media file under a name."""

_MARKED: Final = b',"o":"{\\"links\\":'
PATHS, SHA256, ERROR = "media", "media_sha256", "media_error"
_LISTS: Final[dict[str, pl.DataType]] = {PATHS: pl.List(pl.String()), SHA256: pl.List(pl.String())}


def unsaved(name: str, data: bytes) -> None:
    """For readers: the writer has saved it, or will."""


def mark(text: str | None, links: int) -> str | None:
    """For an answer whose media are wanted: None where it holds none. ``links``: how many are to be fetched."""
    if text is None or not (links or may_hold_pieces(text)):
        return None
    return _json({"links": links})


def fetched_note(entries: Sequence[Entry], errors: Sequence[str]) -> str:
    return _json({"fetched": [entry.members() for entry in entries], "errors": list(errors)})


def lightened(line: bytes, save: Save) -> bytes:
    """A journal line without the data URLs of its text, if it is a marked answer; the line itself, if not."""
    # No string inside a line can hold these bytes, for its quotes would be escaped.
    if _MARKED not in line:
        return line
    members = orjson.loads(line)
    if "t" not in members:
        return line
    links = orjson.loads(members["o"])["links"]
    members["t"], members["o"] = _taken_out(members["k"], members["t"], links, save)
    return orjson.dumps(members)


def lightened_late(table: pl.DataFrame, save: Save) -> pl.DataFrame:
    """The same for answers that were recorded before their job asked for media. ``table``: key, text, media, more."""
    late = table["media"].is_null() & table["text"].str.contains(";base64,", literal=True).fill_null(False)
    places = late.arg_true().to_list()
    if not places:
        return table
    texts, notes = table["text"].to_list(), table["media"].to_list()
    for place in places:
        texts[place], notes[place] = _taken_out(_hex(table["key"][place]), texts[place], 0, save)
    return table.with_columns(pl.Series("text", texts, pl.String), pl.Series("media", notes, pl.String))


def _taken_out(key: str, text: str, links: int, save: Save) -> tuple[str, str | None]:
    """The text with paths in place of data URLs, and what a part notes of it."""
    taken = take(key, text, FOLDER)
    entries = []
    for piece in taken.pieces:
        save(piece.name, piece.data)
        entry = Entry(f"{FOLDER}/{piece.name}", piece.sha256, piece.kind.media_type, len(piece.data))
        entries.append(entry.members())
    return taken.text, _json({"links": links, "taken": entries}) if links or entries else None


def _hex(key: int) -> str:
    """Of a key as a number (see ``keys.as_number``)."""
    return key.to_bytes(16, "little", signed=True).hex()


def entries_in(notes: Iterable[str | None]) -> Iterator[dict[str, Any]]:
    """The files that some records name."""
    for note in notes:
        members = orjson.loads(note) if note else {}
        yield from (*members.get("taken", ()), *members.get("fetched", ()))


def wants_links(note: str | None) -> bool:
    return bool(note and orjson.loads(note).get("links"))


def media_schema(*, download: bool) -> dict[str, pl.DataType]:
    """The columns that a job with a ``media`` block has more."""
    return {**_LISTS, **({ERROR: pl.String()} if download else {})}


def media_columns(taken: pl.Series, fetched: pl.Series | None) -> list[pl.Series]:
    """Lists of paths and SHA-256, empty where an answer holds no media; why links could not be fetched."""
    both = list(zip(taken, taken if fetched is None else fetched, strict=True))
    files = [list(entries_in(pair if fetched is not None else pair[:1])) for pair in both]
    columns = [
        pl.Series(PATHS, [[entry["path"] for entry in row] for row in files], _LISTS[PATHS]),
        pl.Series(SHA256, [[entry["sha256"] for entry in row] for row in files], _LISTS[SHA256]),
    ]
    if fetched is not None:
        errors = [orjson.loads(note).get("errors", ()) if note else () for note in fetched]
        columns.append(pl.Series(ERROR, ["; ".join(row) or None for row in errors], pl.String))
    return columns


def _json(members: dict[str, Any]) -> str:
    return orjson.dumps(members).decode()
