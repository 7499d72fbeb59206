"""What a tracker's scores are worth: do they tell right boxes from wrong ones, and are they probabilities?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from dropmae.metrics.boxes import iou
from dropmae.target import Target, empty

BINS = 15
"""Equal bins of the score in which it is compared with the share of right boxes."""


class Scored(NamedTuple):
    """One tracked object: a row for each annotated frame after the one in which it was given."""

    overlaps: np.ndarray
    """float64 [T]: of the reported box with the true one; 0 where the object is absent, or no box is reported."""
    scores: np.ndarray
    """float64 [T]: the tracker's confidence, NaN where it gave none."""


def scored(found: Mapping[int, Target], truth: Mapping[int, Target]) -> list[Scored]:
    """Each object's boxes and scores in `found`, {frame: answer}, beside those of `truth`, where that has boxes."""
    rows: dict[int, tuple[list[np.ndarray], list[np.ndarray], list[float]]] = {}
    for frame in sorted(truth):
        target, answer = truth[frame], found.get(frame) or empty()
        for object_id, (boxes, real, scores) in rows.items():
            place = np.flatnonzero(answer.ids == object_id)
            boxes.append(answer.box(object_id))
            real.append(target.box(object_id))
            scores.append(float(answer.scores[place[0]]) if answer.scores is not None and len(place) else np.nan)
        if target.boxes is not None:
            for object_id in target.ids[np.isfinite(target.boxes).all(1)].tolist():
                rows.setdefault(object_id, ([], [], []))
    return [
        Scored(np.nan_to_num(iou(np.stack(boxes), np.stack(real))), np.array(scores))
        for boxes, real, scores in rows.values()
        if boxes
    ]


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

    A frame is right where the overlap exceeds 0.5 (0.3 for "auroc_30"). The calibration is that of the score as the
    probability of an overlap above 0.5. Frames without a score are left out.
    """
    rows = [np.stack(track)[:, np.isfinite(track.scores)] for track in tracks]
    overlap, score = np.concatenate([np.zeros((2, 0)), *rows], 1)
    return {
        "auroc_50": auroc(score, overlap > 0.5),
        "auroc_30": auroc(score, overlap > 0.3),
        "calibration_error": calibration_error(score, overlap > 0.5),
        "scored_frames": float(len(score)),
    }
