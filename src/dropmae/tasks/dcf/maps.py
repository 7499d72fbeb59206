"""What a discriminative correlation filter sees of cells, and what it should answer in them.

Henriques et al., arXiv 1404.7828, without its circular shifts: ridge regression (`ops.ridge`) of a Gaussian around an
object on features, fitted to it as it is seen. Beside it filters may answer how far the object reaches.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def neighbourhoods(features: Tensor) -> Tensor:
    """[B, n n, 9 C]: the features [B, n, n, C] of each cell and its eight neighbours; those at the edge are repeated.

    Each cell's features have unit length.
    """
    features = functional.normalize(features.float(), dim=-1)
    n = features.shape[1]
    padded = functional.pad(features.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
    shifted = [padded[:, :, i : i + n, j : j + n] for i in range(3) for j in range(3)]
    return torch.cat(shifted, 1).flatten(2).transpose(1, 2)


def gaussian(boxes: Tensor, n: int, share: float, least: float) -> Tensor:
    """[B, n, n]: what the filter should answer for boxes x y w h [B, 4] in shares of the crop's side.

    The deviation is a `share` of the box's sides, at `least` so many cells.
    """
    places = (torch.arange(n, device=boxes.device) + 0.5) / n
    centre, spread = boxes[:, :2] + boxes[:, 2:] / 2, (share * boxes[:, 2:]).clamp_min(least / n)
    across, down = (
        torch.exp(-0.5 * ((places - centre[:, axis, None]) / spread[:, axis, None]) ** 2) for axis in (0, 1)
    )
    return down[:, :, None] * across[:, None, :]


def extents(boxes: Tensor, n: int) -> Tensor:
    """[B, n, n, 3]: which cells' middles are in boxes x y w h [B, 4] in shares of the crop's side, and where in them.

    1 in the box; then x and y from -1 at its first edge to 1 at the other. All three are 0 outside.
    """
    places = (torch.arange(n, device=boxes.device) + 0.5) / n
    across, down = (2 * (places - boxes[:, axis, None]) / boxes[:, axis + 2, None] - 1 for axis in (0, 1))
    across, down = across[:, None].expand(-1, n, -1), down[:, :, None].expand(-1, -1, n)
    inside = ((across.abs() <= 1) & (down.abs() <= 1)).float()
    return torch.stack([inside, inside * across, inside * down], -1)


def outside(features: Tensor, boxes: Tensor) -> Tensor:
    """float32 [B, n n, C]: features [B, n, n, C] of the cells whose middles are not in boxes x y w h [B, 4]; else 0."""
    inside = extents(boxes, features.shape[1])[..., :1]
    return (features.float() * (1 - inside)).flatten(1, 2)
