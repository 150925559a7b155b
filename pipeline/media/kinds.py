"""Of what kind some bytes are: by what they begin with, and only then by what they are said to be."""

from __future__ import annotations

from typing import Final, NamedTuple


class Kind(NamedTuple):
    media_type: str
    ext: str


HEAD_BYTES: Final = 512
"""So many bytes from the beginning are enough to tell."""

_BEGINNINGS: Final = (
    (b"\x89PNG\r\n\x1a\n", Kind("image/png", "png")),
    (b"\xff\xd8\xff", Kind("image/jpeg", "jpg")),
    (b"GIF87a", Kind("image/gif", "gif")),
    (b"GIF89a", Kind("image/gif", "gif")),
    (b"II*\0", Kind("image/tiff", "tif")),
    (b"MM\0*", Kind("image/tiff", "tif")),
    (b"%PDF-", Kind("application/pdf", "pdf")),
    (b"OggS", Kind("audio/ogg", "ogg")),
    (b"fLaC", Kind("audio/flac", "flac")),
    (b"ID3", Kind("audio/mpeg", "mp3")),
    (b"\xff\xfb", Kind("audio/mpeg", "mp3")),
    (b"\xff\xf3", Kind("audio/mpeg", "mp3")),
    (b"\xff\xf2", Kind("audio/mpeg", "mp3")),
    (b"\xff\xf1", Kind("audio/aac", "aac")),
    (b"\xff\xf9", Kind("audio/aac", "aac")),
)
_RIFF: Final = {
    b"WEBP": Kind("image/webp", "webp"),
    b"WAVE": Kind("audio/wav", "wav"),
    b"AVI ": Kind("video/x-msvideo", "avi"),
}
_BRANDS: Final = {
    b"avif": Kind("image/avif", "avif"),
    b"avis": Kind("image/avif", "avif"),
    b"heic": Kind("image/heic", "heic"),
    b"heix": Kind("image/heic", "heic"),
    b"mif1": Kind("image/heic", "heic"),
    b"qt  ": Kind("video/quicktime", "mov"),
    b"M4A ": Kind("audio/mp4", "m4a"),
}
_DECLARED: Final = {
    **{kind.media_type: kind for kind in (*dict(_BEGINNINGS).values(), *_RIFF.values(), *_BRANDS.values())},
    "image/jpg": Kind("image/jpeg", "jpg"),
    "image/bmp": Kind("image/bmp", "bmp"),
    "image/svg+xml": Kind("image/svg+xml", "svg"),
    "audio/mp3": Kind("audio/mpeg", "mp3"),
    "audio/x-wav": Kind("audio/wav", "wav"),
    "video/mp4": Kind("video/mp4", "mp4"),
    "video/webm": Kind("video/webm", "webm"),
}
_FAMILIES: Final = ("image/", "audio/", "video/")
_PAGES: Final = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script")


def kind_of(head: bytes, declared: str | None) -> Kind | None:
    """None for what is no media: a web page whatever it is called, or bytes that nobody calls picture, sound or video.
    ``head``: the beginning, of up to ``HEAD_BYTES``."""
    return _seen(head) or _believed(head, (declared or "").partition(";")[0].strip().lower())


def _seen(head: bytes) -> Kind | None:
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], Kind("video/mp4", "mp4"))
    if head.startswith(b"\x1aE\xdf\xa3"):
        return Kind("video/webm", "webm") if b"webm" in head[:64] else Kind("video/x-matroska", "mkv")
    start = head.lstrip()[:HEAD_BYTES].lower()
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in start):
        return Kind("image/svg+xml", "svg")
    return None


def _believed(head: bytes, declared: str) -> Kind | None:
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return None
    if declared in _DECLARED:
        return _DECLARED[declared]
    if declared.startswith(_FAMILIES) or declared == "application/octet-stream":
        return Kind(declared, "bin")
    return None
