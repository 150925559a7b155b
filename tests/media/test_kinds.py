from __future__ import annotations

import pytest

from pipeline.media import kind_of
from tests.pictures import png


@pytest.mark.parametrize(
    ("head", "ext"),
    [
        (png(), "png"),
        (b"\xff\xd8\xff\xe0", "jpg"),
        (b"GIF89a", "gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", "wav"),
        (b"\0\0\0\x20ftypisom", "mp4"),
        (b"\0\0\0\x20ftypqt  ", "mov"),
        (b"\0\0\0\x20ftypavif", "avif"),
        (b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1fB\x86\x81\x01B\x82\x84webm", "webm"),
        (b"ID3\x04", "mp3"),
        (b"OggS", "ogg"),
        (b"fLaC", "flac"),
        (b"%PDF-1.7", "pdf"),
        (b'\n<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg">', "svg"),
    ],
)
def test_bytes_say_what_they_are_whatever_is_said_of_them(head: bytes, ext: str) -> None:
    for declared in (None, "text/html", "image/x-other"):
        kind = kind_of(head, declared)
        assert kind is not None
        assert kind.ext == ext


@pytest.mark.parametrize("declared", ["image/png", "video/mp4", "text/html", None])
def test_a_web_page_is_no_picture_whatever_is_said_of_it(declared: str | None) -> None:
    for page in (b"<!DOCTYPE html><html>", b" \n<html><body>", b"\xef\xbb\xbf<!doctype html>"):
        assert kind_of(page, declared) is None


@pytest.mark.parametrize("declared", ["application/json", "text/plain; charset=utf-8", None, ""])
def test_bytes_that_nobody_calls_media_are_none(declared: str | None) -> None:
    assert kind_of(b'{"error": "expired"}', declared) is None
