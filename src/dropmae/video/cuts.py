"""Cuts: frames with which another scene begins."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image

SIDE, CELLS, LEVELS = 32, 2, 16
"""Frames are compared as SIDE x SIDE pixels, in CELLS x CELLS parts, by histograms of LEVELS levels a channel."""
LEAST = 0.085
"""Distance from which on two frames in a row are of different scenes. Within the scenes of 118 clips (13,700 frames)
the largest was 0.070; between the last frame of one clip and one of another 99 % of 2,000 were above 0.095."""


def signature(frame: np.ndarray) -> np.ndarray:
    """float64 [cells, 3, levels]: how the values of each channel are distributed in each part of a frame, cumulated."""
    step = max(1, min(frame.shape[:2]) // (3 * SIDE))
    small = Image.fromarray(np.ascontiguousarray(frame[::step, ::step])).resize((SIDE, SIDE), Image.Resampling.BOX)
    levels = np.asarray(small).astype(np.int64) * LEVELS // 256
    rows, columns = np.indices((SIDE, SIDE)) * CELLS // SIDE
    series = (rows * CELLS + columns)[..., None] * 3 + np.arange(3)
    counts = np.bincount((series * LEVELS + levels).ravel(), minlength=CELLS * CELLS * 3 * LEVELS)
    return counts.reshape(-1, 3, LEVELS).cumsum(-1) / (SIDE // CELLS) ** 2


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """How far two signatures are apart, in [0, 1]: the mean earth mover's distance of their histograms."""
    return float(np.abs(one - other).sum(-1).mean() / (LEVELS - 1))


class CutFinder:
    """Looks at the frames of a video in their order; says of each whether another scene begins with it."""

    def __init__(self) -> None:
        self.last: np.ndarray | None = None

    def cut(self, frame: np.ndarray) -> bool:
        """Whether a cut lies between the frame before and this one, uint8 [H, W, 3]."""
        before, self.last = self.last, signature(frame)
        return before is not None and distance(before, self.last) > LEAST


def cuts(frames: Iterable[np.ndarray]) -> list[int]:
    """The places of the frames with which another scene begins."""
    finder = CutFinder()
    return [place for place, frame in enumerate(frames) if finder.cut(frame)]
