"""From prompts to labels of tokens, and from labels back to what is where."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae.target import Target

VOID = 255
SIGMA = 0.5
"""Deviation of a point's Gaussian in tokens."""


def picture_size(frame: np.ndarray) -> tuple[int, int]:
    """Height and width of a frame; ValueError where it is none."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
        raise ValueError(f"a frame is uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}")
    return frame.shape[0], frame.shape[1]


def label_map(target: Target, size: tuple[int, int], where: str) -> tuple[list[int], np.ndarray] | None:
    """Objects and int64 [H, W] of their places in that list, from 1: a target's mask or filled boxes; None for neither.

    ValueError where the mask has another size than the frame or holds an object that the target does not name.
    """
    ids = [int(number) for number in target.ids]
    if any(number < 1 for number in ids) or len(set(ids)) < len(ids):
        raise ValueError(f"{where}: object ids are positive and unique, not {ids}")
    if target.mask is not None:
        mask = np.asarray(target.mask)
        if mask.shape != size:
            shape = "x".join(str(side) for side in mask.shape[::-1])
            raise ValueError(f"{where}: the mask has {shape} pixels, but the frame has {size[1]}x{size[0]}")
        present = np.unique(mask)
        void = VOID if mask.dtype == np.uint8 and VOID not in ids else 0
        present = present[(present != 0) & (present != void)]
        ids = ids or [int(number) for number in present]
        unknown = sorted(set(present.tolist()) - set(ids))
        if unknown:
            raise ValueError(f"{where}: the mask holds object {unknown[0]}, which is not among its ids {ids}")
        labels = np.zeros(size, np.int64)
        for place, number in enumerate(ids, 1):
            labels[mask == number] = place
        return ids, labels
    if target.boxes is None:
        return None
    labels = np.zeros(size, np.int64)
    for place, (x, y, w, h) in enumerate(np.asarray(target.boxes, float), 1):
        if np.isfinite([x, y, w, h]).all():
            left, top, right, bottom = (max(0, round(edge)) for edge in (x, y, x + w, y + h))
            labels[top:bottom, left:right] = place
    return ids, labels


def confidence(soft: Tensor) -> np.ndarray:
    """float64 [objects]: mean share of each object in the tokens [N, 1 + objects] that are its own; 0 without any."""
    share = soft / soft.sum(1, keepdim=True).clamp(min=1e-12)
    mine = functional.one_hot(share.argmax(1), soft.shape[1])
    return ((share * mine).sum(0) / mine.sum(0).clamp(min=1))[1:].cpu().double().numpy()


def known_points(target: Target) -> np.ndarray:
    """bool [M]: which points a target tells the place of."""
    assert target.points is not None
    known = np.asarray(np.isfinite(target.points).all(1))
    return known if target.visible is None else known & np.asarray(target.visible, bool)


def point_maps(target: Target, size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """float32 [h w, M]: a Gaussian of half a token around each visible point, as the scripts for JHMDB draw it.

    It stands on the nearest token, where the pixel of index i is at i h / H, and reaches from two before it to one
    after. Points outside the picture have an empty map.
    """
    assert target.points is not None
    maps = np.zeros((*grid, len(target.points)), np.float32)
    for number in np.flatnonzero(known_points(target)):
        x, y = (target.points[number] - 0.5) * (grid[1] / size[1], grid[0] / size[0])
        column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        for down in range(-2, 2):
            for across in range(-2, 2):
                if 0 <= row + down < grid[0] and 0 <= column + across < grid[1]:
                    distance = (down * down + across * across) / (2 * SIGMA**2)
                    maps[row + down, column + across, number] = np.exp(-distance)
    return maps.reshape(-1, len(target.points))


def strongest(soft: Tensor, grid: tuple[int, int], size: tuple[int, int], count: int) -> np.ndarray:
    """float64 [M, 2]: mean place, in pixels, of each map's `count` strongest tokens [N, M]; NaN for an empty map."""
    values, places = soft.double().topk(min(count, len(soft)), 0)
    share = values / values.sum(0)  # NaN where nothing has arrived
    x = (share * (places % grid[1])).sum(0) * (size[1] / grid[1])
    y = (share * (places // grid[1])).sum(0) * (size[0] / grid[0])
    return torch.stack([x, y], 1).cpu().numpy() + 0.5
