"""One-pass evaluation as each reference evaluator really does it.

A tracker gets the first box, runs once through the video, and its boxes are compared with the ground truth frame by
frame: success (overlap), precision (centre distance) and normalised precision, first per sequence, then over sequences.
The evaluators in use agree on that much and differ in everything else: what a frame without the object counts, what
becomes of a box without area, how a number is read off a curve. A `Protocol` states those rules as data. The same
files scored under two protocols give two numbers, so a number without its protocol's name means little.

Rows are frames. Coordinates are the data set's own, since two of the rules look at x and y (`valid="positive"`) and
the others depend on rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dropmae.metrics import boxes as bx


@dataclass(frozen=True, kw_only=True, eq=False)
class Protocol:
    """The rules of one evaluator. `source` names the code whose numbers they give."""

    source: str
    inclusive: bool = True
    """Overlap by counting pixels, or (False) between edges, with `eps` added to the union."""
    eps: float = 0.0
    first: Literal["truth", "result"] = "truth"
    """What the first frame is scored with; it always counts."""
    repair: Literal["none", "any nan", "all nan", "zero"] = "none"
    """Which rows of a result are replaced by the row before: without area or with any / only NaN; or of zero size. A
    row of NaN and negative sizes are an error under "zero"."""
    long: Literal["cut", "error"] = "cut"
    """Results with more rows than the ground truth."""
    short: Literal["error", "miss", "zeros", "shrink"] = "error"
    """Results with fewer rows: an error; the frames without one are misses; or get boxes of zero size; or do not count
    at all."""
    valid: Literal["positive", "size", "all"] = "positive"
    """Ground truth that can be hit: x, y, w, h all above 0; w and h above 0; or every row."""
    valid_centre: bool = False
    """Whether the two distances look at the centre instead: valid where both its coordinates are above 0."""
    absent: Literal["ignore", "drop", "invalid", "miss"] = "ignore"
    """Frames flagged absent: not looked at; taken out of the counts but left in the denominator; as invalid ground
    truth; or invalid and a miss in both distances."""
    nan_truth: Literal["invalid", "error", "drop"] = "invalid"
    """Ground truth of NaN: invalid, an error, or taken out of counts and denominator."""
    invalid_distance: Literal["hit", "miss"] = "hit"
    """Centre distance where the ground truth is invalid: -1, which every threshold accepts, or inf. Its overlap is -1
    and its normalised distance -1 in every evaluator."""
    least_size: float = 0.0
    """Lower bound of the sizes that the normalised distance is divided by."""
    size_eps: float = 0.0
    """What is added to those sizes."""
    rounded: bool = False
    """Round every coordinate, of ground truth and result, half to even; centres are at x + (w + 1) / 2."""
    at_least: bool = False
    """Overlap >= threshold rather than > threshold: a perfect result reaches 1."""
    thresholds: tuple[np.ndarray, np.ndarray, np.ndarray] = (bx.OVERLAPS, bx.PIXELS, bx.SHARES)
    """Of success, precision and normalised precision."""
    area: bool = False
    """Report areas under the curves by the trapezoid rule (on an axis from 0 to 1), not means and single points."""
    norm_mean: bool = False
    """Report normalised precision as the mean of its curve, not at 0.20."""
    eps_length: bool = False
    """Divide by the number of frames plus the smallest double, as MATLAB code does."""
    drop_empty: bool = False
    """Leave sequences whose curve is zero throughout out of the mean over sequences."""


OTB = Protocol(
    source="OTB-100 MATLAB toolkit",
    repair="all nan",
    long="error",
    short="miss",
    eps_length=True,
    drop_empty=True,
)
LASOT = replace(OTB, source="LaSOT MATLAB toolkit", repair="any nan", long="cut", short="error", absent="drop")
TNL2K = replace(LASOT, source="TNL2K MATLAB toolkit")
UAV123 = replace(OTB, source="UAV123, which follows the OTB-100 MATLAB toolkit")

# torch.arange(0, 1.05, 0.05) is one unit in the last place above linspace at two of its 21 values.
_ARANGE = bx.OVERLAPS.copy()
_ARANGE[[13, 15]] = np.nextafter(_ARANGE[[13, 15]], 2)

PYTRACKING = Protocol(
    source="pytracking",
    repair="zero",
    short="zeros",
    nan_truth="error",
    invalid_distance="miss",
    thresholds=(_ARANGE, bx.PIXELS, bx.SHARES),
)
OSTRACK = replace(PYTRACKING, source="OSTrack / DropTrack", valid="size")
GOT10K_TOOLKIT = Protocol(
    source="got10k toolkit",
    inclusive=False,
    eps=float(np.finfo(np.float64).eps),
    short="shrink",
    valid="all",
    nan_truth="drop",
    least_size=1.0,
    norm_mean=True,
)
PYSOT = Protocol(
    source="pysot-toolkit",
    inclusive=False,
    first="result",
    long="error",
    valid_centre=True,
    absent="drop",
    size_eps=1e-16,
)
TRACKINGNET = Protocol(
    source="TrackingNet devkit",
    short="miss",
    valid="all",
    rounded=True,
    at_least=True,
    thresholds=(bx.OVERLAPS, np.linspace(0, 50, 21), np.linspace(0, 0.5, 21)),
    area=True,
)


def tagged(protocol: Protocol, tag: Literal["lasot", "visible", "uav"]) -> Protocol:
    """pytracking's or OSTrack's rules for a data set that they treat apart.

    "lasot": an absent frame is a miss in both distances, a short result an error. "visible": visibility is known but
    has no branch of its own (LaSOT_ext, GOT-10k). "uav": ground truth may be NaN, and invalid frames are hits.
    """
    if tag == "lasot":
        return replace(protocol, absent="miss", short="error")
    if tag == "visible":
        return replace(protocol, absent="invalid")
    return replace(protocol, nan_truth="invalid", invalid_distance="hit")


def _aligned(result: np.ndarray, frames: int, rules: Protocol) -> np.ndarray:
    """The result with at most as many rows as there are frames; ValueError where the evaluator would stop."""
    if len(result) > frames:
        if rules.long == "error":
            raise ValueError(f"{len(result)} boxes for {frames} frames, which the {rules.source} does not take")
        return result[:frames]
    if len(result) < frames and rules.short == "error":
        raise ValueError(f"only {len(result)} boxes for {frames} frames, which the {rules.source} does not take")
    if rules.short == "zeros":
        return np.concatenate([result, np.zeros((frames - len(result), 4))])
    return result


def _repaired(result: np.ndarray, truth: np.ndarray, rules: Protocol) -> np.ndarray:
    """The result with useless rows replaced by the row before, where the ground truth is known."""
    if rules.repair == "none":
        return result
    lost = np.isnan(result).sum(1)  # numbers per row that are NaN
    if rules.repair == "zero":
        refused = np.flatnonzero((lost > 0) | (result[:, 2:].min(1) < 0))
        if len(refused):
            raise ValueError(f"NaN or a negative size in row {refused[0] + 1}, which {rules.source} does not take")
        useless = result[:, 2:].min(1) == 0
    else:
        useless = lost == (4 if rules.repair == "all nan" else np.maximum(lost, 1))
        useless |= (result[:, 2:] <= 0).sum(1) > 0
    known = min(len(result), len(truth))
    useless[:known] &= ~np.isnan(truth[:known].sum(1))
    useless[0] = False
    rows = np.maximum.accumulate(np.where(useless, 0, np.arange(len(result))))
    return result[rows]


@dataclass(frozen=True, kw_only=True, eq=False)
class Errors:
    """Per frame that is counted: overlap, centre distance and normalised distance; `frames` is the denominator."""

    overlap: np.ndarray
    distance: np.ndarray
    normalised: np.ndarray
    frames: int


def frame_errors(result: np.ndarray, truth: np.ndarray, absent: np.ndarray | None, rules: Protocol) -> Errors:
    """Compares a result [R, 4] with the ground truth [T, 4] and its absence flags [T] frame by frame.

    ValueError where the evaluator would stop too: a length it does not take, NaN where it allows none.
    """
    truth = np.array(truth, np.float64)
    result = np.array(result, np.float64)
    if rules.nan_truth == "error" and np.isnan(truth).any():
        raise ValueError(f"NaN in the ground truth, which {rules.source} does not take")
    frames = len(truth)
    # The repair comes before the alignment: rows that are filled in stay as they are.
    result = _aligned(_repaired(result, truth, rules), frames, rules)
    if rules.short == "shrink":
        frames = len(result)
    truth = truth[: len(result)]
    away = np.zeros(len(truth), bool) if absent is None else np.array(absent[: len(truth)], bool)
    if rules.rounded:
        truth, result = np.round(truth), np.round(result)
    if rules.first == "truth":
        result[0] = truth[0]
    keep = np.ones(len(truth), bool)
    if rules.nan_truth == "drop":
        keep = ~np.isnan(truth).any(1)
        frames -= int((~keep).sum())
    if rules.absent == "drop":
        keep &= ~away
    truth, result, away = truth[keep], result[keep], away[keep]

    pixel = 1.0 if rules.rounded else -1.0
    sizes = np.maximum(truth[:, 2:], rules.least_size) if rules.least_size else truth[:, 2:] + rules.size_eps
    overlap = bx.iou(result, truth, inclusive=rules.inclusive, eps=rules.eps)
    distance = bx.centre_distances(result, truth, pixel=pixel)
    normalised = bx.normalised_distances(result, truth, sizes, pixel=pixel, last=rules.rounded)
    if rules.valid != "all":
        with np.errstate(invalid="ignore"):
            invalid = ~((truth if rules.valid == "positive" else truth[:, 2:]) > 0).all(1)
            off = ~(bx.centres(truth) > 0).all(1) if rules.valid_centre else invalid
        if rules.absent in ("invalid", "miss"):
            invalid, off = invalid | away, off | away
        overlap[invalid], normalised[off] = -1.0, -1.0
        distance[off] = -1.0 if rules.invalid_distance == "hit" else np.inf
        if rules.absent == "miss":
            distance[away], normalised[away] = np.inf, np.inf
    return Errors(overlap=overlap, distance=distance, normalised=normalised, frames=frames)


CURVES = ("success", "precision", "norm_precision")


def sequence_curves(errors: Errors, rules: Protocol) -> dict[str, np.ndarray]:
    """Shares of the frames per threshold: "success", "precision" and "norm_precision", each float64 [thresholds]."""
    frames = errors.frames + np.finfo(np.float64).eps if rules.eps_length else errors.frames
    at_overlap, at_pixels, at_shares = rules.thresholds
    counts = (
        bx.success_counts(errors.overlap, at_overlap, at_least=rules.at_least),
        bx.precision_counts(errors.distance, at_pixels),
        bx.precision_counts(errors.normalised, at_shares),
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: count / frames for name, count in zip(CURVES, counts)}


def mean_curves(sequences: list[dict[str, np.ndarray]], rules: Protocol) -> dict[str, np.ndarray]:
    """The mean over sequences of their curves, each sequence weighing the same."""
    means = {}
    for name in CURVES:
        stack = np.stack([curves[name] for curves in sequences])
        if rules.drop_empty:
            kept = stack[stack.sum(1) > np.finfo(np.float64).eps]
            stack = kept if len(kept) else stack
        means[name] = stack.mean(0)
    return means


def numbers(curves: dict[str, np.ndarray], rules: Protocol) -> dict[str, float | None]:
    """What is read off the curves, in [0, 1].

    `success_auc` and `norm_precision` are the evaluator's own headline numbers. `success_50`, `success_75`,
    `precision_20` and `norm_precision_20` are single points, `norm_precision_auc` is the mean of the curve. Where the
    evaluator reports areas, `precision` is that under the precision curve.
    """
    success, precision, normalised = (curves[name] for name in CURVES)
    at_overlap, at_pixels, at_shares = rules.thresholds

    def at(curve: np.ndarray, thresholds: np.ndarray, value: float) -> float:
        return float(curve[np.abs(thresholds - value).argmin()])

    def area(curve: np.ndarray) -> float:
        return float(np.trapezoid(curve, np.linspace(0, 1, len(curve))))

    point, mean = at(normalised, at_shares, 0.2), float(normalised.mean())
    found = {
        "success_auc": area(success) if rules.area else float(success.mean()),
        "success_50": at(success, at_overlap, 0.5),
        "success_75": at(success, at_overlap, 0.75),
        "precision_20": at(precision, at_pixels, 20),
        "norm_precision": area(normalised) if rules.area else mean if rules.norm_mean else point,
        "norm_precision_20": point,
        "norm_precision_auc": mean,
    }
    if rules.area:
        found["precision"] = area(precision)
    return {name: value if np.isfinite(value) else None for name, value in found.items()}
