"""Journal records in less space: half of an answer's line, and more of a label's, is the same in every line.

Each record is packed by itself, so that damage to one costs no other, with a dictionary that comes with this module and
never changes (``tests/storage/make_dictionary.py`` tells how it was made). It holds the names and usual values of a
record and how often letters occur, which spares zstd making that table anew for every line, most of the time it takes.

A packed record is a zstd frame with a byte that it does not hold in place of newlines, and that byte before it: so it
stays a line among lines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import zstandard

PACKED: Final = b'{"z"'
"""How a packed line begins, and no JSON line."""

_BEGINNING: Final = b'{"'
"""What all lines begin with, and hold nowhere else: so two that have run together can be told apart."""

LEAST_BYTES: Final = 128
MOST_BYTES: Final = 2 << 10
"""Longer records stay as they are: they would gain less of their size, a segment stays small when unpacked, and few of
their frames would spare a byte for the newline."""

_LEVEL: Final = 1  # level 3 takes half as much time again for 2 % less
_DICTIONARY: Final = zstandard.ZstdCompressionDict(Path(__file__).with_name("journal.zdict").read_bytes())
_DICTIONARY.precompute_compress(level=_LEVEL)
_STAND_INS: Final = tuple(bytes([byte]) for byte in range(256) if byte != ord("\n"))
_HEAD_BYTES: Final = len(PACKED) + 1
_UNREADABLE: Final = (zstandard.ZstdError, ValueError, MemoryError)  # the last two: what it says of its length


class Packer:
    """For one thread at a time."""

    def __init__(self) -> None:
        # The check of the line is ours, and the dictionary is known.
        self._frames = zstandard.ZstdCompressor(
            level=_LEVEL, dict_data=_DICTIONARY, write_checksum=False, write_dict_id=False
        )

    def packed(self, body: bytes) -> bytes:
        """The record as a packed line without its check; itself where that is no shorter, or cannot be had."""
        if not LEAST_BYTES <= len(body) <= MOST_BYTES:
            return body
        frame = self._frames.compress(body)
        for stand_in in _STAND_INS:
            if stand_in not in frame:
                line = b"".join((PACKED, stand_in, frame.replace(b"\n", stand_in)))
                return line if len(line) < len(body) and line.find(_BEGINNING, 1) < 0 else body
        return body


class Unpacker:
    """For one thread at a time. A frame at a time, too: the library's call for many at once kept 2 MB a segment
    (measured in a run of a million rows)."""

    def __init__(self) -> None:
        self._frames = zstandard.ZstdDecompressor(dict_data=_DICTIONARY)

    def unpacked(self, line: bytes) -> bytes | None:
        """The record of a packed line without its check; None where there is none in it."""
        frame = line[_HEAD_BYTES:].replace(line[len(PACKED) : _HEAD_BYTES], b"\n")
        try:
            return self._frames.decompress(frame)
        except _UNREADABLE:
            return None
