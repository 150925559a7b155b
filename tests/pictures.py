"""Real pictures of a few dozen bytes, and how replies carry them."""

from __future__ import annotations

import base64
import struct
import zlib


def png(shade: int = 0, side: int = 3) -> bytes:
    """A grey square. Another shade is another file."""
    rows = b"".join(b"\0" + bytes([shade % 256]) * side for _ in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"tEXt", b"n\0%d" % shade), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def markdown(data: bytes, words: str = "image") -> str:
    return f"![{words}]({data_url(data)})"
