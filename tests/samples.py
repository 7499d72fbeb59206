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


def moving_squares(number: int, frames: int = 12, side: int = 48) -> np.ndarray:
    """uint8 [T, side, side, 3]: a random texture with a random square that moves over it."""
    rng = np.random.default_rng(number)
    background = rng.integers(0, 256, (side // 8, side // 8, 3)).repeat(8, 0).repeat(8, 1)
    square = rng.integers(0, 256, (4, 4, 3)).repeat(4, 0).repeat(4, 1)
    clip = np.repeat(background[None], frames, 0).astype(np.uint8)
    x, y = rng.integers(0, side - 16, 2)
    dx, dy = rng.integers(-3, 4, 2)
    for t in range(frames):
        left, top = (x + dx * t) % (side - 16), (y + dy * t) % (side - 16)
        clip[t, top : top + 16, left : left + 16] = square
    return clip
