"""Where points are in the next frame: a guess from the whole picture, then looks around it, each finer.

B videos, N points, C channels, D numbers that are remembered of a point. Places are (x, y) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dropmae.nn.refine import Refiner, centres, sample
from dropmae.tasks.tap.features import STRIDES

EXTRA = 6
"""Numbers that the refiner is told beside what it sees."""
NEAR = 2
"""Cells around the best one whose mean is the first guess."""


@dataclass(frozen=True, eq=False)
class Points:
    """What is known of points; its size does not change."""

    places: Tensor
    """[B, N, 2]: where they were in the last frame."""
    speed: Tensor
    """[B, N, 2]: how far they went from the frame before."""
    own: tuple[Tensor, ...]
    """[B, N, C] for each of STRIDES: what they look like in the frame in which they were asked for."""
    later: tuple[Tensor, ...]
    """The same of the last frames that showed them."""
    memory: Tensor
    """[B, N, D]"""
    seen: Tensor
    """[B, N]: logit of being visible."""


class Found(NamedTuple):
    """What a frame tells of the points."""

    points: Points
    guess: Tensor
    """[B, N, cells]: logits of the cells at every eighth pixel."""
    looks: list[Tensor]
    """Places [B, N, 2] after each look."""
    spread: Tensor
    """[B, N]: logarithm of the mean error, in pixels, that is expected along x and along y."""


class Follower(nn.Module):
    """Follows lists of points from frame to frame, each by itself.

    It `looks` so many times around a guess, first in the coarser map and then in the finer one; `rate` is how much of
    the later template is renewed by a frame that shows the point.
    """

    def __init__(self, channels: int, hidden: int, radius: int, looks: int, rate: float) -> None:
        super().__init__()
        self.looks, self.rate = looks, rate
        self.begin = nn.Linear(2 * channels, hidden)
        self.recall = nn.Linear(hidden, hidden)
        self.refiner = Refiner(channels, hidden, radius=radius, kernel=1, extra=EXTRA, moments=2)
        self.memory = nn.GRUCell(hidden, hidden)
        self.say = nn.Linear(2 * hidden, 2)
        self.weigh = nn.Linear(hidden, 3)
        nn.init.zeros_(self.weigh.weight)
        with torch.no_grad():
            self.weigh.bias.copy_(torch.tensor([3.0, 3.0, 1.0]))

    def asked(self, maps: tuple[Tensor, ...], places: Tensor) -> Points:
        """Points at places [B, N, 2] of the frame with these maps."""
        own = tuple(features_at(features, places / stride) for features, stride in zip(maps, STRIDES))
        memory = torch.tanh(self.begin(torch.cat(own, -1)))
        ones = torch.ones_like(places[..., 0])
        return Points(places, torch.zeros_like(places), own, own, memory, 4 * ones)

    def forward(self, maps: tuple[Tensor, ...], points: Points) -> Found:
        """The points in the next frame, from its maps [B, C, h, w] at STRIDES."""
        expected = points.places + points.speed
        guess, start, sure = self.guessed(maps[1], points, expected)
        hidden = (points.memory + self.recall(points.memory)).transpose(1, 2)[..., None]  # [B, D, N, 1]
        place, looks = start.detach().transpose(1, 2)[..., None], []
        for level in (1, *[0] * (self.looks - 1)):
            own = torch.stack([points.own[level], points.later[level]], 1).transpose(2, 3)[..., None]
            off = (place - expected.detach().transpose(1, 2)[..., None]).detach()
            told = [off / 16, sure.detach()[:, None, :, None], torch.sigmoid(points.seen)[:, None, :, None]]
            told += [torch.full_like(told[-1], level), points.speed.norm(dim=-1)[:, None, :, None] / 8]
            at, hidden = self.refiner(own, maps[level], place / STRIDES[level], hidden, torch.cat(told, 1))
            place = at * STRIDES[level]
            looks.append(place[..., 0].transpose(1, 2))
        result, seen = looks[-1].detach(), hidden[..., 0].transpose(1, 2)
        memory = self.memory(seen.flatten(0, 1), points.memory.flatten(0, 1)).unflatten(0, seen.shape[:2])
        visible, spread = self.say(torch.cat([seen, memory], -1)).unbind(-1)
        share = self.rate * torch.sigmoid(visible.detach())[..., None]
        now = (features_at(features, result / stride) for features, stride in zip(maps, STRIDES))
        later = tuple(old + share * (new - old) for old, new in zip(points.later, now))
        speed = 0.9 * ((result - points.places) * 0.7 + points.speed * 0.3)
        next_points = Points(result, speed, points.own, later, memory, visible)
        return Found(next_points, guess, looks, spread)

    def guessed(self, features: Tensor, points: Points, expected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, N, cells] of where the points are, the best place [B, N, 2], and its probability [B, N].

        Likeness counts less the farther a cell is from where a point is expected; how fast, it remembers itself.
        """
        stride, (height, width) = STRIDES[1], features.shape[2:]
        flat = features.flatten(2)
        size = flat.shape[1] ** -0.5
        weights = functional.softplus(self.weigh(points.memory))  # [B, N, 3]
        wanted = points.own[1] * weights[..., :1] + points.later[1] * weights[..., 1:2]
        cells = centres(height, width, features.device)[0].flatten(1).T * stride  # [cells, 2]
        far = torch.cdist(expected, cells[None]).square()
        logits = size * wanted @ flat - far * (weights[..., 2:] / 32) ** 2
        with torch.no_grad():
            share = logits.softmax(-1)
            best = logits.argmax(-1)
            near = torch.cdist(cells[best], cells[None].expand(len(best), -1, -1)) < (NEAR + 0.5) * stride
            part = share * near
            total = part.sum(-1)
            place = part @ cells / total[..., None].clamp(min=1e-9)
        return logits, place, total


def features_at(features: Tensor, places: Tensor) -> Tensor:
    """[B, N, C]: a map [B, C, h, w] at places [B, N, 2] in cells."""
    return sample(features, places.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)


def chosen(mine: Tensor, new: Points, old: Points) -> Points:
    """`new` where `mine` [B, N] holds, else `old`."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mine if a.ndim == 2 else mine[..., None], a, b)

    pairs = {name: (getattr(new, name), getattr(old, name)) for name in ("places", "speed", "memory", "seen")}
    picked = {name: pick(a, b) for name, (a, b) in pairs.items()}
    own, later = (tuple(map(pick, getattr(new, name), getattr(old, name))) for name in ("own", "later"))
    return replace(old, **picked, own=own, later=later)
