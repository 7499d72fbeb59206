"""Arrays in files of other programs (MATLAB 5, .npy, pickled NumPy arrays), read without running anything."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from dropmae.formats.pickled import read_pickled
from dropmae.opening import read_bytes

MAT_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
MAT_MATRIX, MAT_COMPRESSED = 14, 15
MAT_NUMERIC = range(6, 16)  # array classes double .. uint64; cells, structures and text are passed over
MAT_LIMIT = 1 << 28
"""Bytes of a file, and of what is packed in it."""


def read_mat(file: str | Path) -> dict[str, np.ndarray]:
    """The real numeric arrays of a MATLAB 5 file (-v6, -v7) by name; whatever else is in it is passed over.

    OSError where the file is no such thing or damaged; MATLAB 7.3 files are HDF5 and not read.
    """
    raw = read_bytes(file, MAT_LIMIT)
    if raw[:8] == b"\x89HDF\r\n\x1a\n" or raw[:19] == b"MATLAB 7.3 MAT-file":
        raise OSError(f"{file}: a MATLAB 7.3 (HDF5) file; save it with -v7")
    if len(raw) < 128 or raw[126:128] not in (b"IM", b"MI"):
        raise OSError(f"{file}: not a MATLAB 5 file")
    order = "<" if raw[126:128] == b"IM" else ">"
    found: dict[str, np.ndarray] = {}
    left = MAT_LIMIT
    try:
        for kind, body in mat_elements(raw[128:], order):
            if kind == MAT_COMPRESSED:
                body = zlib.decompressobj().decompress(body, left)
                left -= len(body)
                if left <= 0:
                    raise ValueError(f"it unpacks to more than {MAT_LIMIT:,} bytes")
                kind, body = next(iter(mat_elements(body, order)))
            if kind == MAT_MATRIX and (array := mat_array(body, order)) is not None:
                found[array[0]] = array[1]
    except (struct.error, zlib.error, ValueError, KeyError, StopIteration) as error:
        raise OSError(f"{file}: a damaged MATLAB file ({error or type(error).__name__})") from None
    return found


def mat_elements(raw: bytes, order: str) -> list[tuple[int, bytes]]:
    """(type, content) of the elements that follow each other in `raw`."""
    found, at = [], 0
    while at + 8 <= len(raw):
        kind, size = struct.unpack_from(order + "II", raw, at)
        if kind >> 16:  # up to four bytes are stored in the tag itself
            kind, size, start, step = kind & 0xFFFF, kind >> 16, at + 4, 8
        else:
            start, step = at + 8, 8 + (size if kind == MAT_COMPRESSED else -(-size // 8) * 8)
        if start + size > len(raw):
            raise ValueError("it ends too early")
        found.append((kind, raw[start : start + size]))
        at += step
    return found


def mat_array(body: bytes, order: str) -> tuple[str, np.ndarray] | None:
    """Name and values of one matrix; None where it is not a real numeric one."""
    parts = mat_elements(body, order)
    if len(parts) < 4:
        return None
    (flags,) = struct.unpack_from(order + "I", parts[0][1])
    if flags & 0xFF not in MAT_NUMERIC or flags >> 11 & 1:
        return None
    shape = np.frombuffer(parts[1][1], order + "i4")
    kind, values = parts[3]
    return parts[2][1].decode("latin1"), np.frombuffer(values, order + MAT_TYPES[kind]).reshape(shape, order="F")


def read_dump(file: Path) -> np.ndarray:
    """One numeric array as `ndarray.dump` pickles it, read without running anything the file asks for.

    OSError where it is anything else than an array of plain numbers.
    """
    value = read_pickled(file)
    if not isinstance(value, np.ndarray):
        raise OSError(f"{file}: not a NumPy array dump (it holds no array)")
    return value
