"""From tokens of a clip to its class: a mean, or a query that attends to them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dropmae.nn.vit import MLP
from dropmae.ops import noise
from dropmae.ops.attention import attention

DROPOUT = 4
"""Stream of random numbers."""


class MeanHead(nn.Module):
    """The mean of all tokens, normalised, and a linear layer.

    Fine-tuning: a layer norm, dropout, and a layer that begins at a thousandth of its usual size (VideoMAE). Linear
    probe: a batch norm without weights, and a layer of deviation .01 (MAE).
    """

    def __init__(self, width: int, classes: int, dropout: float, linear: bool) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = nn.BatchNorm1d(width, eps=1e-6, affine=False) if linear else nn.LayerNorm(width, eps=1e-6)
        self.classify = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.classify.weight, std=0.01 if linear else 2e-5)
        nn.init.zeros_(self.classify.bias)

    def forward(self, tokens: Tensor, key: Tensor | None = None) -> Tensor:
        """Logits [B, classes] of tokens [B, L, C]; dropout where keys int32 [B] are given."""
        x = self.norm(tokens.float().mean(1))
        if key is not None and self.dropout:
            kept = noise.uniform(noise.fold(key, DROPOUT), x.shape[1]) >= self.dropout
            x = x * kept / (1 - self.dropout)
        return self.classify(x)


class AttentiveHead(nn.Module):
    """One learned query that attends to all tokens, an MLP, and a linear layer (V-JEPA, arXiv 2404.08471)."""

    def __init__(self, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.mlp = MLP(width, 4 * width)
        self.classify = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.query, std=0.02)
        for layer in (self.q, self.kv, self.mlp.fc1, self.mlp.fc2, self.classify):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.mlp.fc2.weight.data /= math.sqrt(2)

    def forward(self, tokens: Tensor, key: Tensor | None = None) -> Tensor:
        """As `MeanHead`'s, without dropout."""
        clips, count, width = tokens.shape
        packed = self.kv(self.norm1(tokens)).view(clips, count, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        asked = self.q(self.query).view(1, 1, self.heads, -1).transpose(1, 2).expand(clips, -1, -1, -1)
        found = attention(asked.to(packed.dtype), packed[0], packed[1]).transpose(1, 2).reshape(clips, 1, width)
        x = self.query + found
        return self.classify((x + self.mlp(self.norm2(x)))[:, 0])
