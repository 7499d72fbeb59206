"""Numbers of optical flow: end-point error and outliers, as KITTI counts them."""

from __future__ import annotations

import numpy as np


def errors(true: np.ndarray, found: np.ndarray) -> np.ndarray:
    """float64 [3] of flow [H, W, 2]: pixels of which the truth is known, the sum of their errors, and outliers.

    Those are off by more than 3 pixels and 5 %. Where a pixel of `found` is NaN it says that nothing moves.
    """
    known = ~np.isnan(true[..., 0])
    error = np.linalg.norm(np.nan_to_num(found) - true, axis=-1)[known]
    length = np.linalg.norm(true, axis=-1)[known]
    return np.array([len(error), error.sum(dtype=np.float64), ((error > 3) & (error > 0.05 * length)).sum()])


def numbers(totals: np.ndarray) -> dict[str, float]:
    """Share of outliers and mean end-point error of summed `errors`."""
    return {"flow_outliers": float(totals[2] / totals[0]), "pixels flow_epe": float(totals[1] / totals[0])}
