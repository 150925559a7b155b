"""A line between two processes of one run: whole messages, in order, over one end of a socket pair."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
import struct
from typing import Any, Self

_LENGTH = struct.Struct(">I")


class Line:
    """``send`` never waits: what the other end does not take yet is kept in memory."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.open = True
        """The other process is still there, as far as this one has heard."""

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        reader, writer = await asyncio.open_unix_connection(sock=end)
        writer.transport.set_write_buffer_limits(high=0)  # so that ``sent`` waits for all of it
        return cls(reader, writer)

    def send(self, message: object) -> None:
        """To somebody who is gone: nothing happens."""
        if self.open:
            data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
            self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> Any:
        """The next message; None when the other process has closed its end, or died."""
        try:
            head = await self._reader.readexactly(_LENGTH.size)
            data = await self._reader.readexactly(*_LENGTH.unpack(head))
        except (asyncio.IncompleteReadError, OSError):
            self.open = False
            return None
        return pickle.loads(data)  # noqa: S301 - from a process of ours, over a socket that has no name

    async def sent(self) -> None:
        """Wait until the other end has taken what was sent, or is gone."""
        with contextlib.suppress(OSError):
            await self._writer.drain()

    def close(self) -> None:
        self.open = False
        self._writer.close()
