"""One budget in several processes: a page of memory that all of them see, with a slot for each.

A slot holds what its process has spent and what it has reserved, for each purse. Whoever wants to reserve locks the
page, adds up all slots, and takes what still fits: so no number of processes passes the limit together. The lock is the
kernel's and dies with its holder. What a process had reserved when it died counts as spent, for it may have been
billed.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator, Sequence
from enum import Enum

PURSES = 2
"""Tokens and money."""

_SLOT = struct.Struct("=" + "dd" * PURSES)


def new_page(slots: int) -> int:
    """The descriptor of a page for so many processes, all at nothing; it has no name, and goes with its last holder."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("budget", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, max(slots * _SLOT.size, mmap.PAGESIZE))
    return fd


class Answer(Enum):
    YES = "it is reserved"
    LATER = "it does not fit, but other processes may give back some of what they have reserved"
    NO = "it does not fit, and no other process has anything reserved"


class Till:
    """One process's view of the page. ``slot``: its own, None for one that only looks."""

    def __init__(self, fd: int, slots: int, slot: int | None = None) -> None:
        self._fd = fd
        self._slots = slots
        self._slot = slot
        self._page = mmap.mmap(fd, max(slots * _SLOT.size, mmap.PAGESIZE))

    def reserve(self, wanted: Sequence[tuple[float, float]]) -> Answer:
        """``wanted``: of each purse what all processes may spend in this run, and the amount that is to be reserved
        now. All of it or, where one does not fit, nothing."""
        assert self._slot is not None
        with self._alone():
            taken = [0.0] * len(wanted)
            others_hold = False
            for slot in range(self._slots):
                for purse, (spent, reserved) in enumerate(self._read(slot)[: len(wanted)]):
                    taken[purse] += spent + reserved
                    others_hold = others_hold or (slot != self._slot and reserved > 0.0)
            if any(at + amount > limit for at, (limit, amount) in zip(taken, wanted, strict=True)):
                return Answer.LATER if others_hold else Answer.NO
            own = self._read(self._slot)
            for purse, (_, amount) in enumerate(wanted):
                own[purse] = (own[purse][0], own[purse][1] + amount)
            self._write(self._slot, own)
            return Answer.YES

    def settle(self, amounts: Sequence[tuple[float, float]]) -> None:
        """What this process has spent in this run, and what it still has reserved, of each purse."""
        assert self._slot is not None
        with self._alone():
            self._write(self._slot, amounts)

    def of_others(self) -> list[float]:
        """What all other processes have spent or reserved, of each purse."""
        with self._alone():
            slots = [self._read(slot) for slot in range(self._slots) if slot != self._slot]
        return [sum(sum(slot[purse]) for slot in slots) for purse in range(PURSES)]

    def bury(self, slot: int) -> None:
        """Its process has died: nothing that it had reserved comes back."""
        with self._alone():
            self._write(slot, [(spent + reserved, 0.0) for spent, reserved in self._read(slot)])

    def close(self) -> None:
        self._page.close()
        os.close(self._fd)

    def _read(self, slot: int) -> list[tuple[float, float]]:
        found = _SLOT.unpack_from(self._page, slot * _SLOT.size)
        return list(zip(found[::2], found[1::2], strict=True))

    def _write(self, slot: int, amounts: Sequence[tuple[float, float]]) -> None:
        flat = [number for pair in amounts for number in pair]
        _SLOT.pack_into(self._page, slot * _SLOT.size, *flat, *[0.0] * (2 * PURSES - len(flat)))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        # Not flock: that would belong to the descriptor, which all of them share.
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)
