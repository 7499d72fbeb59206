"""From the features of a vision transformer to masks: a feature pyramid, a convolutional decoder, many objects in one.

Pyramid and decoder of DropSeg's published code (the decoder is STCN's, Cheng et al., NeurIPS 2021, arXiv 2106.05210;
the aggregation is STM's, Oh et al., ICCV 2019, arXiv 1904.00607, equation 4). R rows, one object each; features are on
a grid of h x w patches; B samples or videos, K objects.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CERTAIN = 1e-7
"""Probabilities keep this distance from 0 and 1 when objects are weighed against each other."""


class MaskDecoder(nn.Module):
    """One mask's logits from features of one scale: pyramid at 2 and 4 times the grid, then merged upwards.

    Widths of the merged maps, from coarse to fine: 2/3, 1/3 and 1/3 of the encoder's (base: 512, 256, 256).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        middle, fine = 2 * width // 3, width // 3
        self.twice = nn.ConvTranspose2d(width, middle, 2, 2)
        self.fourfold = nn.ModuleList(
            [
                nn.ConvTranspose2d(width, width, 2, 2),
                nn.LayerNorm(width, eps=1e-6),
                nn.ConvTranspose2d(width, fine, 2, 2),
            ]
        )
        self.compress = Residual(width, middle)
        self.merge_twice = Merge(middle, middle, fine)
        self.merge_fourfold = Merge(fine, fine, fine)
        self.pred = nn.Conv2d(fine, 1, 3, padding=1)

    def pyramid(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [R, C', 2h, 2w] and [R, C'', 4h, 4w] of features [R, C, h, w]."""
        first, norm, second = self.fourfold
        wide = first(features).permute(0, 2, 3, 1)
        wide = functional.gelu(norm(wide)).permute(0, 3, 1, 2)
        return self.twice(features), second(wide)

    def forward(self, features: Tensor, sides: tuple[int, int]) -> Tensor:
        """Logits float32 [R, H, W], H and W as in `sides`, of features [R, C, h, w]."""
        features = features.contiguous(memory_format=torch.channels_last)
        twice, fourfold = self.pyramid(features)
        merged = self.merge_twice(twice, self.compress(features))
        merged = self.merge_fourfold(fourfold, merged)
        logits = self.pred(functional.relu(merged)).float()
        return functional.interpolate(logits, sides, mode="bilinear", align_corners=False).squeeze(1)


class Residual(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, beside the input (through a convolution where the width changes)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(width, out, 3, padding=1) if width != out else None
        self.conv1 = nn.Conv2d(width, out, 3, padding=1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        added = self.conv2(functional.relu(self.conv1(functional.relu(x))))
        return (x if self.shortcut is None else self.shortcut(x)) + added


class Merge(nn.Module):
    """A coarse map, enlarged, joined with the pyramid's map of the finer scale."""

    def __init__(self, fine: int, width: int, out: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(fine, width, 3, padding=1)
        self.out = Residual(width, out)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """[R, out, 2h, 2w] from [R, fine, 2h, 2w] and [R, width, h, w]."""
        larger = functional.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        return self.out(self.skip(fine) + larger)


def aggregate(probability: Tensor) -> Tensor:
    """Logits [B, 1 + K, H, W] of background and objects, from the objects' own probabilities [B, K, H, W].

    The background's is prod(1 - p_k); all are turned into odds, of which softmax takes the shares.
    """
    background = (1 - probability).prod(dim=1, keepdim=True)
    return torch.logit(torch.cat([background, probability], dim=1).clamp(CERTAIN, 1 - CERTAIN))


def bootstrapped(loss: Tensor, share: float) -> Tensor:
    """[B]: the mean of the greatest `share` of each sample's losses [B, ...] (bootstrapped cross-entropy)."""
    flat = loss.flatten(1)
    if share >= 1:
        return flat.mean(1)
    return flat.topk(max(1, int(flat.shape[1] * share)), dim=1, sorted=False).values.mean(1)


def bootstrap_share(progress: float, start: float, end: float, least: float) -> float:
    """Share of the pixels that count at `progress`: all up to `start`, from `end` on `least`, linear between them."""
    if progress < start:
        return 1.0
    return least + (1 - least) * max(0.0, (end - progress) / (end - start))
