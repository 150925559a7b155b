"""A block of lines that is shown again and again: in place on a terminal, one below the other without one.

In place means the terminal's other screen, as ``top`` uses it: nothing scrolls, no line is left over when the block
shrinks or the window is resized, and what stood there before comes back at the end. A line is cut at the last column,
because one that wraps would push the others away. Each block is one write, and nothing is blanked first: no flicker.
"""

from __future__ import annotations

import contextlib
import os
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self, TextIO

_ENTER, _LEAVE = "\x1b[?1049h", "\x1b[?1049l"
_HOME, _LINE_ENDS, _REST_ENDS = "\x1b[H", "\x1b[K", "\x1b[J"


def obeys(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether there is a terminal that knows more than to print."""
    return stream.isatty() and environ.get("TERM", "dumb") != "dumb"


class Screen:
    """``show`` draws; the last block is printed once more on leaving, to stay."""

    def __init__(self, stream: TextIO, size: Callable[[], os.terminal_size] | None = None) -> None:
        self._stream = stream
        self._size = size or (lambda: os.get_terminal_size(stream.fileno()))
        self._last: Sequence[str] = ()

    def __enter__(self) -> Self:
        self._write(_ENTER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write(_LEAVE + "".join(f"{line}\n" for line in self._last))

    def show(self, lines: Sequence[str]) -> None:
        self._last = lines
        size = self._size()
        # A line that ends in the last column leaves the cursor to wrap: one column is kept free.
        shown = [clip(line, size.columns - 1) + _LINE_ENDS for line in lines[: size.lines]]
        self._write(_HOME + "\r\n".join(shown) + _REST_ENDS)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone; a signal will tell
            self._stream.write(text)
            self._stream.flush()


def fold(line: str, columns: int) -> str:
    """A long line in several, broken between words, the later ones further in. Nothing is left out."""
    if len(line) < columns:
        return line
    further = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(
        line, max(columns - 1, 20), subsequent_indent=further, break_long_words=False, break_on_hyphens=False
    )


def clip(text: str, columns: int) -> str:
    """The beginning that fits, as a terminal counts: most East Asian characters take two columns."""
    used = 0
    for place, char in enumerate(text):
        used += 2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.combining(char) else 1
        if used > columns:
            return text[:place]
    return text
