"""What a discriminative correlation filter sees of cells, what it should answer in them, and how it is fitted.

Henriques et al., arXiv 1404.7828, without its circular shifts: ridge regression (`ops.ridge`) of a Gaussian around an
object on features, fitted to it as it is seen. Beside it filters may answer how far the object reaches.

A filter sees the nine cells around each. What it is fitted by, the sums of products of what they hold, depends on how
far two of them are apart, and on nothing else but at the edge of a crop, where zeros are taken to follow. So thirteen
small matrices stand for the Gram matrix of all nine, which has 81 of their size. A filter that is there already is
mended by a few steps of conjugate gradients, with the cells' own matrix as preconditioner.
"""

from __future__ import annotations

import itertools

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


APART = tuple((down, across) for down in range(3) for across in range(-2, 3) if (down, across) >= (0, 0))
"""How far apart two cells of a neighbourhood are, in cells: one of each pair of opposites."""


def correlations(features: Tensor) -> Tensor:
    """float32 [13, C, C]: sums over cells of the products of unit features [B, n, n, C] with those `APART`, over B."""
    cells = functional.normalize(features.float(), dim=-1)
    count, n, _, width = cells.shape
    wide = functional.pad(cells, (0, 0, 2, 2, 0, 2))
    shifted = [wide[:, y : y + n, 2 + x : 2 + x + n].reshape(-1, width) for y, x in APART]
    found = cells.reshape(-1, width).T @ torch.cat(shifted, 1) / count
    return found.view(width, len(APART), width).transpose(0, 1)


def both_ways(sums: Tensor) -> Tensor:
    """[5, 5, C, C]: `correlations` [13, C, C] with cells that are down and across from -2 to 2 cells apart."""
    return torch.cat([sums[1:].flip(0).transpose(1, 2), sums]).unflatten(0, (5, 5))


def gram(sums: Tensor) -> Tensor:
    """float32 [9 C, 9 C]: what `correlations` [13, C, C] stand for."""
    wide, rows = both_ways(sums), []
    for y, x in itertools.product(range(3), repeat=2):
        rows.append(wide[2 - y : 5 - y, 2 - x : 5 - x].flatten(0, 1).transpose(0, 1).flatten(1))
    return torch.cat(rows)


def mended(sums: Tensor, cross: Tensor, amount: float, filters: Tensor, steps: int = 5) -> Tensor:
    """float32 [9 C, K]: filters on their way to `ops.ridge.solve` of `gram(sums)`, cross [9 C, K] and this ridge."""
    width, count = sums.shape[1], cross.shape[1]
    least = amount * sums[0].diagonal().mean() + 1e-6
    kernel = both_ways(sums).permute(2, 3, 0, 1).contiguous()
    own = sums[0] + least * torch.eye(width, device=sums.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(own))

    def times(vectors: Tensor) -> Tensor:
        """The Gram matrix and the ridge, times [K, C, 3, 3]."""
        return functional.conv2d(vectors, kernel, padding=2) + least * vectors

    def near(vectors: Tensor) -> Tensor:
        return (inverse @ vectors.flatten(2)).view_as(vectors)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((1, 2, 3), keepdim=True)

    found, wanted = (one.view(3, 3, width, count).permute(3, 2, 0, 1).contiguous() for one in (filters, cross))
    residual = wanted - times(found)
    way = better = near(residual)
    reach = dot(residual, better)
    for _ in range(steps):
        onward = times(way)
        far = reach / dot(way, onward).clamp_min(1e-30)
        found, residual = found + far * way, residual - far * onward
        better = near(residual)
        last, reach = reach, dot(residual, better)
        way = better + reach / last.clamp_min(1e-30) * way
    return found.permute(2, 3, 1, 0).reshape(9 * width, count)


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
