"""Two ways of making tokens of points, so that a plain ViT takes them: pillars, and a picture from above."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dropmae.nn import masking
from dropmae.nn.vit import Encoder

FEATURES = 10
"""Numbers that a pillar's network is told of a point."""


def cells(points: Tensor, grid: int, side: Tensor) -> tuple[Tensor, Tensor]:
    """int64 [B, K]: the cell of a grid x grid square, row by row along x, of points [B, K, 2 or more]; grid ** 2 for
    those outside. Also places within it, float [B, K, 2] in [-0.5, 0.5]. `side` [B] is a cell's, in metres."""
    place = points[..., :2] / side[:, None, None] + grid / 2
    whole = place.floor()
    within = ((whole >= 0) & (whole < grid)).all(-1)
    index = (whole[..., 0] * grid + whole[..., 1]).where(within, torch.full_like(whole[..., 0], grid**2))
    return index.long(), torch.where(within[..., None], place - whole - 0.5, 0.0)


def gathered(values: Tensor, index: Tensor, count: int, how: str) -> Tensor:
    """[B, count, C]: per cell the largest ("amax") or the sum of values [B, K, C] that are not negative."""
    out = values.new_zeros(len(values), count + 1, values.shape[2])
    return out.scatter_reduce(1, index[..., None].expand_as(values), values, how)[:, :count]


class Pillars(nn.Module):
    """A token per cell: a small network sees each point, and of its outputs the largest stay (PointPillars)."""

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.points = nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.out = nn.Linear(hidden + 1, width)

    def forward(self, points: Tensor, size: Tensor, side: Tensor, grid: int) -> Tensor:
        """[B, grid ** 2, D] of points [B, K, 5] around a box of `size` [B, 3] (w, l, h)."""
        index, place = cells(points, grid, side)
        there = (index < grid**2)[..., None]
        half = size[:, None, [1, 0, 2]] / 2
        told = [points[..., :3] / (side[:, None, None] * 5), (points[..., :3] / half).clamp(-4, 4), place]
        seen = torch.where(there, torch.cat([*told, points[..., 3:5]], -1), 0.0)
        known = self.points(seen)
        top = gathered(torch.where(there, known, 0.0), index, grid**2, "amax")
        count = gathered(there.to(known.dtype), index, grid**2, "sum")
        return self.out(torch.cat([top, (count + 1).log()], -1))


class Picture(nn.Module):
    """The square seen from above as a picture: the highest point, how many there are, and whether the object is there.

    It goes through the patch embedding of a pre-trained encoder as it is.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = [encoder]  # which is not a part of it

    def forward(self, points: Tensor, size: Tensor, side: Tensor, grid: int) -> Tensor:
        encoder = self._encoder[0]
        pixels = grid * encoder.patch
        index, _ = cells(points, pixels, side / encoder.patch)
        there = index < pixels**2
        height = ((points[..., 2] / size[:, None, 2]) + 1).clamp(0, 2) / 2
        channels = torch.stack([height, points[..., 3]], -1) * there[..., None]
        top = gathered(channels, index, pixels**2, "amax")
        count = gathered(there[..., None].to(top.dtype), index, pixels**2, "sum")
        picture = torch.cat([top[..., :1], (count / 4).clamp(max=1), top[..., 1:]], -1)
        frames = picture.transpose(1, 2).unflatten(2, (pixels, pixels))
        return encoder.embed(masking.patchify(masking.normalize((frames * 255).to(torch.uint8)), encoder.patch))
