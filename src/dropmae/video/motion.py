"""Motion vectors of the codec, as a map over the blocks of the frame."""

from __future__ import annotations

import numpy as np

BLOCK = 16
"""Side in pixels of a block of the map."""


def motion_map(
    vectors: np.ndarray, past: int, future: int, coded: tuple[int, int], turn: np.ndarray | None, size: tuple[int, int]
) -> np.ndarray:
    """float32 [h, w, 2]: displacement in pixels (x, y) since the frame before, mean over what covers each block.

    `vectors` are FFmpeg's, as a structured array; each points from its place in the frame to where the content was
    `past` frames before, or will be `future` frames later (then it is reversed, and used where nothing points back).
    `coded` is the coded (height, width), `turn` the rotation applied to it, `size` the (height, width) of the frame.
    Blocks without a vector are NaN.
    """
    back = vectors["source"] < 0
    span = np.where(back, past, -future)[:, None]
    moved = -np.stack([vectors["motion_x"], vectors["motion_y"]], 1).astype(np.float64)
    moved /= np.maximum(vectors["motion_scale"], 1)[:, None] * span
    places = np.stack([vectors["dst_x"], vectors["dst_y"]], 1).astype(np.float64)
    extent = np.array(coded[::-1], np.float64)
    if turn is not None:
        moved, places = moved @ turn, places @ turn - np.minimum(extent @ turn, 0)
        extent = abs(extent @ turn)
    zoom = np.array(size[::-1]) / extent
    moved, cells = moved * zoom, np.floor(places * zoom / BLOCK).astype(np.int64)
    h, w = (-(-side // BLOCK) for side in size)
    inside = (cells >= 0).all(1) & (cells < [w, h]).all(1)
    area = vectors["w"].astype(np.float64) * vectors["h"]
    flow = np.full((h * w, 2), np.nan, np.float32)
    for use in (inside & ~back, inside & back):
        cell = cells[use, 1] * w + cells[use, 0]
        weight = np.bincount(cell, area[use], h * w)
        known = weight > 0
        for axis in (0, 1):
            total = np.bincount(cell, area[use] * moved[use, axis], h * w)
            flow[known, axis] = total[known] / weight[known]
    return flow.reshape(h, w, 2)
