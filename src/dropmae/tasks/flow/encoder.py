"""Features of two frames: convolutions at 1/4, 1/8 and 1/16 of the size, and tokens of a ViT.

The ViT is optional. It sees frames scaled so that a token is a cell of the coarsest map, whatever its patch is.
B pairs.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dropmae.nn import masking
from dropmae.nn.refine import detail
from dropmae.nn.vit import Encoder
from dropmae.ops.attention import attention

CELL = 16
"""Side in pixels of the cells of the coarsest map."""
STEPS = (4, 8, 16)
"""Sides in pixels of the cells of the maps."""
Pair = Literal["joint", "alternating", "separate"]
COLOURS = 3
"""Channels at the end of each map that are the picture itself, less its mean around each cell."""
Maps = list[Tensor]
"""[B, C + COLOURS, H / s, W / s] for each s of `STEPS`."""


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside what comes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class Stem(nn.Module):
    """Convolutions from pictures [B, 3, H, W] to the three maps, `widths` channels at 1/2, 1/4, 1/8, 1/16."""

    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, widths[0], 5, 2, padding=2)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, padding=1) for a, b in itertools.pairwise(widths))
        self.blocks = nn.ModuleList(Residual(width) for width in widths[1:])

    def forward(self, pictures: Tensor) -> Maps:
        found, x = [], functional.relu(self.first(pictures))
        for down, block in zip(self.down, self.blocks):
            x = block(functional.relu(down(x)))
            found.append(x)
        return found


def features(stem: Stem, frames: Any) -> Tensor:
    """[B, C, h, w]: the coarsest map of frames, as pre-trained encoders give theirs."""
    frames = masking.normalize(masking.as_frames(frames, stem.first.weight.device))
    return stem(fitted(frames))[-1]


def fitted(pictures: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] with the last row and column repeated up to multiples of the coarsest cell."""
    down, right = (-side % CELL for side in pictures.shape[2:])
    return functional.pad(pictures, (0, right, 0, down), mode="replicate") if down or right else pictures


def with_colours(maps: Maps, pictures: Tensor) -> Maps:
    """Maps with what pictures [B, 3, H, W] show at their scale: what aligns two frames before anything is learned."""
    found = []
    for each, side in zip(maps, STEPS):
        shown = detail(functional.avg_pool2d(pictures, side))
        found.append(torch.cat([each, shown], 1))
    return found


class StemEncoder(nn.Module):
    """Convolutions alone; both frames by themselves."""

    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.stem = Stem(widths)

    def features(self, frames: Any, frame: int = 0) -> Tensor:
        return features(self.stem, frames)

    def forward(self, pictures: Tensor) -> Maps:
        """Maps of pictures [2 B, 3, H, W], first frames and second ones, normalised, of sides that `CELL` divides."""
        return with_colours(self.stem(pictures), pictures)


class PairEncoder(Encoder):
    """A ViT beside the convolutions, which sees both frames: `pair` says how.

    joint: attention over the tokens of both, as DropMAE is trained; alternating: from the middle on every other block
    asks the other frame only (FAST), with the same weights; separate: each frame by itself. The frame whose pixels move
    is the query (identity 0, x), the next one the reference (1, z).
    """

    def __init__(self, widths: tuple[int, int, int, int], pair: Pair, *shape: int, **form: Any) -> None:
        super().__init__(*shape, frames=2, **form)
        self.pair, self.stem = pair, Stem(widths)
        self.onto = nn.Conv2d(self.width, widths[-1], 1)

    def forward(self, pictures: Tensor) -> Maps:
        """As `StemEncoder`; the tokens are added to the coarsest map."""
        maps, full = self.stem(pictures), pictures
        grid = maps[-1].shape[2:]
        sides = (grid[0] * self.patch, grid[1] * self.patch)
        if sides != pictures.shape[2:]:
            pictures = functional.interpolate(pictures, sides, mode="bilinear", antialias=sides < pictures.shape[2:])
        tokens = self.embed(masking.patchify(pictures, self.patch)) + self.positions(tuple(grid), pictures.device)
        pairs, count = len(tokens) // 2, tokens.shape[1]
        identity = self.frame_embed
        assert identity is not None
        tokens = tokens + torch.cat([identity(frame).expand(pairs, -1, -1) for frame in (0, 1)])
        if self.pair == "joint":
            tokens = self.encode(tokens.view(2, pairs, count, -1).transpose(0, 1).flatten(1, 2))
            tokens = tokens.unflatten(1, (2, count)).transpose(0, 1).flatten(0, 1)
        elif self.pair == "separate":
            tokens = self.encode(tokens)
        else:
            tokens = self.norm_pre(tokens)
            for number, block in enumerate(self.blocks):
                crossing = number >= len(self.blocks) // 2 and (len(self.blocks) - number) % 2 == 1
                tokens = block(tokens, cross if crossing else None)
            tokens = self.norm(tokens)
        maps[-1] = maps[-1] + self.onto(tokens.transpose(1, 2).unflatten(2, tuple(grid)))
        return with_colours(maps, full)


def cross(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of the first half of a batch to the second, and the other way round."""
    return attention(query, key.roll(len(key) // 2, 0), value.roll(len(value) // 2, 0))
