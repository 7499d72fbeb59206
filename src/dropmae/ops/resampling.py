"""Frames, label maps and soft labels brought to other sizes by the rules of different image libraries.

Nearest means two things: the pixel under the middle of the new one ("centre": Pillow) or under its upper left corner
("corner": OpenCV). Bilinear interpolation is OpenCV's, without antialiasing, of floats or as it rounds bytes, and
bicubic is Pillow's, with it.
"""

from __future__ import annotations

import math
import re
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Nearest = Literal["centre", "corner"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "bytes"]
BITS = 11
"""Fractional bits of an interpolation weight in OpenCV's bilinear resampling of bytes."""
CHANNELS = 16
"""Maps that are brought to full size at a time."""


def input_size(
    size: tuple[int, int], rule: str, patch: int, multiple: int, rounding: Literal["floor", "nearest", "ceil"]
) -> tuple[int, int]:
    """Height and width of a network's input for a frame of `size`, by a rule.

    "480x880" is height by width; "short480" and "long880" give one side and keep the aspect; "native" keeps the size.
    A side that is given is rounded to a multiple of the patch, one that follows from it to a multiple of `multiple`
    (0, or no multiple of the patch: the patch). ValueError for any other rule.
    """
    step = multiple if multiple and multiple % patch == 0 else patch

    def rounded(side: float, step: int) -> int:
        how = {"floor": math.floor, "nearest": round, "ceil": math.ceil}[rounding]
        return max(1, how(side / step)) * step

    if rule == "native":
        return rounded(size[0], step), rounded(size[1], step)
    if match := re.fullmatch(r"(\d+)x(\d+)", rule):
        return rounded(int(match[1]), patch), rounded(int(match[2]), patch)
    if match := re.fullmatch(r"(short|long)(\d+)", rule):
        given = rounded(int(match[2]), patch)
        tall = size[0] > size[1]
        if tall == (match[1] == "long"):
            return given, rounded(size[1] * given / size[0], step)
        return rounded(size[0] * given / size[1], step), given
    raise ValueError(f"resize is 480x880 (height x width), short480, long880 or native, not {rule!r}")


def resize_frames(frames: Tensor, size: tuple[int, int], how: Interpolation) -> Tensor:
    """Frames float [B, C, H, W] at another size; those that `resize_bytes` has made have it already."""
    if frames.shape[2:] == size:
        return frames
    assert how != "bytes"
    if how == "nearest":
        return functional.interpolate(frames, size, mode="nearest-exact")
    return functional.interpolate(frames, size, mode=how, align_corners=False, antialias=how == "bicubic")


def resize_bytes(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame uint8 [H, W, 3] at another size, bilinear in OpenCV's fixed point: the same bytes as its `resize`."""
    height, width = frame.shape[:2]
    if (height, width) == size:
        return frame
    if (height, width) == (2 * size[0], 2 * size[1]):  # then it takes means, by itself
        fours = frame.astype(np.uint16).reshape(size[0], 2, size[1], 2, -1).sum((1, 3), dtype=np.uint16)
        return ((fours + 2) >> 2).astype(np.uint8)
    first, second, a, b = taps(width, size[1], range(width), clamped=True)
    top, bottom, c, d = taps(height, size[0], range(height), clamped=False)
    used, place = np.unique(np.concatenate([top, bottom]), return_inverse=True)
    rows = frame[used]
    wide = (rows.take(first, 1) * a[:, None] + rows.take(second, 1) * b[:, None]) >> 4  # int32 [rows, w, 3]
    upper, lower = (wide.take(part, 0) for part in (place[: size[0]], place[size[0] :]))
    mixed = (upper * c[:, None, None] >> 16) + (lower * d[:, None, None] >> 16)
    return ((mixed + 2) >> 2).astype(np.uint8)


def taps(side: int, out: int, valid: range, *, clamped: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Both source pixels of each of `out` pixels, counted from the first valid one, and their weights int32 [out].

    The weight of a pixel that is not valid is 0. Beyond the ends OpenCV repeats the last pixel: with the weight moved
    to it (`clamped`, along rows) or with both weights as they are (along columns), which rounds differently.
    """
    position = ((np.arange(out) + 0.5) * (side / out) - 0.5).astype(np.float32)
    low = np.floor(position).astype(np.int64)
    share = position - low.astype(np.float32)
    if clamped:
        share[(low < 0) | (low >= side - 1)] = 0
    one = np.float32(1 << BITS)
    weights = [np.rint((np.float32(1) - share) * one), np.rint(share * one)]
    picks = [np.clip(low, 0, side - 1), np.clip(low + 1, 0, side - 1)]
    found = []
    for pick, weight in zip(picks, weights):
        there = (pick >= valid.start) & (pick < valid.stop)
        index = np.clip(pick, valid.start, valid.stop - 1) - valid.start
        found.append((index, np.where(there, weight, 0).astype(np.int32)))
    return found[0][0], found[1][0], found[0][1], found[1][1]


def nearest_labels(labels: Tensor, size: tuple[int, int], nearest: Nearest) -> Tensor:
    """A label map int64 [H, W] at another size."""
    mode = "nearest-exact" if nearest == "centre" else "nearest"
    return functional.interpolate(labels[None, None].double(), size, mode=mode)[0, 0].long()


def soft_labels(
    labels: Tensor, count: int, grid: tuple[int, int], size: tuple[int, int] | None, nearest: Nearest
) -> Tensor:
    """Soft labels float32 [h w, count] on a grid, from a label map int64 [H, W] of numbers below `count`.

    Without `size` each cell has the nearest pixel's label. With it the map is first brought to that size, and each
    cell has its labels' bilinear mixture.
    """
    if size is None:
        return functional.one_hot(nearest_labels(labels, grid, nearest), count).flatten(0, 1).float()
    labels = nearest_labels(labels, size, nearest)
    columns = [resize_frames((labels == number).float()[None, None], grid, "bilinear") for number in range(count)]
    return torch.cat(columns, 1)[0].flatten(1).T


def stretched(maps: Tensor) -> Tensor:
    """Maps [K, h, w], each brought to 0..1 by its own least and largest value, as DINO's script has it.

    One whose values differ by rounding alone stays as it is: that of an object that fills the frame, say.
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high - low > 1e-6, (maps - low) / (high - low), maps)


def hard_labels(
    maps: Tensor,
    size: tuple[int, int],
    *,
    upsample: Literal["bilinear", "nearest"],
    stretch: bool,
) -> Tensor:
    """int64 [*size]: which of the maps [K, h, w] is largest at every pixel of another size, the first of equals.

    With `stretch` each map is `stretched` first, at the new size.
    """
    best = maps.new_full(size, -torch.inf)
    winner = torch.zeros(size, dtype=torch.int64, device=maps.device)
    for first in range(0, len(maps), CHANNELS):
        part = maps[None, first : first + CHANNELS]
        if upsample == "nearest":
            large = functional.interpolate(part, size, mode="nearest")[0]
        else:
            large = resize_frames(part, size, "bilinear")[0]
        if stretch:
            large = stretched(large)
        values, number = large.max(0)
        winner = torch.where(values > best, number + first, winner)
        best = torch.maximum(best, values)
    return winner
