"""Files of optical flow: .flo (Middlebury, Sintel, FlyingChairs), .pfm (FlyingThings3D), KITTI's 16-bit PNG.

Flow is float32 [H, W, 2], x and y in pixels, NaN where it is not known; which value says so in a file is told below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dropmae.formats.png16 import png16, read_png16
from dropmae.opening import STILL_PIXELS, check_pixels, open_image, read_bytes
from dropmae.storage import write_bytes

MAGIC = b"PIEH"
"""The first bytes of a .flo, which are also the float 202021.25."""
UNKNOWN = 1e9
"""In a .flo: larger numbers, either way, say that flow is not known (Baker et al., IJCV 2011)."""
UNKNOWN_WRITTEN = 1.666666752e9
KITTI_ZERO, KITTI_STEP = 2**15, 1 / 64
SUFFIXES = (".flo", ".pfm", ".png")


def read_flow(path: str | Path) -> np.ndarray:
    """Flow of a file of any of the forms, by its suffix; OSError in one line where it is none."""
    readers = {".flo": read_flo, ".pfm": read_pfm_flow, ".png": read_kitti}
    if (suffix := Path(path).suffix.lower()) not in readers:
        raise OSError(f"{path}: flow is read from {', '.join(readers)}")
    return readers[suffix](path)


def read_flo(path: str | Path) -> np.ndarray:
    """Flow of a .flo: little-endian magic, width, height, then x and y of each pixel, row by row."""
    data = read_bytes(path)
    if data[:4] != MAGIC:
        swapped = " (big-endian, which no evaluator reads)" if data[:4] == MAGIC[::-1] else ""
        raise OSError(f"{path}: not a .flo file: it begins with {data[:4]!r} and not with {MAGIC!r}{swapped}")
    width, height = (int(side) for side in np.frombuffer(data[4:12].ljust(8, b"\0"), "<i4"))
    if width < 1 or height < 1:
        raise OSError(f"{path}: a damaged .flo ({width}x{height} pixels)")
    check_pixels(path, width, height, STILL_PIXELS)
    if len(data) != 12 + 8 * width * height:
        raise OSError(f"{path}: a damaged .flo ({len(data):,} bytes, not the {12 + 8 * width * height:,} of its size)")
    flow = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)
    return unless((np.abs(flow) <= UNKNOWN).all(-1), flow)


def unless(known: Any, flow: np.ndarray) -> np.ndarray:
    """Flow with NaN where it is not `known`, bool [H, W]."""
    flow[~known] = np.nan
    return flow


def flo(flow: np.ndarray) -> bytes:
    """A .flo; unknown flow is written as Middlebury does."""
    height, width = flow.shape[:2]
    values = np.where(np.isnan(flow).any(-1, keepdims=True), UNKNOWN_WRITTEN, flow)
    return MAGIC + np.array([width, height], "<i4").tobytes() + values.astype("<f4").tobytes()


def write_flo(path: str | Path, flow: np.ndarray) -> None:
    """Writes a .flo as `flo` makes it."""
    write_bytes(path, flo(flow))


def read_pfm(path: str | Path) -> np.ndarray:
    """float32 [H, W, 1 or 3] of a portable float map: rows from the bottom up, a negative scale for little-endian."""
    data = read_bytes(path)
    words = data[:256].split(maxsplit=4)
    if len(words) < 4 or words[0] not in (b"PF", b"Pf"):
        raise OSError(f"{path}: not a .pfm file: it begins with {data[:2]!r} and not with b'PF' or b'Pf'")
    try:
        width, height, scale = int(words[1]), int(words[2]), float(words[3])
    except ValueError:
        raise OSError(f"{path}: a damaged .pfm (its size or scale is no number)") from None
    if width < 1 or height < 1 or not scale:
        raise OSError(f"{path}: a damaged .pfm ({width}x{height} pixels, scale {scale:g})")
    check_pixels(path, width, height, STILL_PIXELS)
    channels = 3 if words[0] == b"PF" else 1
    start = data.index(words[3], data.index(words[2], data.index(words[1], 2) + len(words[1])) + len(words[2]))
    start, size = start + len(words[3]) + 1, 4 * width * height * channels
    if len(data) - start < size:
        raise OSError(f"{path}: a damaged .pfm ({len(data) - start:,} bytes of numbers, not {size:,})")
    values = np.frombuffer(data, "<f4" if scale < 0 else ">f4", width * height * channels, start)
    return values.reshape(height, width, channels)[::-1].astype(np.float32)


def read_pfm_flow(path: str | Path) -> np.ndarray:
    """Flow of a .pfm of three channels, whose last is not used."""
    values = read_pfm(path)
    if values.shape[2] != 3:
        raise OSError(f"{path}: a .pfm of one channel, where flow has two and a spare one")
    flow = values[..., :2].copy()
    return unless(np.isfinite(flow).all(-1), flow)


def write_pfm(path: str | Path, values: np.ndarray) -> None:
    """Writes float32 [H, W, 1 or 3], or flow [H, W, 2] with a spare channel, little-endian."""
    height, width, channels = values.shape
    if channels == 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], -1)
    head = f"{'Pf' if channels == 1 else 'PF'}\n{width} {height}\n-1.0\n".encode()
    write_bytes(path, head + values[::-1].astype("<f4").tobytes())


def read_kitti(path: str | Path) -> np.ndarray:
    """Flow of KITTI's PNG: red and green are 64 times x and y, beside 2^15; blue is 0 where it is not known."""
    values = read_png16(path)
    if values.shape[2] != 3:
        raise OSError(f"{path}: a PNG of {values.shape[2]} channels, where KITTI's flow has three")
    flow = (values[..., :2].astype(np.float32) - KITTI_ZERO) * KITTI_STEP
    return unless(values[..., 2] > 0, flow)


def kitti(flow: np.ndarray) -> bytes:
    """KITTI's PNG; what is beyond 512 pixels is cut, as in its development kit."""
    there = ~np.isnan(flow).any(-1, keepdims=True)
    steps = np.clip(np.nan_to_num(flow) / KITTI_STEP + KITTI_ZERO, 0, 2**16 - 1)
    values = np.concatenate([np.rint(steps), np.ones_like(steps[..., :1])], -1)
    return png16(np.where(there, values, 0).astype(np.uint16))


def write_kitti(path: str | Path, flow: np.ndarray) -> None:
    """Writes KITTI's PNG as `kitti` makes it."""
    write_bytes(path, kitti(flow))


def read_marks(path: str | Path) -> np.ndarray:
    """bool [H, W]: which pixels of a mask are set: Sintel's occlusions and invalid pixels, or a map of objects."""
    with open_image(path, path) as image:
        return np.asarray(image.convert("L")) > 0
