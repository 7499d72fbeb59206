"""Boxes x y w h against boxes: overlap, centre distance, and the curves that trackers are judged by.

Two forms of the overlap are in use. They are the same number for positive sizes but not the same float, and at the
threshold 1.0 that can be seen: the inclusive form counts pixels (right = x + w - 1, then + 1 again), the continuous
form measures edges. Each official evaluator has its own form, so both are here.
"""

from __future__ import annotations

import numpy as np

OVERLAPS = np.linspace(0, 1, 21)
"""Overlap thresholds 0, 0.05, ... 1 of the success plot."""
PIXELS = np.arange(51.0)
"""Centre distance thresholds 0, 1, ... 50 pixels of the precision plot."""
SHARES = np.arange(51) / 100
"""Thresholds 0, 0.01, ... 0.5 of the normalised precision plot, as shares of the object's width and height."""


def iou(a: np.ndarray, b: np.ndarray, *, inclusive: bool = False, eps: float = 0.0) -> np.ndarray:
    """float64 [N]: intersection over union of boxes a [N, 4] and b [N, 4], row by row.

    `eps` is added to the union of the continuous form, whose result is clipped to [0, 1]; the inclusive form is left
    as it comes, since its evaluators do so too. 0 / 0 is NaN.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    pixel = 1.0 if inclusive else 0.0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        low = np.maximum(a[:, :2], b[:, :2])
        high = np.minimum(a[:, :2] + a[:, 2:] - pixel, b[:, :2] + b[:, 2:] - pixel)
        sides = np.maximum(high - low + pixel, 0)
        shared = sides[:, 0] * sides[:, 1]
        union = a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3] - shared
        return shared / union if inclusive else np.clip(shared / (union + eps), 0.0, 1.0)


def centres(boxes: np.ndarray, pixel: float = -1.0) -> np.ndarray:
    """float64 [N, 2]: x + (w + pixel) / 2, y + (h + pixel) / 2.

    `pixel` is -1 in most evaluators and +1 in TrackingNet's; it cancels in a distance, up to rounding.
    """
    return boxes[:, :2] + (boxes[:, 2:] + pixel) / 2


def centre_distances(a: np.ndarray, b: np.ndarray, *, pixel: float = -1.0) -> np.ndarray:
    """float64 [N]: distance in pixels between the centres of a [N, 4] and b [N, 4]."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.sqrt(((centres(a, pixel) - centres(b, pixel)) ** 2).sum(1))


def normalised_distances(
    a: np.ndarray, b: np.ndarray, sizes: np.ndarray, *, pixel: float = -1.0, last: bool = False
) -> np.ndarray:
    """float64 [N]: centre distance in shares of an object's width and height, `sizes` [N, 2].

    Müller et al., TrackingNet, ECCV 2018, equation 1. inf or NaN where a size is 0. Most evaluators divide the centres
    and subtract then; with `last` the difference is divided, as TrackingNet does: with integer boxes distances fall on
    the thresholds, and the two roundings count them differently.
    """
    first, second = centres(a, pixel), centres(b, pixel)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if last:
            step = first - second
            return np.sqrt((step / sizes * step / sizes).sum(1))
        return np.sqrt(((first / sizes - second / sizes) ** 2).sum(1))


def success_counts(overlaps: np.ndarray, thresholds: np.ndarray = OVERLAPS, *, at_least: bool = False) -> np.ndarray:
    """float64 [len(thresholds)]: how many overlaps [N] are above (or `at_least`) each threshold. NaN never counts."""
    with np.errstate(invalid="ignore"):
        hits = overlaps[:, None] >= thresholds if at_least else overlaps[:, None] > thresholds
    return hits.sum(0).astype(np.float64)


def precision_counts(distances: np.ndarray, thresholds: np.ndarray = PIXELS) -> np.ndarray:
    """float64 [len(thresholds)]: how many distances [N] are at most each threshold. NaN never counts."""
    with np.errstate(invalid="ignore"):
        return (distances[:, None] <= thresholds).sum(0).astype(np.float64)


def clip_corner(boxes: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """Boxes [N, 4] cut to an image of `size` (W, H) the way GOT-10k's evaluator does it.

    The corner moves inside and the width is limited from there, so a box that begins left of the image keeps its width:
    (-10, 0, 50, 50) becomes (0, 0, 50, 50).
    """
    bound = np.asarray(size, np.float64)
    corner = np.clip(boxes[:, :2], 0, bound)
    return np.concatenate([corner, np.clip(boxes[:, 2:], 0, bound - corner)], 1)
