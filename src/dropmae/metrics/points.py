"""Numbers of tracked points, as TAP-Vid has them."""

from __future__ import annotations

import numpy as np

DISTANCES = (1, 2, 4, 8, 16)
"""Pixels within which a tracked point counts as found (Doersch et al., TAP-Vid, NeurIPS 2022), here at the size of the
video."""


def numbers(distance: np.ndarray, visible: np.ndarray, seen: np.ndarray) -> dict[str, float]:
    """TAP-Vid's position accuracy, occlusion accuracy and average Jaccard, over all points and frames [K]."""
    visible, seen = visible > 0, seen > 0
    if not visible.any():
        return {}
    within, jaccards = {}, []
    for limit in DISTANCES:
        near = distance < limit
        within[f"points_within {limit}"] = float(near[visible].mean())
        true_positive = (near & visible & seen).sum()
        false_positive = (seen & ~(near & visible)).sum()
        jaccards.append(true_positive / (visible.sum() + false_positive))
    return {
        "points_accuracy": float(np.mean(list(within.values()))),
        "occlusion_accuracy": float((visible == seen).mean()),
        "average_jaccard": float(np.mean(jaccards)),
        **within,
    }
