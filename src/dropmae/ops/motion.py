"""Motion without a codec: block matching by the sum of absolute differences, and how much a picture changes.

The convention is that of `Video.motion`: a vector is the displacement, x before y, of what is now in a block since the
earlier frame, so that block b of the later frame looks like the earlier one at b - vector.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def block_motion(earlier: Tensor, later: Tensor, block: int, radius: int) -> Tensor:
    """float32 [B, H / block, W / block, 2]: the shift of least SAD of every block of `later`, within `radius` pixels.

    `earlier` and `later` are grey pictures [B, H, W] whose sides are multiples of `block`. Of equally good shifts the
    shortest wins, so that what does not move, or shows nothing, has zero motion. Outside, the picture's border goes on.
    """
    b, height, width = later.shape
    if height % block or width % block:
        raise ValueError(f"a {height}x{width} picture cannot be cut into {block}x{block} blocks")
    padded = functional.pad(earlier[:, None].float(), (radius,) * 4, mode="replicate")[:, 0]
    later = later.float()
    shifts = [(y, x) for y in range(-radius, radius + 1) for x in range(-radius, radius + 1)]
    shifts.sort(key=lambda shift: shift[0] ** 2 + shift[1] ** 2)
    least = torch.full((b, height // block, width // block), torch.inf, device=later.device)
    best = torch.zeros_like(least, dtype=torch.int64)
    for number, (y, x) in enumerate(shifts):
        moved = padded[:, radius - y : radius - y + height, radius - x : radius - x + width]
        cost = functional.avg_pool2d((later - moved).abs_()[:, None], block)[:, 0]
        better = cost < least
        least = torch.where(better, cost, least)
        best.masked_fill_(better, number)
    table = torch.tensor([(x, y) for y, x in shifts], dtype=torch.float32, device=later.device)
    return table[best]


def clip_motion(frames: Tensor, patch: int, radius: int) -> Tensor:
    """float32 [B, T, h, w, 2]: block motion per patch and frame step of clips [B, T, 3, H, W], in pixels.

    Searched on grey pictures of half the size, up to `radius` pixels. The first frame has no predecessor: NaN.
    """
    b, count = frames.shape[:2]
    grey = functional.avg_pool2d(frames.float().mean(2), 2)
    pairs = [grey[:, part].flatten(0, 1) for part in (slice(None, -1), slice(1, None))]
    found = 2 * block_motion(pairs[0], pairs[1], patch // 2, max(1, radius // 2)).unflatten(0, (b, count - 1))
    return torch.cat([torch.full_like(found[:, :1], torch.nan), found], dim=1)


def clip_changes(frames: Tensor, patch: int) -> Tensor:
    """float32 [B, T, h, w, 2]: how much each patch changes from a frame of clips [B, T, 3, H, W] to the next, in x.

    The mean absolute difference of grey, of which 16 levels count as one pixel; y is 0. The first frame has none: NaN.
    """
    grey = frames.float().mean(2)
    change = functional.avg_pool2d((grey[:, 1:] - grey[:, :-1]).abs(), patch) / 16
    found = torch.stack([change, torch.zeros_like(change)], -1)
    return torch.cat([torch.full_like(found[:, :1], torch.nan), found], dim=1)
