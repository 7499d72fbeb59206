"""Boxes and plane homographies. Coordinates are (x, y) in pixels with pixel centres at +0.5; boxes are x y w h."""

from __future__ import annotations

import numpy as np
import torch


def corners(boxes: np.ndarray) -> np.ndarray:
    """x0, y0, x1, y1 of boxes [..., 4]."""
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)


def matrices(first: np.ndarray, *rows: tuple[int, int, np.ndarray]) -> np.ndarray:
    """Identity matrices [n, 3, 3], one per element of `first`, with some entries replaced by values [n]."""
    made = np.tile(np.eye(3), (len(first), 1, 1))
    for row, column, values in rows:
        made[:, row, column] = values
    return made


def shifts(positions: np.ndarray) -> np.ndarray:
    """Translations [n, 3, 3] by [n, 2]."""
    x, y = positions[:, 0], positions[:, 1]
    return matrices(x, (0, 2, x), (1, 2, y))


def turns(angles: np.ndarray) -> np.ndarray:
    """Rotations [n, 3, 3] from the x towards the y axis, which is clockwise in a picture."""
    cos, sin = np.cos(angles), np.sin(angles)
    return matrices(angles, (0, 0, cos), (0, 1, -sin), (1, 0, sin), (1, 1, cos))


def scales(factors: np.ndarray) -> np.ndarray:
    """Scalings [n, 3, 3] about the origin."""
    return matrices(factors, (0, 0, factors), (1, 1, factors))


def tilts(about_x: np.ndarray, about_y: np.ndarray, depth: float) -> np.ndarray:
    """Homographies [n, 3, 3] of the plane turned out of the picture about its axes; `depth` is 1 / viewing distance."""
    return matrices(
        about_x,
        (0, 0, np.cos(about_y)),
        (1, 1, np.cos(about_x)),
        (2, 0, depth * np.sin(about_y)),
        (2, 1, depth * np.sin(about_x)),
    )


def transform(matrix: np.ndarray, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The homography [3, 3] applied to coordinates of any shapes that broadcast."""
    (a, b, c), (d, e, f), (g, h, _) = (matrix / matrix[2, 2]).tolist()
    new_x, new_y = x * a + (y * b + c), x * d + (y * e + f)
    if g or h:
        scale = 1 / (x * g + (y * h + 1))
        return new_x * scale, new_y * scale
    return new_x, new_y
