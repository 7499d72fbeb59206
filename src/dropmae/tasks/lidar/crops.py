"""Points around a box, in its axes: what the network sees of a scan."""

from __future__ import annotations

import numpy as np

from dropmae.metrics.boxes3d import inside, local
from dropmae.target import Target

FAR = 1e6
"""Coordinate of points that are not there."""


def cloud(scan: np.ndarray, box: np.ndarray | None = None, reach: float = np.inf) -> np.ndarray:
    """float64 [P, 3]: the points of a scan float32 [P, C] that are numbers, of those less than `reach` metres from a
    box along x and y where one is given; ValueError where it is no scan."""
    if scan.ndim != 2 or scan.shape[1] < 3:
        raise ValueError(f"a scan is a table of points with x, y, z, not {scan.dtype} {list(scan.shape)}")
    if box is not None:
        scan = scan[(np.abs(scan[:, 0] - box[0]) < reach) & (np.abs(scan[:, 1] - box[1]) < reach)]
    points = scan[:, :3].astype(np.float64)
    return points[np.isfinite(points).all(1)]


def prompted_boxes(target: Target) -> tuple[np.ndarray, np.ndarray]:
    """ids [N] and boxes [N, 7] that are told; ValueError where ids are not unique, or a box has no size."""
    if target.boxes3d is None:
        return target.ids[:0], np.zeros((0, 7))
    known = np.isfinite(target.boxes3d).all(1)
    ids, boxes = target.ids[known], target.boxes3d[known].astype(np.float64)
    if len(set(ids.tolist())) < len(ids):
        raise ValueError(f"object ids must differ, but are {', '.join(map(str, ids.tolist()))}")
    for number, box in zip(ids.tolist(), boxes):
        if not (box[3:6] > 0).all():
            sizes = " ".join(f"{value:g}" for value in box[3:6])
            raise ValueError(f"the box of object {number} needs a positive width, length and height, not {sizes}")
    return ids, boxes


def radius(box: np.ndarray, least: float) -> float:
    """Half the side of the square around a box [7], in metres: it grows with the object."""
    return least + 0.7 * float(max(box[3], box[4]))


def around(points: np.ndarray, box: np.ndarray, reach: float) -> np.ndarray:
    """float64 [P', 3]: the points [P, 3] within a square around a box and not far above or below, in its axes."""
    near = np.abs(points[:, :2] - box[:2]).max(1, initial=0.0) < 1.5 * reach
    found = local(points[near], box)
    return found[(np.abs(found[:, :2]) < reach).all(1) & (np.abs(found[:, 2]) < box[5] / 2 + 1.0)]


def ground(points: np.ndarray, box: np.ndarray) -> float | None:
    """How high the ground lies beside a box [7], in its axes, by points [P, 3] in them; None where too few show it."""
    aside = (np.abs(points[:, :2]) - box[[4, 3]] / 2).max(1, initial=-np.inf)
    low = points[(aside > 0.1) & (aside < 1.5) & (np.abs(points[:, 2] + box[5] / 2) < 0.4), 2]
    return float(np.percentile(low, 30)) if len(low) >= 8 else None


def sampled(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [count, C]: so many of the points [P, C] at random; where there are fewer, the rest is far away."""
    if len(points) > count:
        points = points[rng.choice(len(points), count, replace=False)]
    made = np.full((count, points.shape[1]), FAR, np.float32)
    made[: len(points)] = points
    return made


def reference(
    points: np.ndarray, box: np.ndarray, first: np.ndarray, reach: float, counts: tuple[int, int], given: bool,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """float32 [sum of counts, 5]: x y z of the points around an earlier box, how likely each is the object's, and 0;
    then those of the object when it was given, `first` [P, 3], with 1 and 1."""
    near = around(points, box, reach)
    within = inside(near, box)
    prior = np.where(within, 1.0, 0.0) if given else np.where(within, 0.8, 0.2)
    later = sampled(np.column_stack([near, prior, np.zeros(len(near))]), counts[0], rng)
    return np.concatenate([later, sampled(np.column_stack([first, np.ones((len(first), 2))]), counts[1], rng)])
