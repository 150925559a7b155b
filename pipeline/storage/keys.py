"""The key of every row of the input, in order: 16 bytes a row, never one Python object a row.

A key names a question asked about a row: the row's id, the SHA-256 of its canonical request, and which of several
equal ones it is. Position is not in it, so a row that is inserted, moved or edited costs only itself. Where equal
requests are asked once (``dedupe``), they share the key that the first of them has without an id.

Keys take time to make (each row must be rendered), so a complete list is kept in ``keys.bin``, trusted only while the
input and the question are the very same ones and the list's own SHA-256 fits.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import chain

import polars as pl

from pipeline.storage.files import ASIDE, Files, create, discard, publish, write_all

KEY_BYTES = 16
_FORMAT = b"prompt-pipeline key 1\0"
_NAME_BYTES = 32
_HEADER_BYTES = 64


class Keys:
    """Grows a row at a time, in input order."""

    def __init__(self, *, has_ids: bool, dedupe: bool = False) -> None:
        self.dedupe = dedupe
        self._all = bytearray()
        # With ids, which are distinct, no two rows ask the same question.
        self._seen: Counter[bytes] | None = None if has_ids or dedupe else Counter()
        self._met: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._all) // KEY_BYTES

    def add(self, row_id: str | None, question: bytes) -> str:
        """The key of the next row, as 32 hexadecimal digits."""
        digest = hashlib.sha256(question).digest()
        occurrence = 0
        if self._seen is not None:
            short = digest[:12]
            occurrence = self._seen[short]
            self._seen[short] = occurrence + 1
        key = make_key(None if self.dedupe else row_id, digest, occurrence)
        self._all += key
        return key.hex()

    def extend(self, keys: bytes) -> None:
        """The keys of the next rows, which were made elsewhere: their ids make them independent of others."""
        self._all += keys

    def hex(self, ordinal: int) -> str:
        return self._all[ordinal * KEY_BYTES : (ordinal + 1) * KEY_BYTES].hex()

    def holds(self, ordinal: int, row_id: str | None, question: bytes) -> bool:
        """Whether the row's question is still the one its key was made of."""
        digest = hashlib.sha256(question).digest()
        key = bytes(self._all[ordinal * KEY_BYTES : (ordinal + 1) * KEY_BYTES])
        if self._seen is None:
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
        return hashlib.sha256(self._all).hexdigest()

    def frame(self) -> pl.DataFrame:
        """Columns ``ordinal`` and ``key`` (as a 128-bit integer, which joins fast); with ``dedupe`` also ``copy``: the
        row shares the key of one before it."""
        frame = self._frame()
        return frame.with_columns((~pl.col("key").is_first_distinct()).alias("copy")) if self.dedupe else frame

    def _frame(self) -> pl.DataFrame:
        count = len(self)
        if not count:
            return pl.DataFrame(schema={"ordinal": pl.UInt32, "key": pl.Int128})
        whole = pl.Series("key", [bytes(self._all)], dtype=pl.Binary)
        numbers = whole.bin.reinterpret(dtype=pl.Array(pl.Int128, count)).explode()
        return pl.DataFrame({"key": numbers}).with_row_index("ordinal")

    # -- on disk ---------------------------------------------------------------------------------------------------

    def save(self, files: Files, path: str, name: str) -> None:
        """Keep the complete list, under the name of the input and question it belongs to."""
        data = bytes(self._all)
        head = hashlib.sha256(name.encode()).digest() + hashlib.sha256(data).digest()
        aside = path + ASIDE
        discard(files, aside)
        fd = create(files, aside)
        try:
            write_all(files, fd, head)
            write_all(files, fd, data)
            files.fsync(fd)
        finally:
            files.close(fd)
        publish(files, aside, path)

    @classmethod
    def load(cls, files: Files, path: str, name: str | None, *, has_ids: bool, dedupe: bool = False) -> Keys | None:
        """The kept list, None when there is none for this name (None: any) or it is not whole."""
        try:
            content = files.read(path)
        except FileNotFoundError:
            return None
        head, data = content[:_HEADER_BYTES], content[_HEADER_BYTES:]
        named = head[:_NAME_BYTES] if name is None else hashlib.sha256(name.encode()).digest()
        if head != named + hashlib.sha256(data).digest():
            return None
        keys = cls(has_ids=has_ids, dedupe=dedupe)
        keys._all = bytearray(data)
        return keys


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
