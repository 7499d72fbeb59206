"""Region similarity J, contour accuracy F and mIoU of label maps, equal to the official evaluators to the last digits.

J and F are those of Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation",
CVPR 2016, in the form that the DAVIS-2017 evaluation gives them. Masks here are bool [H, W]; label maps hold one
non-negative integer per pixel. Every function is pure and needs NumPy only.
"""

from __future__ import annotations

import math

import numpy as np


def jaccard(prediction: np.ndarray, truth: np.ndarray, void: np.ndarray | None = None) -> float:
    """J = |A and B| / |A or B| of two masks [H, W] outside `void`; 1 where both are empty."""
    prediction, truth = _binary(prediction, truth, void)
    union = np.count_nonzero(prediction | truth)
    return np.count_nonzero(prediction & truth) / union if union else 1.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """bool [H, W]: pixels that differ from the neighbour to the right, below, or below and right.

    So a contour is one pixel wide and lies half a pixel towards the origin. The last row looks only to the right,
    the last column only down, and the last pixel is never part of a contour.
    """
    edge = np.zeros(mask.shape, bool)
    edge[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def tolerance_radius(height: int, width: int, tolerance: float = 0.008) -> int:
    """Pixels by which two contours may lie apart and still match: a share of the image diagonal, rounded up.

    480x854 gives 8. A tolerance of 1 or more is taken as pixels.
    """
    return math.ceil(tolerance if tolerance >= 1 else tolerance * np.linalg.norm((height, width)))


def dilate(points: np.ndarray, radius: int) -> np.ndarray:
    """bool [H, W]: the pixels within `radius` of a set pixel (dx^2 + dy^2 <= radius^2).

    The disc is a stack of horizontal runs that get longer towards its middle, so one widening copy of the map,
    or-ed in at each height, does the work of a general dilation in 4 * radius passes over contiguous memory.
    """
    height, width = points.shape
    pitch = width + radius  # the margin keeps a run that leaves one row from entering the next
    run = np.zeros((height, pitch), bool)
    run[:, :width] = points
    run = run.ravel()
    source = run.copy()
    grown = np.zeros_like(run)
    reach = 0
    for rise in range(radius, -1, -1):
        while (reach + 1) ** 2 + rise**2 <= radius**2:
            reach += 1
            run[reach:] |= source[:-reach]
            run[:-reach] |= source[reach:]
        shift = rise * pitch
        if shift == 0:
            grown |= run
        elif shift < grown.size:
            grown[shift:] |= run[:-shift]
            grown[:-shift] |= run[shift:]
    return grown.reshape(height, pitch)[:, :width]


def boundary_f(
    prediction: np.ndarray, truth: np.ndarray, void: np.ndarray | None = None, tolerance: float = 0.008
) -> float:
    """F = 2PR / (P + R) of the contours of two masks [H, W], matched within `tolerance_radius`.

    Precision is the share of predicted contour near a true one, recall the share of true contour near a predicted one.
    Both contours empty gives 1, exactly one empty gives 0. Void pixels are background in both masks.
    """
    prediction, truth = _binary(prediction, truth, void)
    height, width = prediction.shape
    radius = tolerance_radius(height, width, tolerance)
    either = prediction | truth
    rows, columns = np.flatnonzero(either.any(1)), np.flatnonzero(either.any(0))
    if not len(rows):
        return 1.0
    # Contours lie in the box of the masks or one pixel before it: all the rest of the image can be left out.
    box = slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)
    predicted, true = boundary(prediction[box]), boundary(truth[box])
    n_predicted, n_true = np.count_nonzero(predicted), np.count_nonzero(true)
    if not n_predicted and not n_true:
        return 1.0
    if not n_predicted or not n_true:
        return 0.0
    precision = np.count_nonzero(predicted & dilate(true, radius)) / n_predicted
    recall = np.count_nonzero(true & dilate(predicted, radius)) / n_true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _binary(prediction: np.ndarray, truth: np.ndarray, void: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    assert prediction.shape == truth.shape, f"prediction {prediction.shape}, truth {truth.shape}"
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    if void is not None and void.any():
        prediction, truth = prediction & ~void, truth & ~void
    return prediction, truth


def statistics(values: np.ndarray, uint8_decay: bool = False) -> tuple[float, float, float]:
    """Mean, recall and decay of one object's values [frames]; NaN where there is nothing to average.

    Recall is the share of frames above (not at) 0.5. Decay is the mean of the first quarter of the frames minus that of
    the last one, where the quarters share their end frames. The official code keeps the ends of the quarters in uint8,
    so beyond 256 frames they wrap around and the decay is that of other frames, or NaN; `uint8_decay` does the same.
    """
    values = np.asarray(values, float)
    if not len(values):
        return math.nan, math.nan, math.nan
    ends = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(np.int64)
    if uint8_decay:
        ends &= 255
    first, last = values[ends[0] : ends[1] + 1], values[ends[3] : ends[4] + 1]
    decay = float(first.mean() - last.mean()) if len(first) and len(last) else math.nan
    return float(values.mean()), float((values > 0.5).mean()), decay


def assign(scores: np.ndarray) -> np.ndarray:
    """int64 [K]: for each of K objects its own row of `scores` [P, K] (P >= K), so that the sum is largest.

    Hungarian algorithm by shortest augmenting paths (Kuhn 1955; Jonker and Volgenant 1987).
    """
    cost = -np.asarray(scores, float).T  # [K, P]
    objects, proposals = cost.shape
    assert objects <= proposals, f"{objects} objects need at least as many proposals, not {proposals}"
    price_object, price = np.zeros(objects + 1), np.zeros(proposals + 1)
    owner = np.zeros(proposals + 1, np.int64)  # 1-based object of each proposal; 0 is free; entry 0 is the root
    for new in range(1, objects + 1):
        owner[0], column = new, 0
        slack, came = np.full(proposals + 1, np.inf), np.zeros(proposals + 1, np.int64)
        done = np.zeros(proposals + 1, bool)
        while owner[column]:
            done[column] = True
            row = owner[column]
            reduced = cost[row - 1] - price_object[row] - price[1:]
            better = ~done[1:] & (reduced < slack[1:])
            slack[1:][better], came[1:][better] = reduced[better], column
            following = 1 + int(np.argmin(np.where(done[1:], np.inf, slack[1:])))
            step = slack[following]
            price_object[owner[done]] += step
            price[done] -= step
            slack[~done] -= step
            column = following
        while column:
            owner[column] = owner[came[column]]
            column = came[column]
    rows = np.zeros(objects, np.int64)
    for proposal in range(1, proposals + 1):
        if owner[proposal]:
            rows[owner[proposal] - 1] = proposal - 1
    return rows


def confusion(prediction: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """int64 [classes, classes]: pixel counts of two label maps, truth down, prediction across.

    Pixels whose truth is no class (255, say) are left out. ValueError where a counted prediction is no class.
    """
    known = truth < classes
    truth, prediction = truth[known].astype(np.int64), prediction[known].astype(np.int64)
    if prediction.size and prediction.max() >= classes:
        raise ValueError(f"class {prediction.max()} in a prediction, but there are only 0..{classes - 1}")
    return np.bincount(truth * classes + prediction, minlength=classes**2).reshape(classes, classes)


def class_scores(matrix: np.ndarray) -> dict[str, float | list[float]]:
    """IoU per class and the usual summaries of a confusion matrix [C, C]; NaN for a class nobody has seen.

    `mean_iou` and `mean_accuracy` leave such classes out; `frequency_iou` weights each class by its true pixels.
    """
    matrix = np.asarray(matrix, float)
    correct, true = np.diag(matrix), matrix.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = correct / (true + matrix.sum(0) - correct)
        accuracy = correct / true
        share = true / true.sum()
        pixel = float(correct.sum() / true.sum())
    seen = true > 0
    return {
        "iou": iou.tolist(),
        "mean_iou": float(iou[~np.isnan(iou)].mean()) if (~np.isnan(iou)).any() else math.nan,
        "mean_accuracy": float(accuracy[seen].mean()) if seen.any() else math.nan,
        "pixel_accuracy": pixel,
        "frequency_iou": float((share[seen] * iou[seen]).sum()) if seen.any() else math.nan,
    }
