"""PNG with 16 bits a channel, which image libraries cut down to 8: KITTI's flow and disparity are stored so."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from dropmae.names import printable
from dropmae.opening import IMAGE_BYTES, STILL_PIXELS, check_pixels, read_bytes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
"""Colour type -> channels; 3 is a palette."""


def read_png16(path: str | Path) -> np.ndarray:
    """uint16 [H, W, C] of a PNG; OSError for any other file, for 8 bits a channel, and for what is damaged."""
    data = read_bytes(path, IMAGE_BYTES)
    if data[:8] != SIGNATURE:
        raise OSError(f"{path}: not a PNG")
    header, packed, at = b"", [], 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if len(body) < length or kind == b"IEND":
            break
        if data[at + 8 + length : at + 12 + length] != struct.pack(">I", zlib.crc32(kind + body)):
            raise OSError(f"{path}: a damaged PNG (the checksum of {printable(kind.decode('latin1'))} is another)")
        if kind == b"IHDR" and not header:
            header = body
        elif kind == b"IDAT":
            packed.append(body)
        at += 12 + length
    if len(header) != 13:
        raise OSError(f"{path}: a damaged PNG (no header)")
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if bits != 16 or colour not in CHANNELS:
        raise OSError(f"{path}: a PNG with {bits} bits a channel, where 16 are needed: whatever wrote it lost the rest")
    if interlaced:
        raise OSError(f"{path}: an interlaced PNG of 16 bits, which is not read")
    check_pixels(path, width, height, STILL_PIXELS)
    step = 2 * CHANNELS[colour]
    row = 1 + width * step
    unpacker = zlib.decompressobj()
    try:
        lines = unpacker.decompress(b"".join(packed), height * row)
    except zlib.error as error:
        raise OSError(f"{path}: a damaged PNG ({error})") from None
    if not width or len(lines) < height * row:
        raise OSError(f"{path}: a damaged PNG ({len(lines):,} bytes of pixels, not {height * row:,})")
    table = np.frombuffer(lines, np.uint8).reshape(height, row)
    if table[:, 0].max() > 4:
        raise OSError(f"{path}: a damaged PNG (an unknown filter)")
    plain = unfiltered(table[:, 1:].reshape(height, width, step), table[:, 0])
    return plain.reshape(height, width * step).view(">u2").astype(np.uint16).reshape(height, width, CHANNELS[colour])


def unfiltered(pixels: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Undoes PNG's filters, a number per row, on pixels uint8 [H, W, bytes].

    A pixel depends on those to its left, above, and above left; so all pixels of one diagonal are undone together.
    """
    height, width, step = pixels.shape
    found = np.zeros((height + 1, width + 1, step), np.int16)  # with a row above and a column to the left, of zeros
    for diagonal in range(height + width - 1):
        y = np.arange(max(0, diagonal - width + 1), min(height, diagonal + 1))
        x = diagonal - y
        left, up, corner = found[y + 1, x], found[y, x + 1], found[y, x]
        guess = left + up - corner
        near, far, far_corner = abs(guess - left), abs(guess - up), abs(guess - corner)
        paeth = np.where((near <= far) & (near <= far_corner), left, np.where(far <= far_corner, up, corner))
        kind = filters[y][:, None]
        added = np.select([kind == 1, kind == 2, kind == 3, kind == 4], [left, up, (left + up) // 2, paeth], 0)
        found[y + 1, x + 1] = (pixels[y, x] + added) & 255
    return found[1:, 1:].astype(np.uint8)


def png16(values: np.ndarray) -> bytes:
    """uint16 [H, W, C], of 1 to 4 channels, as PNG."""
    height, width, channels = values.shape
    colour = {count: kind for kind, count in CHANNELS.items()}[channels]
    rows = np.ascontiguousarray(values, ">u2").reshape(height, -1).view(np.uint8)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    lines = np.concatenate([np.full((height, 1), 2, np.uint8), rows - above], 1)  # each row less the one above
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    return SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
