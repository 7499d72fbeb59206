"""What points are recognised by: a light pyramid of convolutions, at every fourth and every eighth pixel."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from dropmae.nn.masking import normalize

STRIDES = (4, 8)
"""Pixels between the cells of the two maps."""
COARSEST = 16
"""What the sides of a picture are a multiple of."""


class Block(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = convolution(width, width), convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.relu(self.first(x)))


def convolution(given: int, width: int, side: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution and its normalisation, over groups of eight channels."""
    layer = nn.Conv2d(given, width, side, stride, side // 2, bias=False)
    return nn.Sequential(layer, nn.GroupNorm(width // 8, width))


class Pyramid(nn.Module):
    """Convolutions down to every sixteenth pixel, and sums on the way back; maps of `channels` at STRIDES."""

    def __init__(self, widths: tuple[int, ...], channels: int) -> None:
        super().__init__()
        stem, *rest = widths
        self.stem = convolution(3, stem, 7, 2)
        self.down = nn.ModuleList(convolution(a, b, 3, 2) for a, b in zip(widths, rest))
        self.blocks = nn.ModuleList(Block(width) for width in rest)
        self.across = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in rest)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [B, C, H / 4, W / 4] and [B, C, H / 8, W / 8] of frames [B, 3, H, W], uint8 or normalised."""
        x = normalize(frames)
        x, levels = functional.relu(self.stem(x)), []
        for down, block, across in zip(self.down, self.blocks, self.across):
            x = functional.relu(block(functional.relu(down(x))))
            levels.append(across(x))
        eighth = levels[1] + functional.interpolate(levels[2], scale_factor=2, mode="bilinear")
        fourth = levels[0] + functional.interpolate(eighth, scale_factor=2, mode="bilinear")
        return fourth, eighth

    def features(self, frames: Tensor) -> Tensor:
        """[B, C, H / 8, W / 8]."""
        return self(frames)[1]
