"""Real files, as small as they come."""

from __future__ import annotations

import io
import struct
import wave
import zlib


def png(red: int = 0, size: int = 0) -> bytes:
    """One pixel of a colour; with a comment that brings it to about ``size`` bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    note = chunk(b"tEXt", b"Comment\0" + b"x" * size) if size else b""
    pixel = zlib.compress(bytes((0, red % 256, red // 256, 0)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + note + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


def pdf(text: str = "hello") -> bytes:
    return b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj %" + text.encode() + b"\ntrailer<</Root 1 0 R>>\n%%EOF\n"


def wav(level: int = 0) -> bytes:
    made = io.BytesIO()
    with wave.open(made, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(8_000)
        sound.writeframes(bytes([level]) * 8)
    return made.getvalue()


MP3 = b"\xff\xfb\x90\x00" + bytes(413)
