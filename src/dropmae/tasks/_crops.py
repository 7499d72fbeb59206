"""Square crops of a frame, and the way back from them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

FILL = (124, 116, 104)
"""The colour beyond the frame: the mean of ImageNet."""


class Region(NamedTuple):
    """A square of whole pixels, which need not lie in the frame."""

    left: int
    top: int
    side: int

    def inside(self, box: np.ndarray) -> np.ndarray:
        """float64 [4]: a box x y w h of the frame in shares of the square's side."""
        return (np.asarray(box, np.float64) - [self.left, self.top, 0, 0]) / self.side

    def outside(self, box: np.ndarray) -> np.ndarray:
        """float64 [4]: the way back."""
        return np.asarray(box, np.float64) * self.side + [self.left, self.top, 0, 0]


def region(centre: np.ndarray, side: float) -> Region:
    """The square of about this side around a point x, y."""
    whole = max(2, round(side))
    return Region(round(float(centre[0]) - whole / 2), round(float(centre[1]) - whole / 2), whole)


def cut(frame: np.ndarray, place: Region, out: int) -> np.ndarray:
    """uint8 [out, out, 3]: the region of a frame uint8 [H, W, 3], resampled with antialiasing.

    The edge of the frame falls on a whole pixel of the crop.
    """
    picture = np.empty((out, out, 3), np.uint8)
    picture[:] = FILL
    spans = []
    for start, length in ((place.top, frame.shape[0]), (place.left, frame.shape[1])):
        low, high = max(0, start), min(length, start + place.side)
        if low >= high:
            return picture
        first = min(math.floor((low - start) * out / place.side + 0.5), out - 1)
        last = max(math.floor((high - start) * out / place.side + 0.5), first + 1)
        spans.append((low, high, first, last))
    (y0, y1, v0, v1), (x0, x1, u0, u1) = spans
    part = torch.from_numpy(np.ascontiguousarray(frame[y0:y1, x0:x1])).permute(2, 0, 1)[None]
    made = functional.interpolate(part, (v1 - v0, u1 - u0), mode="bilinear", antialias=True)
    picture[v0:v1, u0:u1] = made[0].permute(1, 2, 0).numpy()
    return picture
