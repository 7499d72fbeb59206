"""Ridge regression on features of what is wanted in each place, from sums that do not grow with what is seen."""

from __future__ import annotations

import torch
from torch import Tensor


def sums(rows: Tensor, wanted: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Gram [D, D] and cross [D, K] of features [N, D] and K answers [N, K], divided by a `count`."""
    return rows.T @ rows / count, rows.T @ wanted / count


def solve(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """[D, K]: the weights for crosses [D, K], where `ridge` is in units of the mean of the Gram matrix's diagonal."""
    gram = gram.clone()
    diagonal = gram.diagonal()
    diagonal += ridge * diagonal.mean() + 1e-6
    return torch.cholesky_solve(cross, torch.linalg.cholesky(gram))
