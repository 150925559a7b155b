from __future__ import annotations

import io
import os

from hypothesis import given
from hypothesis import strategies as st

from pipeline.screen import Screen, clip, fold, obeys


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(terminal: io.StringIO) -> str:
    """What came since the last time."""
    text = terminal.getvalue()
    terminal.seek(0)
    terminal.truncate()
    return text


def test_a_block_is_drawn_over_the_last_one_in_one_write_and_nothing_is_blanked_first() -> None:
    terminal = Terminal()
    with Screen(terminal, lambda: os.terminal_size((80, 24))) as screen:
        assert shown(terminal) == "\x1b[?1049h"
        screen.show(["one", "two", "three"])
        assert shown(terminal) == "\x1b[Hone\x1b[K\r\ntwo\x1b[K\r\nthree\x1b[K\x1b[J"
        screen.show(["one"])
        assert shown(terminal) == "\x1b[Hone\x1b[K\x1b[J"
    assert shown(terminal) == "\x1b[?1049lone\n"


def test_no_line_wraps_and_no_block_scrolls_whatever_the_window() -> None:
    terminal = Terminal()
    with Screen(terminal, lambda: os.terminal_size((10, 2))) as screen:
        shown(terminal)
        screen.show(["x" * 50, "日本語日本語日本語", "a third line"])
        assert shown(terminal) == "\x1b[H" + "x" * 9 + "\x1b[K\r\n日本語日\x1b[K\x1b[J"


def test_a_cut_counts_columns_not_characters() -> None:
    assert clip("plain", 5) == "plain"
    assert clip("plain", 4) == "plai"
    assert clip("日本語", 5) == "日本"
    assert clip("e\u0301e\u0301e\u0301", 2) == "e\u0301e\u0301"
    assert clip("x", 0) == ""


def test_a_terminal_that_knows_only_how_to_print_is_not_drawn_on() -> None:
    assert obeys(Terminal(), {"TERM": "xterm"})
    assert not obeys(Terminal(), {"TERM": "dumb"})
    assert not obeys(Terminal(), {})
    assert not obeys(io.StringIO(), {"TERM": "xterm"})


@given(st.text(st.characters(blacklist_categories=["C", "Z"]) | st.just(" "), max_size=300), st.integers(1, 120))
def test_a_folded_line_loses_nothing_and_breaks_between_words(line: str, columns: int) -> None:
    folded = fold(line, columns)
    assert folded.split() == line.split()
    longest = max((len(word) for word in line.split()), default=0)
    indent = len(line) - len(line.lstrip(" ")) + 2
    for part in folded.split("\n"):
        assert len(part) <= max(columns, 20, longest + indent)
