"""Small videos that several tests follow something in."""

from __future__ import annotations

import numpy as np

SQUARE = (20.0, 16.0, 24.0, 20.0)
"""x, y, w, h of the square in the first frame of `moving_square`."""


def moving_square(frames: int) -> np.ndarray:
    """uint8 [T, 72, 96, 3]: a bright square that moves over noise."""
    made = np.random.default_rng(0).integers(60, 120, (1, 72, 96, 3)).repeat(frames, 0).astype(np.uint8)
    for t in range(frames):
        made[t, 16 + t : 36 + t, 20 + 2 * t : 44 + 2 * t] = (240, 220, 40)
    return made
