"""Sharp masks from coarse ones: a small network that learned where the edges of things are.

Propagated labels have a cell of 14 or 16 pixels each. The network sees the picture at half its size, what was
propagated, and how much more often each colour was seen in the object than around it where it was given; it answers
how the logit of the mask is to change. It learned on pasted cut-outs, whose alpha is the truth, and knows no kinds of
things.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dropmae.nn import masking

LEVELS = 16
"""Steps of each primary in a table of colours."""
ODDS = 3.0
"""Largest logarithm of odds that a colour tells."""
AROUND = 0.75
"""How far around an object colours count as not its own, in sides of the box of its mask."""
WIDTHS = (16, 32, 48, 64)
"""Channels at half, a quarter, an eighth and a sixteenth of the picture's size."""
MARGIN = 24
"""Pixels of the half picture around what may be an object that are looked at."""
GIVEN = 6
"""Planes that go in: three of the picture, two of the mask, one of colours."""


def colour_odds(picture: Tensor, mask: Tensor) -> Tensor:
    """float32 [LEVELS^3] in -1 to 1: how much more often a colour is in the mask than around it.

    Of a picture float [3, H, W] of 0 to 1 and a mask bool [H, W]; all zeros where the mask is empty, or all there is.
    """
    inside = torch.zeros_like(mask)
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    table = torch.zeros(LEVELS**3, device=picture.device)
    if not len(rows):
        return table
    spans = []
    for found, size in ((rows, mask.shape[0]), (columns, mask.shape[1])):
        low, high = int(found[0]), int(found[-1]) + 1
        reach = max(8, round(AROUND * (high - low)))
        spans.append(slice(max(0, low - reach), min(size, high + reach)))
    inside[spans[0], spans[1]] = True
    if not (inside & ~mask).any():
        return table
    bins = places(picture)
    own, rest = (frequencies(bins[where]) for where in (mask, inside & ~mask))
    return ((own / rest).log() / ODDS).clamp(-1, 1)


def places(picture: Tensor) -> Tensor:
    """int64 [..., H, W]: where in the table each pixel of a picture float [..., 3, H, W] of 0 to 1 is."""
    red, green, blue = (picture * LEVELS).long().clamp(0, LEVELS - 1).unbind(-3)
    return (red * LEVELS + green) * LEVELS + blue


def frequencies(bins: Tensor) -> Tensor:
    """float32 [LEVELS^3]: how often each colour is, with some for its neighbours and a little for all."""
    counts = torch.bincount(bins, minlength=LEVELS**3).float().view(1, 1, LEVELS, LEVELS, LEVELS)
    kernel = torch.tensor([0.25, 0.5, 0.25], device=bins.device)
    kernel = kernel[:, None, None] * kernel[:, None] * kernel
    spread = functional.conv3d(counts, kernel[None, None], padding=1).flatten()
    return spread / spread.sum() + 1 / (10 * LEVELS**3)


def halved(frame: np.ndarray, device: torch.device) -> Tensor:
    """float32 [3, h, w] of 0 to 1: a frame uint8 [H, W, 3] at half its size."""
    picture = torch.from_numpy(np.ascontiguousarray(frame)).to(device).permute(2, 0, 1)[None].float() / 255
    return functional.interpolate(picture, [-(-side // 2) for side in frame.shape[:2]], mode="area")[0]


def shares(coarse: Tensor) -> tuple[Tensor, Tensor]:
    """Labels [K, h, w] as shares of all, and the same with each label's map stretched to 0..1 beforehand."""
    low, high = coarse.amin((1, 2), keepdim=True), coarse.amax((1, 2), keepdim=True)
    wide = (coarse - low) / (high - low).clamp_min(1e-6)
    return tuple(maps / maps.sum(0).clamp_min(1e-6) for maps in (coarse, wide))


def surroundings(mask: Tensor) -> tuple[slice, slice] | None:
    """Rows and columns of a mask [h, w] with a margin; None where it is empty."""
    spans = []
    for axis, size in zip((1, 0), mask.shape):
        found = mask.any(axis).nonzero()[:, 0]
        if not len(found):
            return None
        spans.append(slice(max(0, int(found[0]) - MARGIN), min(size, int(found[-1]) + 1 + MARGIN)))
    return spans[0], spans[1]


class Pair(nn.Module):
    """Two convolutions, the second of which begins at zero, beside what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.gelu(self.first(functional.gelu(x))))


class Sharpener(nn.Module):
    """See above: a U-Net of 0.2 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(GIVEN, WIDTHS[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(WIDTHS))
        self.on_way_down = nn.ModuleList(Pair(width) for width in WIDTHS)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(WIDTHS))
        self.on_way_up = nn.ModuleList(Pair(width) for width in WIDTHS[:-1])
        self.change = nn.Conv2d(WIDTHS[0], 1, 3, padding=1)
        nn.init.zeros_(self.change.weight)

    def forward(self, picture: Tensor, share: Tensor, stretched: Tensor, odds: Tensor) -> Tensor:
        """float32 [B, h, w]: the logit of each pixel of a picture [B, 3, h, w] of 0 to 1 being the object's.

        `share` [B, h, w] is what was propagated, `stretched` the same stretched to 0 to 1, `odds` that of colours.
        """
        mean, deviation = (picture.new_tensor(v).view(3, 1, 1) for v in (masking.MEAN, masking.DEVIATION))
        x = torch.cat([(picture - mean) / deviation, torch.stack([share, stretched, odds], 1) * 2 - 1], 1)
        x = self.on_way_down[0](self.stem(x))
        ways = [x]
        for down, pair in zip(self.down, self.on_way_down[1:]):
            ways.append(pair(down(functional.gelu(ways[-1]))))
        x = ways.pop()
        for up, pair in reversed(list(zip(self.up, self.on_way_up))):
            wide = ways.pop()
            x = functional.interpolate(up(x), wide.shape[2:], mode="bilinear", align_corners=False)
            x = pair(x + wide)
        before = torch.logit(stretched.float(), 0.02)
        return before + self.change(functional.gelu(x))[:, 0].float()
