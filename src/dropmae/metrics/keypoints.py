"""Percentage of correct keypoints (PCK), as the JHMDB and BADJA evaluations compute it.

Positions are [T, J, 2] (frames, joints, x y) in pixels, in one and the same convention for prediction and truth.
"""

from __future__ import annotations

import math

import numpy as np


def person_size(truth: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """float64 [T]: 0.6 times the diagonal of the box around the counted joints [T, J] of each frame.

    The size that errors on JHMDB are divided by. Frames without a counted joint have none to divide; theirs is NaN.
    """
    low = truth.min(axis=1, initial=1e6, where=counted[..., None])
    high = truth.max(axis=1, initial=-1, where=counted[..., None])
    size = 0.6 * np.linalg.norm(high - low, axis=-1)
    return np.where(counted.any(1), size, np.nan)


def joint_errors(prediction: np.ndarray, truth: np.ndarray, size: np.ndarray, counted: np.ndarray) -> list[np.ndarray]:
    """Per joint, its distances to the truth divided by `size` [T], over the frames in which it is counted [T, J].

    A prediction of NaN is infinitely far away.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.linalg.norm(prediction - truth, axis=-1) / size[:, None]
    error = np.where(np.isnan(error), np.inf, error)
    return [error[counted[:, joint], joint] for joint in range(truth.shape[1])]


def pck(errors: list[np.ndarray], threshold: float) -> list[float]:
    """Per joint, the share of errors of at most `threshold`; NaN for a joint that was never counted."""
    return [float(np.mean(values <= threshold)) if len(values) else math.nan for values in errors]


def mean_pck(errors: list[np.ndarray], threshold: float) -> float:
    """The plain mean of `pck` over joints, those that were never counted left out; NaN where that leaves none."""
    shares = [share for share in pck(errors, threshold) if not math.isnan(share)]
    return float(np.mean(shares)) if shares else math.nan


def within(prediction: np.ndarray, truth: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """bool [T, J]: whether predictions lie less than `limit` [T] pixels from the truth (BADJA's rule; NaN does not)."""
    with np.errstate(invalid="ignore"):
        return np.linalg.norm(prediction - truth, axis=-1) < limit[:, None]
