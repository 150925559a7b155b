"""The key of every row of the input, in order: 16 bytes a row, never one Python object a row.

A key names a question asked about a row: the row's id, the SHA-256 of its canonical request, and which of several
equal ones it is. Position is not in it, so a row that is inserted, moved or edited costs only itself. Where equal
requests are asked once (``dedupe``), they share the key that the first of them has without an id.

Keys take time to make (each row must be rendered), so a complete list is kept in ``keys.bin``, trusted only while the
input and the question are the very same ones and the list's own SHA-256 fits.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from itertools import chain

import polars as pl

from pipeline.storage import begun
from pipeline.storage.begun import BLOCK_ROWS, Begun
from pipeline.storage.files import Files, write_pieces
from pipeline.storage.key_list import HELD_ROWS, KeyList
from pipeline.storage.key_list import KEY_BYTES as KEY_BYTES
from pipeline.storage.scratch import Scratch
from pipeline.storage.seen import Seen

_FORMAT = b"prompt-pipeline key 1\0"
_NAME_BYTES = 32
_HEADER_BYTES = 64
_REMEMBERED = 10_000
"""Repeated questions whose last occurrence is at hand; that of another one is looked for."""


class Keys:
    """Grows a row at a time, in input order. ``folder``: where the keys of a long list may lie for a while; ``rows``:
    how many there will be, if that is known."""

    def __init__(
        self,
        *,
        has_ids: bool,
        dedupe: bool = False,
        folder: str | None = None,
        files: Files | None = None,
        held_rows: int = HELD_ROWS,
        rows: int = 0,
    ) -> None:
        self.dedupe = dedupe
        self._rows = rows
        self.folder = folder
        # With ids, which are distinct, no two rows ask the same question.
        self._counts = not (has_ids or dedupe)
        self._take(KeyList(folder, files, held_rows=held_rows))
        self._met: dict[bytes, int] = {}
        self._begun: Begun | None = None

    def _take(self, every: KeyList) -> None:
        self._all = every
        self._seen: Seen | None = None
        self._next: dict[bytes, int] = {}
        self._digest: tuple[int, bytes] = (-1, b"")  # and the length of the list that it is of

    def __len__(self) -> int:
        return len(self._all)

    def add(self, row_id: str | None, question: bytes) -> str:
        """The key of the next row, as 32 hexadecimal digits. Raises StorageError."""
        digest = hashlib.sha256(question).digest()
        key = make_key(None if self.dedupe else row_id, digest, 0)
        if self._counts:
            if self._seen is None:
                self._seen = Seen(self._all, self._rows)
            if key in self._seen:
                key = make_key(row_id, digest, self._occurrence(self._seen, row_id, digest))
        try:
            self._all.append(key)
        finally:  # it is in the list, come what may
            if self._seen is not None:
                self._seen.add(key)
            if self._begun is not None and len(self._all) % BLOCK_ROWS == 0:
                self._begun.follow()
        return key.hex()

    def extend(self, keys: bytes) -> None:
        """The keys of the next rows, which were made elsewhere: their ids make them independent of others. Raises
        StorageError."""
        self._all.append(keys)

    def _occurrence(self, seen: Seen, row_id: str | None, digest: bytes) -> int:
        """The first number that no equal row before has: they have all numbers below."""
        short = digest[:12]
        free = self._next.get(short)
        if free is None:
            taken, free = 0, 1
            while make_key(row_id, digest, free) in seen:
                taken, free = free, free * 2
            while free - taken > 1:
                middle = (taken + free) // 2
                if make_key(row_id, digest, middle) in seen:
                    taken = middle
                else:
                    free = middle
            if len(self._next) >= _REMEMBERED:
                self._next.clear()
        self._next[short] = free + 1
        return free

    def hex(self, ordinal: int) -> str:
        return self._all.at(ordinal).hex()

    def holds(self, ordinal: int, row_id: str | None, question: bytes) -> bool:
        """Whether the row's question is still the one its key was made of."""
        digest = hashlib.sha256(question).digest()
        key = self._all.at(ordinal)
        if not self._counts:
            return make_key(None if self.dedupe else row_id, digest, 0) == key
        # Which of several equal ones it is, a kept list does not say: mostly the one after the last that was met.
        first = self._met.get(digest, 0)
        for occurrence in chain(range(first, ordinal + 1), range(first)):
            if make_key(row_id, digest, occurrence) == key:
                if occurrence:  # no entry for each of a million rows that have no equal
                    self._met[digest] = occurrence + 1
                return True
        return False

    def digest(self) -> str:
        """SHA-256 of the list: the same for the same rows, asked the same, in the same order."""
        return self._sha256().hex()

    def _sha256(self) -> bytes:
        length, digest = self._digest
        if length != len(self):
            digest = self._all.digest()
            self._digest = len(self), digest
        return digest

    def frame(self) -> pl.DataFrame:
        """Columns ``ordinal`` and ``key`` (as a 128-bit integer, which joins fast); with ``dedupe`` also ``copy``: the
        row shares the key of one before it."""
        empty = pl.DataFrame(schema={"ordinal": pl.UInt32, "key": pl.Int128})
        return with_copies(pl.concat([empty, *self.frames(max(1, len(self)))]), dedupe=self.dedupe)

    def frames(self, rows: int) -> Iterator[pl.DataFrame]:
        """Columns ``ordinal`` and ``key``, ``rows`` rows at a time. Raises StorageError."""
        return self._all.frames(rows)

    # -- on disk while it grows ------------------------------------------------------------------------------------

    def begin(self, files: Files, path: str, name: str, rows: int) -> None:
        """Keep what there is, and what is added, for a run that goes on where this one may be cut off."""
        self._begun = Begun(files, path, name, rows, self._all)

    def go_on(self, files: Files, path: str, name: str) -> int | None:
        """Take over what another run has begun; gives the rows of the whole input, None when there is no such list."""
        found = begun.read(files, path, name)
        if found is None:
            return None
        self._rows, blocks = found
        for block in blocks:
            self.extend(block)
        return self._rows

    # -- on disk ---------------------------------------------------------------------------------------------------

    def save(self, files: Files, path: str, name: str) -> None:
        """Keep the complete list, under the name of the input and question it belongs to."""
        head = hashlib.sha256(name.encode()).digest() + self._sha256()
        write_pieces(files, path, chain([head], self._all.blocks()))
        if self._begun is not None:
            self._begun.end()
            self._begun = None

    @classmethod
    def load(
        cls,
        files: Files,
        path: str,
        name: str | None,
        *,
        has_ids: bool,
        dedupe: bool = False,
        held_rows: int = HELD_ROWS,
    ) -> Keys | None:
        """The kept list, None when there is none for this name (None: any) or it is not whole."""
        try:
            fd = files.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        kept = Scratch(files, fd, os.fstat(fd).st_size)
        if kept.size < _HEADER_BYTES or kept.size % KEY_BYTES:
            return None
        head = kept.read(0, _HEADER_BYTES)
        if name is not None and head[:_NAME_BYTES] != hashlib.sha256(name.encode()).digest():
            return None
        keys = cls(has_ids=has_ids, dedupe=dedupe, folder=os.path.dirname(path))
        # The file stays open, and what it holds: another list takes its name, never its place.
        keys._take(KeyList(keys.folder, files, kept=kept, begin=_HEADER_BYTES, held_rows=held_rows))
        return keys if head[_NAME_BYTES:] == keys._sha256() else None


def with_copies(frame: pl.DataFrame, *, dedupe: bool) -> pl.DataFrame:
    """With ``dedupe``, ``copy``: the row shares the key of one before it in the frame."""
    return frame.with_columns((~pl.col("key").is_first_distinct()).alias("copy")) if dedupe else frame


def as_number(column: str = "key") -> pl.Expr:
    """A part's 16-byte keys as the numbers that :meth:`Keys.frame` gives."""
    return pl.col(column).bin.reinterpret(dtype=pl.Int128)


def make_key(row_id: str | None, digest: bytes, occurrence: int) -> bytes:
    name = b"" if row_id is None else row_id.encode()
    head = b"%b%d:%b" % (_FORMAT, -1 if row_id is None else len(name), name)
    return hashlib.sha256(head + digest + b"%d" % occurrence).digest()[:KEY_BYTES]


def lone_key(row_id: str | None, question: bytes) -> bytes:
    """The key of a row whose id makes it independent of all others: what :meth:`Keys.add` gives it."""
    return make_key(row_id, hashlib.sha256(question).digest(), 0)
