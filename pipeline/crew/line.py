"""A line between two processes of one run: whole messages, in order, over one end of a socket pair."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
import struct
from typing import Any, Self

_LENGTH = struct.Struct(">I")
_PIECE = 65_536


class Line:
    """``send`` never waits: what the other end does not take yet is kept in memory."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.open = True
        """What is sent may be heard: neither end has finished, as far as this one knows."""

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, message: object) -> None:
        """To somebody who is gone: nothing happens."""
        if self.open:
            data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
            self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> Any:
        """The next message; None when the other process has finished, closed its end, or died."""
        try:
            head = await self._reader.readexactly(_LENGTH.size)
            data = await self._reader.readexactly(*_LENGTH.unpack(head))
        except (asyncio.IncompleteReadError, OSError):
            self.open = False
            return None
        return pickle.loads(data)  # noqa: S301 - from a process of ours, over a socket that has no name

    async def finish(self) -> None:
        """Say no more, and wait until the other end has heard all of it and closes, or is gone. Whoever closed at once
        would have his last words thrown away unread, if the other end said something meanwhile."""
        self.open = False
        with contextlib.suppress(OSError):
            if not self._writer.is_closing():
                self._writer.write_eof()
            while await self._reader.read(_PIECE):
                pass

    def close(self) -> None:
        self.open = False
        self._writer.close()
