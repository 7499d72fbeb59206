"""Soft edges of masks, found in the picture.

In a band around the edge of a mask its pixels are not believed. What alpha is there is told by colour: in every window
alpha is taken to be a linear function of it, fitted to what is believed on both sides of the band (a guided filter, He
et al., TPAMI 2013, with weights). The functions are fitted on a small picture and applied to the large one (the fast
guided filter, He and Sun, arXiv 1505.00996), so that the edge is as sharp as the file. Where the picture stays as it
was but for the object's movement, alpha stays as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

LINES = 300
"""Rows, or columns, of the small picture, about."""
BAND = 3
"""Half the width of the band, in pixels of the small picture."""
REACH = 7
"""Half the side of the windows, in pixels of the small picture: they reach beyond the band on both sides."""
SMOOTH = 2
"""Half the side of the windows over which the functions are averaged."""
EPSILON = 2e-4
"""Variance of colours, in [0, 1], below which they tell nothing."""
DOUBT = 0.05
"""Weight of the mask within the band."""
KEEP = 0.5
"""Share of the frame before in alpha, where nothing has changed."""
CHANGE = 12.0
"""Difference of grey levels that counts as a change."""

Part = tuple[slice, slice]


@dataclass(eq=False)
class Before:
    """The frame before: its crop in grey, alpha there, and where it lay."""

    grey: np.ndarray
    alpha: np.ndarray
    corner: tuple[int, int]
    """Row and column."""
    centre: np.ndarray
    """Of the mask, row and column."""


class Edges:
    """Makes alpha of the masks of a video, frame after frame."""

    def __init__(self, soft: bool = True) -> None:
        self.soft = soft
        self.before: Before | None = None

    def forget(self) -> None:
        """Nothing goes on from the frame before."""
        self.before = None

    def alpha(self, frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """uint8 [H, W] for a frame uint8 [H, W, 3] and a mask bool [H, W]."""
        made = np.zeros(mask.shape, np.uint8)
        if mask.any():
            alpha, part = self.cut(frame, mask)
            made[part] = alpha
        else:
            self.forget()
        return made

    def cut(self, frame: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, Part]:
        """uint8 alpha of the part of the frame that holds the mask and what is around it; and that part."""
        step = max(1, round(min(mask.shape) / LINES))
        part = around(mask, 2 * (BAND + REACH) * step)
        if not self.soft:
            return mask[part].astype(np.uint8) * 255, part
        picture, inside = frame[part], mask[part]
        alpha = refined(picture, inside, step)
        alpha = self.steady(picture, inside, alpha, part)
        return (alpha * 255 + 0.5).astype(np.uint8), part

    def steady(self, picture: np.ndarray, mask: np.ndarray, alpha: np.ndarray, part: Part) -> np.ndarray:
        """Alpha with some of the frame before in it, moved as the mask has moved, where the picture is still alike."""
        grey = picture @ np.array([0.299, 0.587, 0.114], np.float32)
        corner = part[0].start, part[1].start
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        centre = np.array(
            [np.average(rows, weights=mask.sum(1)[rows]), np.average(columns, weights=mask.sum(0)[columns])]
        )
        centre += corner
        old, made = self.before, alpha
        if old is not None:
            move = np.rint(centre - old.centre).astype(int)
            top, left = (np.array(corner) - old.corner - move).tolist()
            here, there = overlap(alpha.shape, old.alpha.shape, top, left)
            change = np.abs(grey[here] - old.grey[there])
            share = KEEP * np.clip(1 - boxed(change[..., None], 1)[..., 0] / CHANGE, 0, 1)
            soft = (alpha[here] > 0) & (alpha[here] < 1) | (old.alpha[there] > 0) & (old.alpha[there] < 1)
            made = alpha.copy()
            made[here] += np.where(soft, share, 0) * (old.alpha[there] - alpha[here])
        self.before = Before(grey, made, corner, centre)
        return made

    def near(self, alpha: np.ndarray) -> np.ndarray:
        """bool: what is at most some pixels from anything that can be seen."""
        reach = max(2, round(min(alpha.shape) / 100))
        return boxed((alpha > 0).astype(np.float32)[..., None], reach)[..., 0] > 0


def around(mask: np.ndarray, margin: int) -> Part:
    """The rows and columns that hold a mask, which is not empty, and `margin` more on each side."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    spans = [(int(found[0]) - margin, int(found[-1]) + 1 + margin) for found in (rows, columns)]
    top, left = (slice(max(0, first), min(size, last)) for (first, last), size in zip(spans, mask.shape))
    return top, left


def refined(picture: np.ndarray, mask: np.ndarray, step: int) -> np.ndarray:
    """float32 [h, w]: alpha of a picture uint8 [h, w, 3] and its mask; fitted on every `step`-th pixel."""
    size = picture.shape[1], picture.shape[0]
    small = (max(2, -(-size[0] // step)), max(2, -(-size[1] // step)))
    colours, p = picture.astype(np.float32) / 255, mask.astype(np.float32)
    low, lp = (colours, p) if step == 1 else (resized(colours, small), resized(p[..., None], small)[..., 0])
    near = boxed(lp[..., None], BAND)[..., 0]
    band = (near > 1e-4) & (near < 1 - 1e-4)
    slope, offset = fitted(low, lp, np.where(band, np.float32(DOUBT), np.float32(1)))
    functions = boxed(np.concatenate([slope, offset[..., None]], -1), SMOOTH)
    inside = np.stack([(~band & (lp >= 0.5)), band], -1).astype(np.float32)
    if step > 1:
        functions, inside = resized(functions, size), resized(inside, size)
    alpha = np.clip((functions[..., :3] * colours).sum(-1) + functions[..., 3], 0, 1)
    return np.where(inside[..., 1] > 1e-3, alpha * inside[..., 1] + p * (1 - inside[..., 1]), p)


def fitted(colours: np.ndarray, p: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """slope [h, w, 3] and offset [h, w] of p as a linear function of the colours in the window around each pixel."""
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    products = np.stack([colours[..., i] * colours[..., j] for i, j in pairs], -1)
    columns = [np.ones_like(p)[..., None], colours, p[..., None], colours * p[..., None], products]
    means = boxed(np.concatenate(columns, -1) * weights[..., None], REACH)
    means /= np.maximum(means[..., :1], 1e-6)
    colour, level = means[..., 1:4], means[..., 4]
    against = means[..., 5:8] - colour * level[..., None]
    spread = np.empty((*p.shape, 3, 3), np.float32)
    for place, (i, j) in enumerate(pairs):
        spread[..., i, j] = spread[..., j, i] = means[..., 8 + place] - colour[..., i] * colour[..., j]
    spread += EPSILON * np.eye(3, dtype=np.float32)
    slope = np.linalg.solve(spread, against[..., None])[..., 0]
    return slope, level - (slope * colour).sum(-1)


def boxed(values: np.ndarray, reach: int) -> np.ndarray:
    """The mean of values [h, w, c] over windows of 2 `reach` + 1 pixels; at the border over what there is of them."""
    height, width = values.shape[:2]
    sums = np.zeros((height + 1, width + 1, values.shape[2]))
    values.astype(np.float64).cumsum(0).cumsum(1, out=sums[1:, 1:])
    at = [np.arange(size) for size in (height, width)]
    low, high = ([np.clip(a + o, 0, size) for a, size in zip(at, (height, width))] for o in (-reach, reach + 1))
    total = sums[high[0]][:, high[1]] - sums[low[0]][:, high[1]] - sums[high[0]][:, low[1]] + sums[low[0]][:, low[1]]
    count = np.outer(high[0] - low[0], high[1] - low[1])
    return (total / count[..., None]).astype(np.float32)


def resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 [h, w, c], every channel scaled to (width, height): means where it shrinks, else linear."""
    planes = [Image.fromarray(np.ascontiguousarray(values[..., c], np.float32)) for c in range(values.shape[2])]
    how = Image.Resampling.BOX if size[0] < values.shape[1] else Image.Resampling.BILINEAR
    return np.stack([np.asarray(plane.resize(size, how)) for plane in planes], -1)


def overlap(shape: tuple[int, ...], other: tuple[int, ...], top: int, left: int) -> tuple[Part, Part]:
    """The part of an array and that of another, the first of which begins at row `top` and column `left` of it."""
    parts: list[tuple[slice, slice]] = []
    for size, length, start in zip(shape, other, (top, left)):
        first, last = max(0, -start), min(size, length - start)
        last = max(first, last)
        parts.append((slice(first, last), slice(first + start, last + start)))
    return (parts[0][0], parts[1][0]), (parts[0][1], parts[1][1])
