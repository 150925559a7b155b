"""Which keys there are already: a set in four bytes a key, for tables whose rows have no id.

A slot holds 32 bits of a key's hash, its place says some twenty more; a key that is in the set is always found. One
that is not may be taken for one that is: of a hundred tables of ten million rows, one has one such key. It then has the
number of an occurrence that never was, which makes it no less a key; at worst that row is asked once more.
"""

from __future__ import annotations

from array import array

from pipeline.storage.key_list import KEY_BYTES, KeyList

_SMALLEST = 1 << 10


class Seen:
    """The set of the keys of a list, which it follows: whatever is appended there is to be added here. Growing takes a
    second for each million keys, which ``rows``, their number in the end, saves."""

    def __init__(self, keys: KeyList, rows: int = 0) -> None:
        self._keys = keys
        self._rows = rows
        self._count = 0
        self._make_room()

    def __contains__(self, key: bytes) -> bool:
        return self._slots[self._find(key)] != 0

    def add(self, key: bytes) -> None:
        """The key has been appended to the list. Raises StorageError where growing must read the list from a disk."""
        place = self._find(key)
        if not self._slots[place]:
            self._slots[place] = _print_of(key)
        self._count += 1
        if self._count > self._most:
            self._make_room()

    def _find(self, key: bytes) -> int:
        """The slot of the key, or the empty one where it would go."""
        slots, mask = self._slots, self._mask
        wanted = _print_of(key)
        place = int.from_bytes(key[:4], "little") & mask
        while (there := slots[place]) and there != wanted:
            place = (place + 1) & mask
        return place

    def _make_room(self) -> None:
        size = _SMALLEST
        while size * 6 // 10 <= max(len(self._keys), self._rows):
            size *= 2
        self._slots = array("I")  # the old one goes before the new one comes
        self._slots = array("I", [0]) * size
        self._mask = size - 1
        self._most = size * 6 // 10
        self._count = len(self._keys)
        for block in self._keys.blocks():
            for begin in range(0, len(block), KEY_BYTES):
                key = block[begin : begin + KEY_BYTES]
                place = self._find(key)
                self._slots[place] = _print_of(key)


def _print_of(key: bytes) -> int:
    """32 bits, never 0."""
    return int.from_bytes(key[4:8], "little") or 1
