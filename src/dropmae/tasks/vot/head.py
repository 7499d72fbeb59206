"""The centre head of a box tracker: a map of where the centre is, and beside it offsets and sizes; targets and losses.

As OSTrack has it (Ye et al., ECCV 2022, arXiv 2203.11991, section 3.3), after CornerNet and CenterNet. B samples, maps
of h x w cells; boxes are centre x, centre y, width, height in shares of the crop's side.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from dropmae.tasks._overlaps import overlaps

CERTAIN = 1e-4
"""Scores and sizes keep this distance from 0 and 1."""
PRIOR = 0.1
"""What a new head says of every cell."""
OVERLAP = 0.7
"""Of two boxes of one size, how much at least they must overlap for the one to be no wrong answer for the other."""


class Maps(NamedTuple):
    """What the head says about every cell of the search crop, float32."""

    score: Tensor
    """[B, 1, h, w] in (0, 1): whether the object's centre is in the cell."""
    offset: Tensor
    """[B, 2, h, w]: centre x, y less the cell's corner, in cells."""
    size: Tensor
    """[B, 2, h, w] in (0, 1): width and height in shares of the crop's side."""


class CentreHead(nn.Module):
    """Three branches of four 3x3 convolutions with batch normalisation, each half as wide as the one before."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        if channels < 8 or channels % 8:
            raise ValueError(f"the head's width is halved three times: a multiple of 8, not {channels}")
        self.score = branch(width, channels, 1)
        self.offset = branch(width, channels, 2)
        self.size = branch(width, channels, 2)
        # As CornerNet begins, and OSTrack does not: one cell in ten may be the centre. With one in two, the first
        # hundreds of steps only bring the map down.
        last = cast(nn.Conv2d, self.score[-1])
        assert last.bias is not None
        nn.init.constant_(last.bias, math.log(PRIOR / (1 - PRIOR)))

    def forward(self, features: Tensor) -> Maps:
        """Maps from features [B, C, h, w]."""
        # In float32: bfloat16 has nothing between 1 and 1 - CERTAIN.
        score, size = (bounded(part(features).float()) for part in (self.score, self.size))
        return Maps(score, self.offset(features).float(), size)


def branch(width: int, channels: int, out: int) -> nn.Sequential:
    widths = [width, channels, channels // 2, channels // 4, channels // 8]
    parts: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        parts.append(nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True)))
    made = nn.Sequential(*parts, nn.Conv2d(widths[-1], out, 1))
    for parameter in made.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    return made


def bounded(logits: Tensor) -> Tensor:
    return torch.sigmoid(logits).clamp(CERTAIN, 1 - CERTAIN)


def decode(maps: Maps, response: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Boxes [B, 4] and scores [B] at the highest cell of `response` [B, 1, h, w], by default the scores themselves."""
    grid = maps.score.shape[-2:]
    peak = (maps.score if response is None else response).flatten(1).argmax(1, keepdim=True)  # [B, 1]
    at = peak[:, None].expand(-1, 2, -1)
    offset, size = (values.flatten(2).gather(2, at).squeeze(2) for values in (maps.offset, maps.size))
    cell = torch.cat([peak % grid[1], peak // grid[1]], 1)  # x, y
    centre = (cell + offset) / torch.tensor([grid[1], grid[0]], device=offset.device)
    return torch.cat([centre, size], 1), maps.score.flatten(1).gather(1, peak).squeeze(1)


def hann(side: int) -> Tensor:
    """float32 [side, side]: the window that favours the middle, 0.5 (1 - cos(2 pi k / (side + 1))), k = 1 .. side."""
    line = 0.5 * (1 - torch.cos(2 * math.pi / (side + 1) * torch.arange(1, side + 1)))
    return line[:, None] * line


def gaussian_radius(size: Tensor, overlap: float = OVERLAP) -> Tensor:
    """[B]: how far, in cells, corners of a box of width and height [B, 2] may be off for it to keep `overlap`.

    The smallest of CornerNet's three roots as its published code has them: the larger solution of each quadratic, and
    divided by 2 where the formula has 2 a.
    """
    total, area = size.sum(-1), size.prod(-1)
    keep = 1 - overlap
    quadratics = [
        (1.0, total, area * keep / (1 + overlap)),
        (4.0, 2 * total, keep * area),
        (4 * overlap, -2 * overlap * total, -keep * area),
    ]
    return torch.stack([(b + (b * b - 4 * a * c).clamp(min=0).sqrt()) / 2 for a, b, c in quadratics]).amin(0)


def heatmap(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, 1, h, w]: 1 in the cell of each centre of boxes x y w h [B, 4] in shares, falling off as a Gaussian.

    The cell is the rounded centre (half to even), sigma (2 r + 1) / 6 with the whole part r of `gaussian_radius`.
    """
    cells = torch.tensor([grid[1], grid[0]], device=boxes.device)
    size = boxes[:, 2:] * cells
    centre = (boxes[:, :2] * cells + size / 2).round()
    radius = gaussian_radius(size).floor().clamp(min=0)[:, None, None]
    sigma = (2 * radius + 1) / 6
    x = torch.arange(grid[1], device=boxes.device) - centre[:, :1, None]  # [B, 1, w]
    y = torch.arange(grid[0], device=boxes.device)[:, None] - centre[:, 1:, None]  # [B, h, 1]
    bump = torch.exp(-(x * x + y * y) / (2 * sigma * sigma))
    return torch.where((x.abs() <= radius) & (y.abs() <= radius), bump, 0)[:, None]


def focal_loss(score: Tensor, target: Tensor) -> Tensor:
    """CornerNet's focal loss (alpha 2, beta 4) of scores against a heat map, both [B, 1, h, w], per positive cell."""
    positive = target == 1
    found = torch.log(score) * (1 - score).square()
    missed = torch.log(1 - score) * score.square() * (1 - target).pow(4)
    return -torch.where(positive, found, missed).sum() / positive.sum().clamp(min=1)


def to_corners(boxes: Tensor) -> Tensor:
    """x0 y0 x1 y1 of boxes given by centre and size, [B, 4]."""
    half = boxes[:, 2:] / 2
    return torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], 1)


def box_losses(maps: Maps, boxes: Tensor) -> dict[str, Tensor]:
    """{"giou", "l1", "focal", "iou"} of the head's maps against true boxes x y w h [B, 4] in shares of the crop.

    The box that is judged is the one at the highest score, so that only that cell's offset and size learn.
    """
    found = to_corners(decode(maps)[0])
    true = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1).clamp(0, 1)
    iou, giou = overlaps(found, true)
    return {
        "giou": (1 - giou).mean(),
        "l1": (found - true).abs().mean(),
        "focal": focal_loss(maps.score, heatmap(boxes, (maps.score.shape[-2], maps.score.shape[-1]))),
        "iou": iou.mean().detach(),
    }
