"""What a tracker's scores are worth: do they tell right boxes from wrong ones, and are they probabilities?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dropmae.metrics.boxes import iou

BINS = 15
"""Equal bins of the score in which it is compared with the share of right boxes."""


class Scored(NamedTuple):
    """One tracked object: a row for each frame after the first in which something is known of it."""

    boxes: np.ndarray
    """float64 [T, 4]: x y w h as reported, NaN where the tracker says that the object is not there."""
    scores: np.ndarray
    """float64 [T]: the tracker's confidence in them."""
    truth: np.ndarray
    """float64 [T, 4]: NaN where the object is absent, in which case no box is right."""


def auroc(scores: np.ndarray, right: np.ndarray) -> float:
    """Area under the receiver operating characteristic: how often one of the `right` [N] has the higher score [N].

    Equal scores count half. NaN where all or none are right.
    """
    right = np.asarray(right, bool)
    _, place, counts = np.unique(np.asarray(scores, np.float64), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positive, negative = int(right.sum()), int((~right).sum())
    if not positive or not negative:
        return float("nan")
    return float((ranks[right].sum() - positive * (positive + 1) / 2) / (positive * negative))


def calibration_error(scores: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: mean |share of right - mean score| of equal bins of [0, 1], weighted by their counts.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3. A score on an edge belongs to the bin
    below it. NaN without scores. ValueError for a score that is no probability.
    """
    scores, right = np.asarray(scores, np.float64), np.asarray(right, np.float64)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("a score is a probability in [0, 1]")
    if not len(scores):
        return float("nan")
    bin_of = np.clip(np.ceil(scores * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, scores - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(scores))


def confidence_numbers(tracks: Iterable[Scored]) -> dict[str, float]:
    """{"auroc_50", "auroc_30", "calibration_error", "scored_frames"} pooled over all frames of all tracks.

    A frame is right where the overlap exceeds 0.5 (0.3 for "auroc_30"); frames in which the object is absent, or no box
    is reported, are not. The calibration is that of the score as the probability of an overlap above 0.5. Frames
    without a score are left out.
    """
    overlaps, scores = [np.zeros(0)], [np.zeros(0)]
    for track in tracks:
        known = np.isfinite(track.scores)
        overlaps.append(np.nan_to_num(iou(track.boxes[known], track.truth[known])))
        scores.append(np.asarray(track.scores, np.float64)[known])
    overlap, score = np.concatenate(overlaps), np.concatenate(scores)
    return {
        "auroc_50": auroc(score, overlap > 0.5),
        "auroc_30": auroc(score, overlap > 0.3),
        "calibration_error": calibration_error(score, overlap > 0.5),
        "scored_frames": float(len(score)),
    }
