"""Training pairs for trackers: which two frames of a labelled sequence, and how the crop around the box is jittered.

As OSTrack and DropTrack sample them ("causal": the template is the earlier frame).
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from dropmae.data.boxtracks import BoxTracks as BoxTracks
from dropmae.data.boxtracks import boxes_of as boxes_of
from dropmae.data.boxtracks import tracks_of as tracks_of

WIDEN = 5
"""Frames by which the search for a second frame is extended each time that none is found."""


def causal_pair(frames: np.ndarray, gap: int, rng: np.random.Generator) -> tuple[int, int]:
    """Positions in `frames` [n] (ascending, in which the object is seen) of a template and a later search frame.

    The template is uniform over all frames but the last; the search frame uniform over those less than `gap` later, or
    less than gap + 5, + 10, ... where there is none. A single frame is both, as for data sets of images.
    """
    if len(frames) == 1:
        return 0, 0
    first = int(rng.integers(len(frames) - 1))
    wait = int(frames[first + 1] - frames[first])
    reach = gap if wait < gap else gap + WIDEN * (-(-(wait + 1 - gap) // WIDEN))
    last = int(np.searchsorted(frames, frames[first] + reach)) - 1
    return first, int(rng.integers(first + 1, last + 1))


def jittered(box: np.ndarray, centre: float, scale: float, rng: np.random.Generator) -> np.ndarray:
    """float64 [4]: `box` with its sides scaled by exp(scale N(0, 1)), and its centre moved along each axis.

    The move is uniform within +- `centre` / 2 times the square root of the new area.
    """
    size = box[2:] * np.exp(rng.standard_normal(2) * scale)
    middle = box[:2] + 0.5 * box[2:] + np.sqrt(size.prod()) * centre * (rng.random(2) - 0.5)
    return np.concatenate([middle - 0.5 * size, size])


def adjusted(crop: np.ndarray, box: np.ndarray, flip: bool, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """A crop uint8 [s, s, 3] as [3, s, s], flipped or not, its brightness scaled; and the box [4] within it."""
    bright = np.clip(np.arange(256) * gain + 0.5, 0, 255).astype(np.uint8)[crop[:, ::-1] if flip else crop]
    if flip:
        box = np.array([1 - box[0] - box[2], *box[1:]])
    return np.ascontiguousarray(bright.transpose(2, 0, 1)), box.astype(np.float32)


def coarsened(crop: np.ndarray, factor: float) -> np.ndarray:
    """A square crop uint8 [s, s, 3] with the detail that is left of it in s / `factor` pixels, at its own size."""
    side = len(crop)
    small = Image.fromarray(crop).resize((max(1, round(side / factor)),) * 2, Image.Resampling.BOX)
    return np.asarray(small.resize((side, side), Image.Resampling.BILINEAR))


def smeared(crop: np.ndarray, length: float, angle: float) -> np.ndarray:
    """A square crop uint8 [s, s, 3] blurred along a line of `length` (in sides) at `angle` (radians), about its middle.

    The border is repeated beyond the crop.
    """
    side = len(crop)
    reach = round(length * side / 2)
    if reach == 0:
        return crop
    steps = np.arange(-reach, reach + 1)
    total = np.zeros(crop.shape, np.int64)
    for column, row in zip(np.rint(steps * math.cos(angle)).astype(int), np.rint(steps * math.sin(angle)).astype(int)):
        rows, columns = (np.clip(np.arange(side) + by, 0, side - 1) for by in (row, column))
        total += crop[rows][:, columns]
    return ((total + reach) // len(steps)).astype(np.uint8)
