"""Addresses in a text behind which a picture, a sound or a video lies.

Which they are: every markdown image; every other address, bare or in a markdown link, whose path ends like a media
file. A PDF is not among them: in an answer it is a reference rather than something that was made for it.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

LONGEST: Final = 4_096
_SCHEMES: Final = ("http://", "https://")
_STOPS: Final = frozenset("<>\"'`\\^{}|")
_PAIRS: Final = {")": "(", "]": "["}
_PUNCTUATION: Final = ".,;:!?*_~"
_SUFFIXES: Final = tuple(
    f".{ext}"
    for ext in (
        *("png", "jpg", "jpeg", "gif", "webp", "avif", "heic", "bmp", "tif", "tiff", "svg"),
        *("mp4", "m4v", "webm", "mov", "mkv", "avi", "mp3", "wav", "ogg", "opus", "m4a", "aac", "flac"),
    )
)


def links(text: str) -> list[str]:
    """Each once, in the order of the text."""
    found: dict[str, None] = {}
    at = text.find("http")
    while at >= 0:
        end = at + 4
        if text.startswith(_SCHEMES, at):
            address = _address(text, at)
            end = at + len(address)
            if len(address) <= LONGEST and (_is_image(text, at) or _ends_like_media(address)):
                found[address] = None
        at = text.find("http", end)
    return list(found)


def _address(text: str, start: int) -> str:
    """As far as it may reach: to a blank, a quote, or a bracket that was opened before it."""
    opened: list[str] = []
    end = start
    for character in text[start : start + LONGEST + 1]:
        if character in _STOPS or character.isspace() or not character.isprintable():
            break
        if character in _PAIRS:
            if not opened or opened.pop() != _PAIRS[character]:
                break
        elif character in "([":
            opened.append(character)
        end += 1
    return text[start:end].rstrip(_PUNCTUATION)


def _is_image(text: str, start: int) -> bool:
    """Whether ``![...](`` stands before it."""
    before = start - 1 if text[start - 1 : start] == "<" else start
    if text[max(0, before - 2) : before] != "](":
        return False
    depth = 1
    for at in range(before - 3, max(-1, before - 1_000), -1):
        depth += (text[at] == "]") - (text[at] == "[")
        if depth == 0:
            return at > 0 and text[at - 1] == "!"
    return False


def _ends_like_media(address: str) -> bool:
    try:
        path = urlsplit(address).path
    except ValueError:
        return False
    return path.lower().endswith(_SUFFIXES)
