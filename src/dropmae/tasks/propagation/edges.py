"""Masks whose edges are those in the picture, from labels of tokens that are 14 or 16 pixels wide.

The guided filter (He et al., TPAMI 2013): in every window a label is taken to be a linear function of colour. It learns
nothing, and works at half the frame's size.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae.ops.resampling import stretched

REACH = 6
"""Half the side of the windows, in pixels of the half picture: about a token's side."""
EPSILON = 3e-4
"""Variance of colours, in [0, 1], below which they tell nothing."""


def halved(frame: np.ndarray, device: torch.device) -> Tensor:
    """float32 [3, h, w] of 0 to 1: a frame uint8 [H, W, 3] at half its size."""
    picture = torch.from_numpy(np.ascontiguousarray(frame)).to(device).permute(2, 0, 1)[None].float() / 255
    return functional.interpolate(picture, [-(-side // 2) for side in frame.shape[:2]], mode="area")[0]


def boxed(values: Tensor) -> Tensor:
    """The mean of values [C, h, w] over windows; at the border over what there is of them."""
    side, values = 2 * REACH + 1, values[None]
    for kernel, margin in (((side, 1), (REACH, 0)), ((1, side), (0, REACH))):
        values = functional.avg_pool2d(values, kernel, 1, margin, count_include_pad=False)
    return values[0]


def guided(picture: Tensor, maps: Tensor) -> Tensor:
    """float32 [K, h, w]: labels [K, h, w] made a function of a picture [3, h, w] of 0 to 1 (equations 14 to 16)."""
    mean, level = boxed(picture), boxed(maps)
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    second = boxed(torch.stack([picture[i] * picture[j] for i, j in pairs]))
    xx, xy, xz, yy, yz, zz = (
        second[place] - mean[i] * mean[j] + EPSILON * (i == j) for place, (i, j) in enumerate(pairs)
    )
    minors = torch.stack([yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy])
    rest = torch.stack([xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy])
    inverse = torch.stack(
        [minors, torch.stack([minors[1], rest[0], rest[1]]), torch.stack([minors[2], rest[1], rest[2]])]
    )
    inverse = inverse / (xx * minors[0] + xy * minors[1] + xz * minors[2])
    crossed = boxed((picture[:, None] * maps).flatten(0, 1)).unflatten(0, (3, len(maps))) - mean[:, None] * level
    slope = torch.einsum("ijhw,jkhw->ikhw", inverse, crossed)
    offset = level - (slope * mean[:, None]).sum(0)
    return (boxed(slope.flatten(0, 1)).view_as(slope) * picture[:, None]).sum(0) + boxed(offset)


def sharp(frame: np.ndarray, maps: Tensor) -> Tensor:
    """int64 [H, W]: which of labels [K, rows, columns] of tokens each pixel of a frame uint8 [H, W, 3] has.

    Each label's map is `stretched` first.
    """
    picture = halved(frame, maps.device)
    with torch.autocast(maps.device.type, enabled=False):
        maps = functional.interpolate(maps[None].float(), picture.shape[1:], mode="bilinear")[0]
        wide = stretched(maps)
        found = guided(picture, wide / wide.sum(0).clamp_min(1e-6))
        return functional.interpolate(found[None], frame.shape[:2], mode="bilinear")[0].argmax(0)
