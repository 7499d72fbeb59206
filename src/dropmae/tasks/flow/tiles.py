"""Pictures too large for one pass: tiles that overlap, and a blend of what is found in each."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def starts(side: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin on a side, evenly, so that neighbours share at least `overlap` of a tile."""
    if tile >= side:
        return [0]
    count = 1 + math.ceil((side - tile) / max(1.0, tile * (1 - overlap)))
    return [round(number * (side - tile) / (count - 1)) for number in range(count)]


def tile_sides(height: int, width: int, limit: int, cell: int) -> tuple[int, int]:
    """Sides of the largest tiles of at most `limit` pixels, multiples of `cell`; as square as the picture allows."""
    side = math.isqrt(limit)
    if min(height, width) < side:
        side = max(cell, limit // min(height, width))
        sides = (height, side) if height < width else (side, width)
    else:
        sides = (side, side)
    rows, columns = (min(full, max(cell, part // cell * cell)) for full, part in zip((height, width), sides))
    return rows, columns


def tiled(answer: Callable[[Tensor], Tensor], pair: Tensor, limit: int, overlap: float, cell: int) -> Tensor:
    """[D, H, W]: `answer` of a pair [2, 3, H, W], as a whole or, beyond `limit` pixels, blended from tiles.

    A tile counts less towards its rim, by a pyramid.
    """
    height, width = pair.shape[2:]
    if not limit or height * width <= limit:
        return answer(pair)
    rows, columns = tile_sides(height, width, limit, cell)
    tents = [torch.minimum(torch.arange(n) + 0.5, n - torch.arange(n) - 0.5) / n for n in (rows, columns)]
    weight = torch.minimum(tents[0][:, None], tents[1][None]).to(pair.device).clamp(min=1e-3)
    total, sums = None, torch.zeros(height, width, device=pair.device)
    for y in starts(height, rows, overlap):
        for x in starts(width, columns, overlap):
            part = (..., slice(y, y + rows), slice(x, x + columns))
            found = answer(pair[part])
            total = found.new_zeros(len(found), height, width) if total is None else total
            total[part] += found * weight
            sums[part] += weight
    assert total is not None
    return total / sums
