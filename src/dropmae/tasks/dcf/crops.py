"""Where in a frame an object is looked for that is lost from sight."""

from __future__ import annotations

import math

import numpy as np

from dropmae.tasks._crops import FILL as FILL
from dropmae.tasks._crops import Region as Region
from dropmae.tasks._crops import cut as cut
from dropmae.tasks._crops import region as region


def tiles(frame: tuple[int, int], side: float, near: np.ndarray) -> np.ndarray:
    """float64 [K, 2]: centres of squares of this side that cover a frame of this height and width.

    Neighbours overlap by a third; those near the point x, y come first.
    """
    axes = []
    for length in (frame[1], frame[0]):
        count = max(1, math.ceil((length - side / 3) / (side * 2 / 3)))
        axes.append((np.arange(count) + 0.5) * length / count)
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    return grid[np.argsort(((grid - near) ** 2).sum(1), kind="stable")]
