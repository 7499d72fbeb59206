"""The frame store: decoded frames in one file, mapped into memory.

A store is a safetensors file with one tensor, `frames` (uint8 [T, H, W, 3], RGB), and the metadata `format` =
"dropmae-frames" and `fps`. Any safetensors reader opens it; reading a frame here costs one copy out of the page cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np

from dropmae.storage import replacing
from dropmae.video.errors import broken

FORMAT = "dropmae-frames"


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
            "__metadata__": {"format": FORMAT, "fps": repr(float(fps))},
            "frames": {"dtype": "U8", "shape": shape, "data_offsets": [0, int(np.prod(shape))]},
        }
        file.seek(0)
        file.write(room.to_bytes(8, "little") + json.dumps(header).encode().ljust(room))
    return count


def open_store(path: str | Path) -> tuple[np.ndarray, float] | None:
    """The frames, mapped and not read, and their rate; None where the file is something else."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if 2 <= length <= 4096 else b""
    if not text.startswith(b"{"):
        return None
    try:
        header = json.loads(text)
        if header["__metadata__"]["format"] != FORMAT:
            return None
        shape = tuple(header["frames"]["shape"])
        fps = float(header["__metadata__"]["fps"])
    except (ValueError, KeyError, TypeError):
        return None
    if os.path.getsize(path) < 8 + length + int(np.prod(shape)):
        raise broken(path, "the frame store is cut short")
    return np.memmap(path, np.uint8, "r", 8 + length, shape), fps
