"""Numbers of optical flow: end-point errors and outliers, as sums that can be added up over pictures.

Different evaluators add up differently: over all pixels of a data set, or picture by picture. `errors` makes the sums
of one picture, `numbers` shares and means of sums; who adds is up to the benchmark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

THRESHOLDS = (1.0, 3.0, 5.0)
"""Pixels beyond which errors are counted."""
SPEEDS = {"s0-10": (0, 10), "s10-40": (10, 40), "s40+": (40, np.inf)}
"""Sintel's classes of pixels by how far they truly move; s10-40 holds both its ends."""


def errors(
    true: np.ndarray, found: np.ndarray, where: Any = None, limits: tuple[float, ...] = THRESHOLDS
) -> np.ndarray:
    """float64 [3 + limits] of flow [H, W, 2]: pixels of which the truth is known, the sum of their errors, outliers,
    and pixels whose error is beyond each of `limits`.

    Outliers are off by more than 3 pixels and 5 %, both strictly, as KITTI counts. Only pixels of `where` count, bool
    [H, W]. Where a pixel of `found` is NaN it says that nothing moves. ValueError where sizes differ.
    """
    if found.shape != true.shape:
        raise ValueError(f"flow of {found.shape[:2]} for a video of {true.shape[:2]}")
    known = ~np.isnan(true).any(-1)
    known = known if where is None else known & where
    true, found = true[known].astype(np.float64), np.nan_to_num(found[known].astype(np.float64))
    error, length = np.linalg.norm(found - true, axis=-1), np.linalg.norm(true, axis=-1)
    outliers = (error > 3) & (error > 0.05 * length)
    return np.array([len(error), error.sum(), outliers.sum(), *((error > limit).sum() for limit in limits)], np.float64)


def by_speed(true: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """`errors` of the pixels of each class of `SPEEDS`."""
    speed = np.linalg.norm(np.nan_to_num(true), axis=-1)
    parts = {"s0-10": speed < 10, "s10-40": (speed >= 10) & (speed <= 40), "s40+": speed > 40}
    return {name: errors(true, found, part) for name, part in parts.items()}


def lands_inside(flow: np.ndarray) -> np.ndarray:
    """bool [H, W]: pixels whose goal lies between the centres of the first and the last row and column."""
    height, width = flow.shape[:2]
    x, y = np.arange(width) + flow[..., 0], np.arange(height)[:, None] + flow[..., 1]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def numbers(totals: np.ndarray, limits: tuple[float, ...] = THRESHOLDS) -> dict[str, float | None]:
    """`epe`, the mean error in pixels, `outliers`, and `over_Npx`, of summed `errors`; None where no pixel counts."""
    names = ("epe", "outliers", *(f"over_{limit:g}px" for limit in limits))
    return {name: float(total / totals[0]) if totals[0] else None for name, total in zip(names, totals[1:])}


def mean(rows: Iterable[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Means of `numbers`, each over the pictures that have it."""
    listed = list(rows)
    found: dict[str, float | None] = {}
    for name in dict.fromkeys(key for row in listed for key in row):
        values = [value for row in listed if (value := row.get(name)) is not None]
        found[name] = float(np.mean(values)) if values else None
    return found
