"""Numbers of tracked points, as TAP-Vid has them (Doersch et al., NeurIPS 2022)."""

from __future__ import annotations

from typing import Any

import numpy as np

DISTANCES = (1, 2, 4, 8, 16)
"""Pixels within which a tracked point counts as found: TAP-Vid's, of frames of 256 x 256."""


def numbers(squared: np.ndarray, visible: np.ndarray, seen: np.ndarray) -> dict[str, float]:
    """TAP-Vid's position accuracy, occlusion accuracy and average Jaccard, over points and frames of any shape.

    `squared` are squared distances in pixels, `visible` says what can be seen, and `seen` what was said to be.
    Empty where nothing can be seen.
    """
    visible, seen = visible > 0, seen > 0
    if not visible.any():
        return {}
    within, jaccards = {}, {}
    for limit in DISTANCES:
        near = squared < limit**2
        within[f"points_within {limit}"] = float(near[visible].mean())
        true_positive = (near & visible & seen).sum()
        false_positive = (seen & ~(near & visible)).sum()
        jaccards[f"jaccard {limit}"] = float(true_positive / (visible.sum() + false_positive))
    return {
        "delta": float(np.mean(list(within.values()))),
        "oa": float((visible == seen).mean()),
        "aj": float(np.mean(list(jaccards.values()))),
        **within,
        **jaccards,
    }


def returned(visible: np.ndarray, counted: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """bool [N, T]: those frames of `counted` [N, T] in which a point can be seen again, or has been before.

    Going from the frame in which it was asked for, `asked` [N], either way: from the first frame on that shows it
    after one that did not.
    """
    found = np.zeros_like(counted)
    for row, start in enumerate(asked.tolist()):
        for way in (slice(start, None), slice(start, None, -1)):
            gone = np.logical_or.accumulate(~visible[row, way])
            found[row, way] |= np.logical_or.accumulate(gone & visible[row, way])
    return found & counted


def averaged(rows: list[dict[str, float]]) -> dict[str, Any]:
    """The mean of each number over the rows that have it; "group name" becomes an entry `name` of `group`."""
    means: dict[str, Any] = {}
    for key in dict.fromkeys(name for row in rows for name in row):
        group, _, name = key.rpartition(" ")
        kept = means.setdefault(group, {}) if group else means
        kept[name] = float(np.mean([row[key] for row in rows if key in row]))
    return means
