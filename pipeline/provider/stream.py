"""A stream of server-sent events, made into the one completion that would have come whole. Bytes in, one object out.

Lines are cut at CR, LF or both, wherever the network cut them. Comments, blank lines and fields that say nothing are
skipped; a missing blank after ``data:`` is forgiven, and so is a missing blank line: an event is taken as soon as its
data is a whole JSON object. A body that is no stream at all (plain JSON, a page) is kept as it is.

How a stream ends decides what it is worth. With ``[DONE]``, or with a finish_reason, it is complete. With neither it
was cut: the words that had come are kept and the object says so under ``STREAM_CUT``, so that whoever reads it
later, from the journal, too, knows that the answer is not whole.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from pipeline.provider import faults
from pipeline.provider._body import parse_part, well_formed
from pipeline.provider._deltas import Deltas
from pipeline.records import STREAM_CUT

_FIELD = re.compile(rb":|(?:data|event|id|retry)[ \t]*(?::|[\r\n])")
_LEAD = b"\xef\xbb\xbf \t\r\n"  # a byte order mark and blanks, before anything counts
_TRIES = 50
"""So many lines of one event are each tried for a whole object; beyond them a blank line has to end it."""
_DEPTH = 200
"""JSON nested deeper than this may be read, and could not be written again."""


class Stream:
    """One reply as it arrives."""

    def __init__(self) -> None:
        self.done = False  # nothing that follows counts any more
        self.unreadable = False  # an event could not be read: what follows would leave a hole
        self.is_plain: bool | None = None  # the body is no stream; None: not known yet
        self._pieces: list[bytes] = []  # of a line that has no end yet, or of a plain body
        self._data: list[bytes] = []  # lines of the event that has no end yet
        self._event = b""
        self._deltas = Deltas()
        self._error: Any = None

    @property
    def body(self) -> bytes:
        """Of a plain reply, as it came."""
        return b"".join(self._pieces)

    @property
    def said(self) -> bool:
        """Words of the answer had arrived."""
        return self._deltas.said

    def feed(self, data: bytes) -> None:
        if self.is_plain or (b"\n" not in data and b"\r" not in data):
            self._pieces.append(data)
            return
        data = b"".join((*self._pieces, data))
        if self.is_plain is None:
            data = data.lstrip(_LEAD)
            self._pieces = [data]
            if b"\n" not in data and b"\r" not in data:
                return
            self.is_plain = _FIELD.match(data) is None
            if self.is_plain:
                return
        lines = data.splitlines(keepends=True)
        # The LF of a CR LF may still be on its way.
        self._pieces = [] if lines[-1].endswith(b"\n") else [lines.pop()]
        self._take(lines)

    def end(self) -> None:
        """Nothing more comes: what is left counts as a line."""
        left = b"".join(self._pieces)
        if self.is_plain is None:
            left = left.lstrip(_LEAD)
            self.is_plain = bool(left) and _FIELD.match(left + b"\n") is None
            self._pieces = [left]
        if not self.is_plain:
            self._pieces = []
            self._take(left.splitlines())

    def completion(self, why: str) -> dict[str, Any] | None:
        """All that has come as one object; None when it was cut before a word of the answer.

        ``why`` says what cut it, if anything did: the stream knows itself whether it is complete.
        """
        whole = self._deltas.completion()
        if self._error is not None and self._deltas.finish_reason is None:
            return {"error": self._error, **whole}
        if (self.done and not self.unreadable) or self._deltas.finish_reason is not None:
            return whole
        return {**whole, STREAM_CUT: why} if self.said else None

    def _take(self, lines: list[bytes]) -> None:
        for line in lines:
            if self.done:
                return
            self._line(line.strip())

    def _line(self, line: bytes) -> None:
        if not line:
            self._dispatch()
            return
        name, _, value = line.partition(b":")
        name = name.rstrip()
        if name == b"data":
            self._data.append(value.strip())
            if len(self._data) <= _TRIES and self._read(b"\n".join(self._data)):
                self._data.clear()
        elif name == b"event":
            self._event = value.strip()

    def _dispatch(self) -> None:
        """A blank line. An object that cannot be read would leave a hole in the answer; other words are noise."""
        data = b"\n".join(self._data)
        if data and not self._read(data):
            if data.startswith(b"{"):
                self.unreadable = self.done = True
            elif self._event == b"error":
                self._fail(data.decode("utf-8", "replace"))
        self._data.clear()
        self._event = b""

    def _read(self, data: bytes) -> bool:
        """Take an event whose data is whole; False when it is not, or not yet."""
        if data == b"[DONE]":
            self.done = True
            return True
        if not data.endswith((b"}", b"]")) or not data.startswith((b"{", b"[")):
            return False
        value, parsed = parse_part(data)
        if not parsed or (data.count(b"[") + data.count(b"{") > _DEPTH and not _can_be_written(value)):
            return False
        self._chunk(value)
        return True

    def _chunk(self, value: Any) -> None:
        error = faults.error_in(value)
        if error is None and self._event == b"error":
            error = value
        if error is not None:
            self._fail(error)
        elif isinstance(value, dict):
            self._deltas.add(value)

    def _fail(self, error: Any) -> None:
        self._error = error
        self.done = True


def _can_be_written(value: Any) -> bool:
    try:
        orjson.dumps([[[[well_formed(value)]]]])  # as deep as a part may come to stand
    except (TypeError, RecursionError):
        return False
    return True


def written(completion: dict[str, Any]) -> bytes:
    """The object as a body. Halves of surrogate pairs are joined: a pair may have been cut in two by the events."""
    try:
        return orjson.dumps(completion)
    except TypeError:
        return orjson.dumps(well_formed(completion))
