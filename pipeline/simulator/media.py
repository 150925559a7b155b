"""Pictures and films that are made up on the spot out of their names: small, real of their kind, always the same.

A picture is a PNG that every viewer shows. A film is an MP4 as far as its boxes go: it has a header and data, and no
track to play.
"""

from __future__ import annotations

import re
import struct
import zlib
from hashlib import blake2b

_NAME = re.compile(r"[0-9a-f]{16}\.(?:png|mp4)")
_CELLS = 8  # of a picture's side
_CELL = 8  # pixels
_TIMESCALE = 1000
_LASTS_MS = 8000
_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def named(name: str) -> tuple[bytes, str] | None:
    """Content and media type of the file of that name; None when no answer ever links to such a name."""
    if _NAME.fullmatch(name) is None:
        return None
    return (png(name), "image/png") if name.endswith("png") else (mp4(name), "video/mp4")


def png(name: str) -> bytes:
    """A pattern of two colours, its left half mirrored."""
    drawn = blake2b(name.encode(), digest_size=16).digest()
    colours = drawn[:3], drawn[3:6]
    bits = int.from_bytes(drawn[6:10], "big")
    rows = []
    for y in range(_CELLS):
        half = [colours[bits >> (4 * y + x) & 1] for x in range(_CELLS // 2)]
        row = b"".join(colour * _CELL for colour in half + half[::-1])
        rows.append((b"\0" + row) * _CELL)  # 0: no filter
    side = _CELLS * _CELL
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)  # 8 bits a channel, RGB
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def mp4(name: str) -> bytes:
    data = blake2b(name.encode(), digest_size=64).digest()
    # version and flags, made, changed, timescale, duration, rate, volume, reserved, matrix, reserved, next track
    times = struct.pack(">IIIII", 0, 0, 0, _TIMESCALE, _LASTS_MS)
    header = times + struct.pack(">IH10x", 0x10000, 0x100) + _MATRIX + bytes(24) + struct.pack(">I", 1)
    kind = b"isom" + struct.pack(">I", 0x200) + b"isomiso2mp41"
    return _box(b"ftyp", kind) + _box(b"moov", _box(b"mvhd", header)) + _box(b"mdat", data)


def _box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + kind + data
