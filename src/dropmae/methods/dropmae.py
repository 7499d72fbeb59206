"""DropMAE (Wu et al., CVPR 2023, arXiv 2304.00571): TwinMAE with adaptive spatial-attention dropout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dropmae.methods._masked_autoencoder import PairAutoencoder
from dropmae.nn.vit import Attend
from dropmae.ops import asad, noise


@dataclass(kw_only=True, eq=False, repr=False)
class DropMAE(PairAutoencoder):
    """Masked autoencoder of frame pairs in whose decoder within-frame attention is dropped, section 3.2.

    Departs from the official code in two points: dropout is off outside training unless asked for, and P = 0 runs
    (it is TwinMAE). A positive P too small to drop anything is an error.
    """

    # Objective
    drop_ratio: float = 0.1
    """P: share of the within-frame pairs dropped, N_d = int(P (N - 1)) 2 N per sample and head."""
    drop_in_eval: bool = False
    """Drop attention in evaluation mode too, as the official code does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        asad.drop_count(self.drop_ratio, self.grid[0] * self.grid[1])

    def attends(self, key: Tensor, grid: tuple[int, int]) -> list[Attend | None] | None:
        """ASAD in every decoder layer, for every head and query."""
        count = asad.drop_count(self.drop_ratio, grid[0] * grid[1])
        if not count or not (self.training or self.drop_in_eval):
            return None
        stream = noise.fold(key, noise.ASAD)
        layers = torch.arange(len(self.decoder.blocks), dtype=torch.int32, device=key.device)
        keys = noise.fold(stream[:, None], layers).unbind(1)
        return [partial(asad.attention, count=count, stream=layer) for layer in keys]
