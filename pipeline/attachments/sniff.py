"""What a content is, by its first bytes; what an address leads to, by its suffix.

A name may lie (a page that says "not found", saved as scan.pdf), and a wrong type is paid for. The type goes into a
row's key, so what is told here of a content may never change.
"""

from __future__ import annotations

from typing import Final

_STARTS: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"%PDF-", "application/pdf"),
    (b"ID3", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
)
_IN_RIFF: Final = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
_BRANDS: Final = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx"), "image/heic"),
    **dict.fromkeys((b"mif1", b"msf1"), "image/heif"),
    **dict.fromkeys((b"avif", b"avis"), "image/avif"),
    **dict.fromkeys((b"M4A ", b"M4B "), "audio/mp4"),
}
_SUFFIXES: Final = {
    **dict.fromkeys(("png", "jpg", "jpeg", "gif", "webp", "bmp", "tif", "tiff", "heic", "heif", "avif"), "image"),
    "pdf": "pdf",
    **dict.fromkeys(("wav", "mp3", "flac", "ogg", "oga", "opus", "m4a", "aac", "aif", "aiff"), "audio"),
}
KNOWN: Final = (
    "pictures (png, jpeg, gif, webp, bmp, tiff, heic, avif), PDF, audio (wav, mp3, flac, ogg, m4a, aac, aiff)"
)


def media_type(content: bytes) -> str | None:
    """None for what is none of ``KNOWN``."""
    for start, found in _STARTS:
        if content.startswith(start):
            return found
    head, tag = content[:4], content[8:12]
    if head == b"RIFF":
        return _IN_RIFF.get(tag)
    if content[4:8] == b"ftyp":
        return _BRANDS.get(tag)
    if head == b"FORM" and tag in (b"AIFF", b"AIFC"):
        return "audio/aiff"
    if head[:2] == b"BM" and content[6:10] == b"\0\0\0\0":  # two letters alone are a word's beginning
        return "image/bmp"
    return _framed_audio(head)


def _framed_audio(head: bytes) -> str | None:
    """Audio without a header: the first frame's eleven set bits, and fields that none of them leaves void."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    if layer == 0 and head[1] & 0xF0 == 0xF0:
        return "audio/aac"
    whole = version != 1 and head[2] >> 4 not in (0, 15) and head[2] >> 2 & 3 != 3
    return "audio/mpeg" if layer == 1 and whole else None


def family(media_type: str) -> str:
    """image, pdf or audio."""
    return "pdf" if media_type == "application/pdf" else media_type.partition("/")[0]


def family_of_suffix(path: str) -> str | None:
    return _SUFFIXES.get(path.rpartition(".")[2].lower()) if "." in path else None
