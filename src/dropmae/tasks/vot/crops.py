"""Square crops around a box, as the trackers of the STARK and OSTrack line cut them out and go back from them.

What a trained network of theirs expects is kept to the pixel: the rounding of the corner, zeros beyond the frame (and
in its last row and column wherever a crop touches them), bilinear resampling without antialiasing in fixed point as
OpenCV does it, and centres that are carried over unrounded. The crop of any box has the size asked for: nothing is
padded in memory, so that neither a box far outside the frame nor one much larger changes shapes or fills the memory.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dropmae.ops.resampling import taps
from dropmae.tasks._prompts import describe


class Region(NamedTuple):
    """A square of whole pixels, which need not lie in the frame."""

    left: int
    top: int
    side: int


def region(box: np.ndarray, factor: float) -> Region:
    """The square around the centre of a box [4] whose area is about `factor`**2 times the box's.

    The side is ceil(sqrt(w h) factor), the corner rounded half to even. ValueError for a box that has no area.
    """
    x, y, w, h = (float(value) for value in box)
    if not (math.isfinite(x + y + w + h) and w > 0 and h > 0):
        raise ValueError(f"a box needs a place and a positive width and height, not {describe(box)}")
    side = max(1, math.ceil(math.sqrt(w * h) * factor))
    return Region(round(x + 0.5 * w - side * 0.5), round(y + 0.5 * h - side * 0.5), side)


def cut(frame: np.ndarray, place: Region, out: int) -> np.ndarray:
    """uint8 [out, out, 3]: the region of a frame uint8 [H, W, 3], resampled; zeros where there is no frame."""
    height, width = frame.shape[:2]
    columns, rows = seen(place.left, place.side, width), seen(place.top, place.side, height)
    if columns.start >= columns.stop or rows.start >= rows.stop:
        return np.zeros((out, out, 3), np.uint8)
    inside = frame[
        rows.start + place.top : rows.stop + place.top, columns.start + place.left : columns.stop + place.left
    ]
    if place.side == 2 * out:
        return halved(inside, rows, columns, out)
    first, second, a, b = taps(place.side, out, columns, clamped=True)
    top, bottom, c, d = taps(place.side, out, rows, clamped=False)
    if len(inside) > 2 * out:  # only the rows that are used
        used, place_of = np.unique(np.concatenate([top, bottom]), return_inverse=True)
        inside, top, bottom = inside[used], place_of[:out], place_of[out:]
    wide = inside.take(first, 1) * a[:, None] + inside.take(second, 1) * b[:, None]  # int32 [rows, out, 3]
    wide >>= 4
    mixed = (wide.take(top, 0) * c[:, None, None] >> 16) + (wide.take(bottom, 0) * d[:, None, None] >> 16)
    return ((mixed + 2) >> 2).astype(np.uint8)


def seen(start: int, side: int, length: int) -> range:
    """Which of the region's pixels along an axis show the frame: where it is cut off at the far end, one less."""
    return range(max(0, -start), side - max(0, start + side - length + 1))


def halved(inside: np.ndarray, rows: range, columns: range, out: int) -> np.ndarray:
    """A region of exactly twice the size: means of 2 x 2 pixels, to which OpenCV changes over by itself."""
    whole = np.zeros((2 * out, 2 * out, 3), np.uint16)
    whole[rows.start : rows.stop, columns.start : columns.stop] = inside
    total = whole[0::2, 0::2] + whole[0::2, 1::2] + whole[1::2, 0::2] + whole[1::2, 1::2]
    return ((total + 2) >> 2).astype(np.uint8)


def shown(place: Region, frame: tuple[int, int]) -> bool:
    """Whether the region shows anything of a frame of this height and width."""
    return all(bool(seen(start, place.side, length)) for start, length in zip((place.top, place.left), frame))


def into_crop(box: np.ndarray, around: np.ndarray, scale: float, out: int) -> np.ndarray:
    """float64 [4]: a box x y w h of the frame in the crop around the box `around`, in shares of the crop's side.

    `scale` is out / side of the region. The centre of `around` falls on (out - 1) / 2, half a pixel from where
    `from_crop` has it: both are as the official code trains and tracks.
    """
    centre = (out - 1) / 2 + (box[:2] + 0.5 * box[2:] - around[:2] - 0.5 * around[2:]) * scale
    size = box[2:] * scale
    return np.concatenate([centre - 0.5 * size, size]) / out


def from_crop(found: np.ndarray, around: np.ndarray, scale: np.ndarray, out: int) -> np.ndarray:
    """float64 [N, 4]: boxes x y w h of the frame from centres and sizes [N, 4] in shares of the crops' sides.

    `around` [N, 4] are the boxes that the crops were cut around, `scale` [N] is out / side of each.
    """
    found = found * (out / scale)[:, None]
    centre = found[:, :2] + around[:, :2] + 0.5 * around[:, 2:] - 0.5 * (out / scale)[:, None]
    return np.concatenate([centre - 0.5 * found[:, 2:], found[:, 2:]], 1)


def clip_boxes(boxes: np.ndarray, frame: tuple[int, int], margin: int) -> np.ndarray:
    """float64 [N, 4]: boxes cut to a frame of this height and width, each side at least `margin` pixels long."""
    size = np.array([frame[1], frame[0]], np.float64)
    least = np.minimum(margin, size)
    low = np.clip(boxes[:, :2], 0, size - least)
    high = np.clip(boxes[:, :2] + boxes[:, 2:], least, size)
    return np.concatenate([low, np.maximum(high - low, least)], 1)
