"""The rows that one hand has in hand: asked for a little before they are needed, and no more than that.

Who holds few rows loses few when it dies, and leaves few that another could have done when the table ends. So a hand
asks for about as many as it draws in a fifth of a second, and for a few at least.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from pipeline.crew.words import Block, Made, Wants
from pipeline.records import ApiReply, Row
from pipeline.storage.keys import KEY_BYTES, Keys, lone_key

AHEAD_S = 0.2
MEASURED_S = 0.1
LEAST = 8
MOST = 500


class Portion:
    """Feed and list of keys in one: what of them belongs to this hand. ``send`` is a line's."""

    def __init__(self, send: Callable[[object], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._clock = clock
        self._rows: deque[Row] = deque()
        self._arrived = asyncio.Event()
        self._asked = False
        self._over = False
        self._least = LEAST
        self._drawn = 0
        self._since_s = clock()
        self._keys: dict[int, str] = {}  # of the rows in hand
        self._again: set[int] = set()
        self._renews: set[int] = set()
        self.kept: dict[str, tuple[ApiReply, ...]] = {}
        self._making: deque[_Making] = deque()  # blocks whose keys are made here

    # -- rows ------------------------------------------------------------------------------------------------------

    async def draw(self) -> Row | None:
        while not self._rows:
            if self._over:
                return None
            self._arrived.clear()
            self._ask()
            await self._arrived.wait()
        self._drawn += 1
        row = self._rows.popleft()
        if len(self._rows) < self._least and not self._over:
            self._ask()
        return row

    def _ask(self) -> None:
        if not self._asked:
            span_s = self._clock() - self._since_s
            if span_s >= MEASURED_S:  # the workers' first draws come all at once, and tell no rate
                self._least = int(min(max(self._drawn / span_s * AHEAD_S, LEAST), MOST))
                self._drawn, self._since_s = 0, self._since_s + span_s
            self._asked = True
            self._send(Wants(self._least))

    def take(self, block: Block) -> None:
        """What was asked for has come."""
        self._asked = False
        self._over = not block.rows
        if block.keys is not None:
            self._keys.update(zip((row.ordinal for row in block.rows), block.keys, strict=True))
        elif block.rows:
            self._making.append(_Making(block.rows[0].ordinal, len(block.rows)))
        self._again |= block.again
        self._renews |= block.renews
        self.kept.update((key, tuple(replies)) for key, replies in block.kept.items())
        self._rows.extend(block.rows)
        self._arrived.set()

    def forget(self, row: Row) -> None:
        """It has ended, or stays pending."""
        key = self._keys.pop(row.ordinal, None)
        if self.kept and key is not None:
            self.kept.pop(key, None)
        self._again.discard(row.ordinal)
        self._renews.discard(row.ordinal)

    def give_up(self) -> None:
        self._over = True
        self._arrived.set()

    async def close(self) -> None:
        """The last keys go back: of blocks that were begun and not ended."""
        self.give_up()
        while self._making:
            self._give_back(self._making.popleft())

    # -- keys ------------------------------------------------------------------------------------------------------

    def again(self, ordinal: int) -> bool:
        return ordinal in self._again

    def renews(self, ordinal: int) -> bool:
        return ordinal in self._renews

    def key_of(self, row: Row, question: bytes) -> str:
        """The key of a row in hand, made now where it is not known: then the row has an id, which makes it unique."""
        known = self._keys.get(row.ordinal)
        if known is None:
            key = lone_key(row.id, question)
            known = self._keys[row.ordinal] = key.hex()
            self._note(row.ordinal, key)
        return known

    def hex(self, ordinal: int) -> str:
        return self._keys.get(ordinal, "")

    def _note(self, ordinal: int, key: bytes) -> None:
        for block in self._making:
            if block.note(ordinal, key):
                if not block.left:
                    self._making.remove(block)
                    self._give_back(block)
                return

    def _give_back(self, block: _Making) -> None:
        self._send(Made(block.start, bytes(block.keys)))


class HandKeys(Keys):
    """The keys of the rows in hand, where a list of all keys is asked for."""

    def __init__(self, portion: Portion) -> None:
        super().__init__(has_ids=True)
        self._portion = portion

    def hex(self, ordinal: int) -> str:
        return self._portion.hex(ordinal)


class _Making:
    """The keys of one block while they are made."""

    __slots__ = ("keys", "left", "start")

    def __init__(self, start: int, rows: int) -> None:
        self.start = start
        self.left = rows
        self.keys = bytearray(rows * KEY_BYTES)

    def note(self, ordinal: int, key: bytes) -> bool:
        """False: the row is of another block."""
        at = (ordinal - self.start) * KEY_BYTES
        if not 0 <= at < len(self.keys):
            return False
        self.keys[at : at + KEY_BYTES] = key
        self.left -= 1
        return True
