"""A discriminative correlation filter: ridge regression of a Gaussian on features, fitted to one object as it is seen.

Henriques et al., arXiv 1404.7828, without its circular shifts: the sums over all cells of the crops seen are kept, of
the products of their features (Gram) and with the wanted response (cross), so that memory does not grow with time.
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


def sums(cells: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Gram [D, D] and cross [D] of cells [B, n n, D] and responses [B, n, n], as means over the crops."""
    rows = cells.flatten(0, 1)
    return rows.T @ rows / len(cells), rows.T @ wanted.flatten() / len(cells)


def solve(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """[D]: the filter, where `ridge` is in units of the mean of the Gram matrix's diagonal."""
    gram = gram.clone()
    diagonal = gram.diagonal()
    diagonal += ridge * diagonal.mean() + 1e-6
    return torch.cholesky_solve(cross[:, None], torch.linalg.cholesky(gram))[:, 0]
