"""The frame store: decoded frames in one file, mapped into memory.

A store is a safetensors file with one tensor, `frames` (uint8 [T, H, W, 3], RGB), and the metadata `format` =
"dropmae-frames" and `fps`. Any safetensors reader opens it; reading a frame here costs one copy out of the page cache.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np

from dropmae.opening import open_file
from dropmae.storage import mark, replacing
from dropmae.video.errors import broken
from dropmae.video.frames import Piece, Still

FORMAT = "dropmae-frames"
STORE = "a frame store"
"""Kind of output, for its mark."""
HEADER = 4096
"""The longest header that is believed, in bytes."""


def write_store(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> int:
    """Writes frames uint8 [H, W, 3] of one size, whole or not at all; the number of frames.

    The header comes first but tells the count, so its place is kept and it is written last. Raises OSError where the
    file cannot be written, ValueError for frames that differ in size or for none.
    """
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"{path}: a frame store needs at least one frame")
    room = 256
    with replacing(path) as partial, open(partial, "wb") as file:
        file.write(bytes(8 + room))
        count = 0
        for frame in chain([first], iterator):
            if frame.shape != first.shape or frame.dtype != np.uint8:
                raise ValueError(f"{path}: frame {count} is {frame.dtype} {frame.shape}, not uint8 {first.shape}")
            file.write(np.ascontiguousarray(frame).data)
            count += 1
        shape = [count, *first.shape]
        header = {
            "__metadata__": {"format": FORMAT, "fps": repr(float(fps)), "by": mark(STORE)},
            "frames": {"dtype": "U8", "shape": shape, "data_offsets": [0, int(np.prod(shape))]},
        }
        file.seek(0)
        file.write(room.to_bytes(8, "little") + json.dumps(header).encode().ljust(room))
    return count


def open_store(path: str | Path, start: int = 0) -> tuple[np.ndarray, float] | None:
    """The frames, mapped and not read, and their rate; None where the file is something else.

    The store begins at byte `start` of the file.
    """
    with open_file(path) as file:
        file.seek(start)
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if 2 <= length <= HEADER else b""
    if (told := parse(text, path)) is None:
        return None
    shape, fps = told
    if os.path.getsize(path) < start + 8 + length + math.prod(shape):
        raise broken(path, "the frame store is cut short")
    return np.memmap(path, np.uint8, "r", start + 8 + length, shape), fps


def parse(text: bytes, name: object) -> tuple[tuple[int, int, int, int], float] | None:
    """Shape and rate from the header of a store; None where it is none, OSError where it is one but damaged."""
    if not text.startswith(b"{"):
        return None
    try:
        header = json.loads(text)
        if header["__metadata__"]["format"] != FORMAT:
            return None
    except (ValueError, KeyError, TypeError, RecursionError):
        if FORMAT.encode() not in text:
            return None
        raise broken(name, "the header of the frame store is damaged") from None
    try:
        shape, fps = header["frames"]["shape"], float(header["__metadata__"]["fps"])
        whole = isinstance(shape, list) and all(type(side) is int and side > 0 for side in shape)
        if not whole or len(shape) != 4 or shape[3] != 3 or not 0 < fps < math.inf:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise broken(name, "the header of the frame store is damaged") from None
    return (shape[0], shape[1], shape[2], shape[3]), fps


class DistantStore(Still):
    """A frame store on an address that fsspec knows: each frame is a read of its bytes."""

    def __init__(self, piece: Piece, short_side: int | None):
        super().__init__(short_side)
        length = int.from_bytes(piece.part(0, 8), "little")
        told = parse(piece.part(8, 8 + length), piece.name) if 2 <= length <= HEADER else None
        if told is None or 8 + length + math.prod(told[0]) > (piece.length or 0):
            raise broken(piece.name, "not a frame store; the shard is damaged")
        self.piece, self.start = piece, 8 + length
        self.shape, self.fps = told
        self.full = (self.shape[1], self.shape[2])

    def __len__(self) -> int:
        return self.shape[0]

    def load(self, index: int) -> np.ndarray:
        count = math.prod(self.shape[1:])
        first = self.start + index * count
        return np.frombuffer(self.piece.part(first, first + count), np.uint8).reshape(self.shape[1:])
