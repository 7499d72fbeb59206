"""From features of two frames to flow: global matching, then the warping refiner from coarse to fine, then upsampling.

B pairs, C channels of what is compared, D of what is remembered; h x w cells of a map. Flow is in cells of the map at
hand until the end, where it is in pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dropmae.nn.refine import Refiner, centres, convex_upsample, sample, smoothed
from dropmae.tasks.flow.encoder import COLOURS, STEPS, Maps

CHUNK = 1 << 24
"""Most similarities that matching holds at once where nothing is trained: 64 MiB."""
NEAR = 3.0
"""Cells from the likeliest goal of a cell beyond which others do not count: however large pictures are."""
SHARPEST = 100.0
"""Of the softmax over the other frame: largest factor on cosines."""
DISTRUST = -2.0
"""Of matching, before it is trained: logit of the share of its flow that the first look begins with."""
FINEST = 0.05
"""Pixels added to errors before the root is taken, by which near ones count more than hopeless ones."""
GUESSED = 8
"""Side in pixels of the smallest cells in which a guess is considered."""
BROADEST = 10.0
"""Logarithm of the largest scale of the error's broad part, as in SEA-RAFT."""


class Found(NamedTuple):
    """What the decoder answers for pairs of frames of H x W pixels."""

    flow: Tensor
    """[B, 2, H, W] in pixels."""
    logits: Tensor
    """[B, 3, H, W]: weight of the error's narrow part, log-scale of its broad part, occlusion."""
    gate: Tensor
    """[B, 1, H / 2, W / 2]: the share of `refine.polish`'s steps that should be taken."""
    steps: list[tuple[int, Tensor]]
    """Side of a cell and flow [B, 2, h, w], in such cells, after matching and after each look."""
    match: Tensor | None
    """[B, N, N]: logits of the coarsest cells of frame 1 over those of frame 2; None where they were not kept."""


class Matched(NamedTuple):
    """What global matching finds for each cell."""

    flow: Tensor
    """[B, 2, h, w]: the expected goal, near the likeliest one, less the cell's own place."""
    told: Tensor
    """[B, 3, h, w]: how far goals near it are spread along x and y, logarithms; their share of all goals."""
    logits: Tensor | None


def match(own: Tensor, other: Tensor, sharpness: Tensor, keep: bool) -> Matched:
    """Global matching: a softmax over all cells of the other map, in float32; by chunks of rows if not `keep`."""
    b, _c, h, w = own.shape
    places = centres(h, w, own.device)[0].flatten(1).T  # [N, 2]
    table = torch.cat([places, places * places], 1)
    query = functional.normalize(own.float().flatten(2).transpose(1, 2), dim=-1) * sharpness
    key = functional.normalize(other.float().flatten(2), dim=1)
    rows = h * w if keep else max(1, CHUNK // (b * h * w))
    moments, largest, logits = [], [], None
    for part in query.split(rows, 1):
        logits = part @ key
        peak = places[logits.argmax(-1)]  # [B, rows, 2]
        near = ((peak[..., None, :] - places).abs() <= NEAR).all(-1)
        share = logits.softmax(-1) * near
        largest.append(share.sum(-1, keepdim=True))
        moments.append(share @ table / largest[-1])
    moment, top = torch.cat(moments, 1), torch.cat(largest, 1)
    spread = (moment[..., 2:] - moment[..., :2] ** 2).clamp(min=1e-4).log()
    told = torch.cat([spread / 4, top], -1).transpose(1, 2).unflatten(2, (h, w))
    flow = (moment[..., :2] - places).transpose(1, 2).unflatten(2, (h, w))
    return Matched(flow, told, logits if keep else None)


def likelier(own: Tensor, other: Tensor, here: Tensor, flow: Tensor, guess: Tensor) -> Tensor:
    """Of two flows [B, 2, h, w] the one that makes the maps more alike around each cell."""
    left, rest = (smoothed((own - sample(other, here + one)).square().mean(1, keepdim=True)) for one in (flow, guess))
    return torch.where(rest < left, guess, flow)


def doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class FlowDecoder(nn.Module):
    """`widths` of the maps from fine to coarse, `channels` C, `memory` D, `looks` at each map from fine to coarse."""

    def __init__(
        self, widths: tuple[int, ...], channels: int, memory: int, radius: int, looks: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.looks = looks
        widths = tuple(width + COLOURS for width in widths)
        self.compare = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        self.remember = nn.ModuleList(nn.Conv2d(width, memory, 1) for width in widths)
        self.query = nn.Conv2d(widths[-1], channels, 1)
        self.sharpness = nn.Parameter(torch.tensor(10.0).log())
        self.judge = nn.Conv2d(memory + 5, memory, 3, padding=1)
        self.gate = nn.Conv2d(memory, 1, 1)
        self.refiner = Refiner(channels + COLOURS, memory, radius=radius, extra=2)
        self.weigh = nn.Sequential(
            nn.Conv2d(memory, memory, 3, padding=1), nn.ReLU(), nn.Conv2d(memory, 9 * STEPS[0] ** 2, 1)
        )
        self.doubt = nn.Sequential(nn.Conv2d(memory, memory, 3, padding=1), nn.ReLU(), nn.Conv2d(memory, 4, 1))
        for layer in self.compare:
            assert isinstance(layer, nn.Conv2d)
            nn.init.normal_(layer.weight, std=0.005)
        for layer in (self.gate, self.doubt[-1], self.weigh[-1]):
            assert isinstance(layer, nn.Conv2d)
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        assert self.gate.bias is not None
        nn.init.constant_(self.gate.bias, DISTRUST)

    def compared(self, level: int, maps: Maps) -> Tensor:
        """Features [B, C + COLOURS, h, w] that the refiner compares."""
        return torch.cat([self.compare[level](maps[level]), maps[level][:, -COLOURS:]], 1)

    def forward(self, first: Maps, second: Maps, *, keep: bool = False, guess: Tensor | None = None) -> Found:
        """Flow from the first frames to the second ones, of their maps; `keep` keeps what matching found.

        A `guess` [B, 2, H, W] in pixels is taken up at the coarser scales where it makes the maps more alike.
        """
        steps: list[tuple[int, Tensor]] = []
        matched = match(self.query(first[-1]), self.query(second[-1]), self.sharpness.exp().clamp(max=SHARPEST), keep)
        start = self.remember[-1](first[-1])
        judged = functional.relu(self.judge(torch.cat([start, matched.flow / 8, matched.told], 1)))
        flow, memory = matched.flow * torch.sigmoid(self.gate(judged)), start + judged
        for level in reversed(range(len(STEPS))):
            if level < len(STEPS) - 1:
                flow, memory = 2 * doubled(flow), doubled(memory) + self.remember[level](first[level])
            own, other = self.compared(level, first), self.compared(level, second)
            here = centres(flow.shape[2], flow.shape[3], flow.device)
            if guess is not None and STEPS[level] >= GUESSED:
                flow = likelier(own, other, here, flow, functional.avg_pool2d(guess, STEPS[level]) / STEPS[level])
            steps.append((STEPS[level], flow))
            for _ in range(self.looks[level]):
                places, memory = self.refiner(own, other, here + flow, memory, (flow.detach() / 8).tanh())
                flow = places - here
                steps.append((STEPS[level], flow))
        told = torch.cat([flow * STEPS[0], self.doubt(memory)], 1)
        fine = convex_upsample(told, self.weigh(memory), STEPS[0])
        gate = 2 * torch.sigmoid(functional.avg_pool2d(fine[:, 5:], 2))
        return Found(fine[:, :2], fine[:, 2:5], gate, steps, matched.logits)


def losses(found: Found, true: Tensor, occluded: Tensor, farthest: float, decay: float) -> dict[str, Tensor]:
    """The parts of the loss: steps, matching, likelihood, occlusion; and the end-point error.

    `true` flow [B, 2, H, W], NaN where it is not known; `occluded` [B, H, W], 0 or 1, 255 where that is not known.
    Flow longer than `farthest` does not count.
    """
    known = (~true.isnan().any(1)) & ((true.nan_to_num() ** 2).sum(1) < farthest**2)
    true, weight = true.nan_to_num(), known[:, None].float()
    total = true.new_zeros(())
    for number, (side, flow) in enumerate(reversed(found.steps), 1):
        count = functional.avg_pool2d(weight, side)
        goal = functional.avg_pool2d(true * weight, side) / count.clamp(min=1e-6)
        error = ((flow * side - goal).abs().sum(1, keepdim=True) + FINEST).sqrt() * count
        total = total + decay**number * error.sum() / count.sum().clamp(min=1)
    error = found.flow - true
    narrow, scale = found.logits[:, :1], found.logits[:, 1:2].clamp(0, BROADEST)
    size = error.abs()
    likely = torch.logaddexp(
        functional.logsigmoid(narrow) - size, functional.logsigmoid(-narrow) - scale - size * torch.exp(-scale)
    )
    every = weight.sum().clamp(min=1)
    seen = (occluded != 255).float() * known
    cover = functional.binary_cross_entropy_with_logits(
        found.logits[:, 2], (occluded == 1).float(), weight=seen, reduction="sum"
    ) / seen.sum().clamp(min=1)
    parts = {
        "steps": total,
        "likelihood": -(likely * weight).sum() / every,
        "occlusion": cover,
        "epe": ((error.detach() ** 2).sum(1).sqrt() * known).sum() / every,
    }
    if found.match is not None:
        parts["matching"] = matching(found.match, true, known & (occluded == 0))
    return parts


def matching(logits: Tensor, true: Tensor, seen: Tensor) -> Tensor:
    """Cross-entropy of coarse cells [B, N, N] against the four around where their middle goes, if that is seen."""
    side = STEPS[-1]
    h, w = true.shape[2] // side, true.shape[3] // side
    middle = (slice(None), slice(None), slice(side // 2, None, side), slice(side // 2, None, side))
    goal = centres(h, w, true.device) + true[middle] / side - 0.5  # in cells, whole numbers at their centres
    counts = seen[:, None][middle][:, 0]
    low, total, inside = goal.floor(), 0.0, counts
    log = logits.log_softmax(-1).unflatten(1, (h, w))
    for dy in (0, 1):
        for dx in (0, 1):
            x, y = low[:, 0] + dx, low[:, 1] + dy
            there = (x >= 0) & (x < w) & (y >= 0) & (y < h)
            share = (1 - (goal[:, 0] - x).abs()) * (1 - (goal[:, 1] - y).abs()) * there
            index = (y.clamp(0, h - 1) * w + x.clamp(0, w - 1)).long()
            total = total - share * log.gather(3, index[..., None])[..., 0]
    return (total * inside).sum() / inside.sum().clamp(min=1)
