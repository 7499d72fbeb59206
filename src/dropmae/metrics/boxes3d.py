"""Boxes in space: x y z of the centre, then w, l, h in metres, and yaw about z in radians; l lies along x at yaw 0.

The numbers of single-object tracking in point clouds (SC3D, P2B): frames are pooled, the given first one is counted.
"""

from __future__ import annotations

import numpy as np

OVERLAPS = np.linspace(0, 1, 21)
"""Thresholds of success."""
METRES = np.linspace(0, 2, 21)
"""Thresholds of precision."""


def local(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """float64 [P, 3]: points [P, 3 or more] in the axes of a box [7], from its centre, x along its length."""
    shifted = np.asarray(points[:, :3], np.float64) - box[:3]
    cosine, sine = np.cos(box[6]), np.sin(box[6])
    x, y, z = shifted.T
    return np.stack([x * cosine + y * sine, y * cosine - x * sine, z], 1)


def inside(points: np.ndarray, box: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """bool [P]: which points, in the axes of a box [7], it holds, or would if each side were so much further out."""
    return np.asarray((np.abs(points) <= box[[4, 3, 5]] / 2 + margin).all(1))


def moved(box: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """float64 [7]: a box after an offset x, y, z, yaw [4] in its own axes."""
    cosine, sine = np.cos(box[6]), np.sin(box[6])
    made = np.array(box, np.float64)
    made[:2] += offset[0] * cosine - offset[1] * sine, offset[0] * sine + offset[1] * cosine
    made[2] += offset[2]
    made[6] = wrapped(box[6] + offset[3])
    return made


def offset(box: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float64 [4]: the offset by which `moved` brings `box` to where `other` is."""
    return np.append(local(other[None], box)[0], wrapped(other[6] - box[6]))


def wrapped(angle: float) -> float:
    """An angle in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def corners(boxes: np.ndarray) -> np.ndarray:
    """float64 [N, 4, 2]: the corners of boxes [N, 7] on the ground, counter-clockwise from front left."""
    ends = np.array([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]])
    x, y = (ends * boxes[:, None, [4, 3]]).transpose(2, 0, 1)
    cosine, sine = np.cos(boxes[:, 6:]), np.sin(boxes[:, 6:])
    return np.stack([x * cosine - y * sine, x * sine + y * cosine], -1) + boxes[:, None, :2]


def ground_overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 [N]: the area that boxes a [N, 7] and b [N, 7] share on the ground, row by row.

    Corners of one that lie in the other, and points in which sides cross, are the corners of the shared polygon.
    """
    middle = np.concatenate([a[:, :2], np.zeros((len(a), 5))], 1)  # near the origin rounding does least
    first, second = corners(a - middle), corners(b - middle)
    found, there = [], []
    for mine, box in ((first, b), (second, a)):
        shifted = mine - (box - middle)[:, None, :2]
        cosine, sine = np.cos(box[:, 6:]), np.sin(box[:, 6:])
        x, y = shifted[..., 0] * cosine + shifted[..., 1] * sine, shifted[..., 1] * cosine - shifted[..., 0] * sine
        found.append(mine)
        there.append((np.abs(x) <= box[:, 4:5] / 2 + 1e-9) & (np.abs(y) <= box[:, 3:4] / 2 + 1e-9))
    edge, other = np.roll(first, -1, 1) - first, np.roll(second, -1, 1) - second
    gap = second[:, None] - first[:, :, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        turn = cross(edge[:, :, None], other[:, None])
        t, u = cross(gap, other[:, None]) / turn, cross(gap, edge[:, :, None]) / turn
        met = (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1)
    crossing = first[:, :, None] + np.where(met, t, 0)[..., None] * edge[:, :, None]
    points = np.concatenate([*found, crossing.reshape(len(a), 16, 2)], 1)
    valid = np.concatenate([*there, met.reshape(len(a), 16)], 1)
    count = valid.sum(1)
    centre = np.where(valid[..., None], points, 0).sum(1) / np.maximum(count, 1)[:, None]
    ways = np.where(valid[..., None], points - centre[:, None], 0)
    order = np.argsort(np.where(valid, np.arctan2(ways[..., 1], ways[..., 0]), np.inf), 1)
    ring = np.take_along_axis(ways, order[..., None], 1)
    last = np.arange(24)[None] == (count - 1)[:, None]
    following = np.where(last[..., None], ring[:, :1], np.roll(ring, -1, 1))
    shares = np.where(np.arange(24)[None] < count[:, None], cross(ring, following), 0)
    return np.abs(shares.sum(1)) / 2


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The z of the cross product of vectors [..., 2]."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def are_boxes(rows: np.ndarray) -> np.ndarray:
    """bool [N]: which rows [N, 7] are finite and have a size."""
    return np.asarray(np.isfinite(rows).all(1) & (rows[:, 3:6] > 0).all(1))


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 [N]: intersection over union of boxes a [N, 7] and b [N, 7], row by row; 0 where one is NaN or no box.

    What is 1 but for rounding is 1, as 1 is one of the thresholds; evaluators leave that to chance.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    known = np.logical_and.reduce([are_boxes(a), are_boxes(b)])
    a, b = np.where(known[:, None], a, 1.0), np.where(known[:, None], b, 1.0)
    top, bottom = (
        pick(a[:, 2] + way * a[:, 5] / 2, b[:, 2] + way * b[:, 5] / 2)
        for pick, way in ((np.minimum, 1), (np.maximum, -1))
    )
    with np.errstate(over="ignore", invalid="ignore"):
        shared = ground_overlap(a, b) * np.maximum(top - bottom, 0)
        found = shared / (a[:, 3:6].prod(1) + b[:, 3:6].prod(1) - shared)
    return np.where(known, np.where(found >= 1 - 1e-9, 1.0, found), 0.0)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 [N]: metres between the centres of boxes, row by row; inf where one is NaN."""
    found = np.linalg.norm(np.asarray(a)[:, :3] - np.asarray(b)[:, :3], axis=1)
    return np.where(np.isnan(found), np.inf, found)


def success(overlaps: np.ndarray) -> float:
    """The area under the share of frames whose overlap is at least a threshold; without any hit it is 0.025."""
    return float(np.trapezoid((overlaps[:, None] >= OVERLAPS).mean(0), OVERLAPS))


def precision(metres: np.ndarray) -> float:
    """The area under the share of frames whose centre is at most a threshold away, over 2 metres."""
    return float(np.trapezoid((metres[:, None] <= METRES).mean(0), METRES)) / 2
