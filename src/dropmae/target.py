"""Target: everything known about one frame. A prompt, a prediction and a ground-truth label are all Targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(kw_only=True, eq=False)
class Target:
    """What is known about one frame; every field but `ids` may be absent (None).

    Coordinates are (x, y) in pixels with pixel centres at +0.5; boxes are x y w h of the top-left corner; angles are
    in radians. Rows of `ids`, `boxes`, `boxes3d` and `scores` belong together; a row of NaN says that the object is
    not there.
    """

    ids: np.ndarray
    """int64 [N]: object ids, positive, unique within a video."""
    boxes: np.ndarray | None = None
    """float64 [N, 4]: x, y, w, h in pixels; NaN where the object is absent."""
    mask: np.ndarray | None = None
    """uint8 or int32 [H, W]: one label map; 0 is background, other values are object ids (255 may be void)."""
    points: np.ndarray | None = None
    """float64 [M, 2]: x, y in pixels; row m is the same physical point in every frame of a video."""
    visible: np.ndarray | None = None
    """bool [M]: whether the point can be seen in this frame."""
    owners: np.ndarray | None = None
    """int64 [M]: the object id that each point belongs to; None where points belong to no object."""
    flow: np.ndarray | None = None
    """float32 [H, W, 2]: displacement in pixels from this frame to the next; NaN where it is not valid."""
    boxes3d: np.ndarray | None = None
    """float64 [N, 7]: centre x, y, z, then w, l, h in metres, and yaw in radians."""
    scores: np.ndarray | None = None
    """float64 [N]: confidence of each object in [0, 1]; for ground truth, the visible share where it is known."""

    def box(self, object_id: int | None = None) -> np.ndarray:
        """float64 [4]: the box of one object (the first one where no id is given); NaN where there is none."""
        missing = np.full(4, np.nan)
        if self.boxes is None or not len(self.boxes):
            return missing
        if object_id is None:
            return self.boxes[0]
        rows = np.flatnonzero(self.ids == object_id)
        return self.boxes[rows[0]] if len(rows) else missing


def empty() -> Target:
    """A Target of which nothing is known."""
    return Target(ids=np.zeros(0, np.int64))


def mask_boxes(mask: np.ndarray, ids: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """ids [N] and tight boxes [N, 4] of the objects in a label map [H, W]; void (255 in uint8) is left out.

    A pixel (row, col) covers [col, col + 1) x [row, row + 1). Ids given but not in the mask get a row of NaN.
    """
    if ids is None:
        ids = np.unique(mask).astype(np.int64)
        ids = ids[(ids != 0) & ~((mask.dtype == np.uint8) & (ids == 255))]
    boxes = np.full((len(ids), 4), np.nan)
    for row, object_id in enumerate(ids):
        inside = mask == object_id
        ys, xs = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        if len(xs):
            boxes[row] = xs[0], ys[0], xs[-1] + 1 - xs[0], ys[-1] + 1 - ys[0]
    return ids, boxes


def encode_mask(mask: np.ndarray) -> dict:
    """Run-length code of a binary mask [H, W], as COCO's uncompressed RLE: column-major counts, zeros first."""
    flat = np.asarray(mask, bool).ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0], edges, [flat.size]])
    counts = np.diff(bounds).tolist()
    if flat.size and flat[0]:
        counts.insert(0, 0)
    return {"size": list(mask.shape), "counts": counts}


def decode_mask(code: dict) -> np.ndarray:
    """bool [H, W] from `encode_mask`'s run-length code; ValueError where the counts do not fill the size."""
    height, width = code["size"]
    counts = np.asarray(code["counts"], np.int64)
    if counts.sum() != height * width or (counts < 0).any():
        raise ValueError(f"run lengths add up to {counts.sum()}, not to the mask's {height}x{width} pixels")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((height, width), order="F")
