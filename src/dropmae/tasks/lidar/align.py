"""Where remembered points of an object fit a scan best: shift and turn by correlation, from above, in layers of height.

The object's points are laid on a grid at several turns and correlated with a blurred grid of the scan's points, all
shifts at once by FFT. A fit near the expected place is preferred. It learns nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CELLS = 96
"""Cells along the side of the grid."""
LAYERS = 3
"""Of height, between bottom and top of the box."""
GROUND = 0.2
"""Metres above the bottom of the box below which points are taken for the ground's."""
TURNS = np.radians([-10.0, -6.0, -3.0, 0.0, 3.0, 6.0, 10.0])
BLUR = np.array([0.3, 0.75, 1.0, 0.75, 0.3])
"""How much a point counts in cells beside its own."""


PLACE = (0.03, 0.03, 1.0)
"""Metres that a good fit is off by, x y z: nearest points are of other beams, which says little of the height."""
YAW = 0.2
"""Radians that a good fit of something a metre long is off by."""


class Fit(NamedTuple):
    """How remembered points lie on a scan's."""

    offset: np.ndarray
    """float64 [4]: x y z, yaw, in the axes of the expected box."""
    share: float
    """Of the remembered points, how many lie on points of the scan, in [0, 1]."""
    count: int
    """Remembered points that it rests on."""

    def doubt(self, length: float) -> np.ndarray:
        """float64 [4]: standard deviation of the offset of a box of that length."""
        return np.array([*PLACE, YAW / length]) / max(self.share, 0.01) * (1 + 5 / self.count)


def layers(points: np.ndarray, height: float) -> np.ndarray:
    """int64 [P]: the layer of points [P, 3] in the axes of a box; -1 for the ground and what is above the box."""
    share = (points[:, 2] + height / 2) / height
    made = np.floor(np.clip(share, 0, 0.999) * LAYERS).astype(np.int64)
    return np.where((points[:, 2] > GROUND - height / 2) & (share < 1.1), made, -1)


def laid(points: np.ndarray, layer: np.ndarray, cell: float) -> np.ndarray:
    """float64 [LAYERS, CELLS, CELLS]: how many points lie in each cell."""
    place = np.floor(points[:, :2] / cell).astype(np.int64) + CELLS // 2
    there = (layer >= 0) & (place >= 0).all(1) & (place < CELLS).all(1)
    index = (layer[there] * CELLS + place[there, 0]) * CELLS + place[there, 1]
    return np.bincount(index, minlength=LAYERS * CELLS**2).reshape(LAYERS, CELLS, CELLS).astype(np.float64)


def fit(
    query: np.ndarray, model: np.ndarray, height: float, reach: float, guess: np.ndarray, spread: float, prior: float
) -> Fit | None:
    """Where points `model` [M, 3], in the axes of the box, fit `query` [Q, 3]; None where either has too few.

    A fit `spread` metres away from the `guess` x y z yaw [4], or 5 degrees turned, counts `prior` less.
    """
    cell = 2 * reach / CELLS
    own, near = layers(model, height), layers(query, height)
    count = int((own >= 0).sum())
    if count < 3 or (near >= 0).sum() < 3:
        return None
    field = (laid(query, near, cell) > 0).astype(np.float64)
    for axis in (1, 2):
        field = np.max([weight * np.roll(field, step, axis) for step, weight in zip(range(-2, 3), BLUR)], 0)
    seen = np.fft.rfft2(field)
    scores = np.empty((len(TURNS), CELLS, CELLS))
    for row, turn in enumerate(TURNS + guess[3]):
        grid = laid(turned(model, turn), own, cell)
        scores[row] = np.fft.irfft2((seen * np.conj(np.fft.rfft2(grid))).sum(0), (CELLS, CELLS)) / count
    steps = np.fft.fftfreq(CELLS, 1 / CELLS) * cell
    away = (steps[:, None] - guess[0]) ** 2 + (steps[None] - guess[1]) ** 2
    cost = prior * np.minimum(away / spread**2, 25) + prior * (TURNS[:, None, None] / np.radians(5)) ** 2
    total = scores - cost
    turn, x, y = np.unravel_index(total.argmax(), total.shape)
    place = [peak(total[turn, :, y], int(x)) * cell, peak(total[turn, x], int(y)) * cell]
    yaw = guess[3] + TURNS[turn]
    offset = np.array([(one + reach) % (2 * reach) - reach for one in place] + [0.0, yaw])
    return settled(query[near >= 0], turned(model[own >= 0], yaw), offset, guess[2], float(scores[turn, x, y]), cell)


def turned(points: np.ndarray, angle: float) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    x, y = points[:, 0], points[:, 1]
    return np.column_stack([x * cosine - y * sine, x * sine + y * cosine, points[:, 2]])


def peak(line: np.ndarray, at: int) -> float:
    """Where a parabola through a largest value and its neighbours has its top."""
    before, here, after = line[at - 1], line[at], line[(at + 1) % len(line)]
    bend = before - 2 * here + after
    return at + (0.5 * (before - after) / bend if bend < 0 else 0.0)


def settled(query: np.ndarray, model: np.ndarray, offset: np.ndarray, rise: float, share: float, cell: float) -> Fit:
    """The fit with what is left between nearest points taken out, and their difference in height."""
    some = model[:: max(1, len(model) // 128)]
    far = query[(np.abs(query[:, :2] - offset[:2]) < np.abs(model[:, :2]).max(0) + 0.5).all(1)]
    far = far[:: max(1, len(far) // 512)]
    for _ in range(2):
        if not len(far):
            break
        gap = far[None] - (some + np.append(offset[:2], rise))[:, None]
        square = (gap**2).sum(2)
        nearest = square.argmin(1)
        close = square[np.arange(len(some)), nearest] < (3 * cell) ** 2
        if close.sum() < 3:
            break
        left = gap[np.arange(len(some)), nearest][close]
        offset[:2] += left[:, :2].mean(0)
        rise += float(np.clip(np.median(left[:, 2]), -0.1, 0.1))
    offset[2] = rise
    return Fit(offset, min(share, 1.0), len(model))
