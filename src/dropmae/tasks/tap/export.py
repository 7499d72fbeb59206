"""A step of the point tracker as one graph: a frame and what is known of N points go in, what is known then comes out.

input   frame      uint8 [1, 3, S, S]    at the size that the network sees
        fresh      bool [1, N]           points that are asked for in this frame, anew or for the first time
        asked      float32 [1, N, 2]     where, x and y in pixels; of other points anything
        places, speed, own4, own8, later4, later8, memory, seen    the state: zeros before the first frame
output  places     float32 [1, N, 2]     in pixels; of fresh points where they were asked for
        speed ... seen                   the rest of the state; `seen` [1, N] is the logit of being visible
        spread     float32 [1, N]        logarithm of the error in pixels that is expected along x and along y
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dropmae.tasks import _graph
from dropmae.tasks.tap.features import STRIDES
from dropmae.tasks.tap.follower import Points, chosen

TOLERANCE = 0.02
"""Pixels that places may be from PyTorch's."""
STATE = ("places", "speed", *(f"own{s}" for s in STRIDES), *(f"later{s}" for s in STRIDES), "memory", "seen")


def packed(points: Points) -> tuple[Tensor, ...]:
    """What is known of points, in the order of STATE."""
    return points.places, points.speed, *points.own, *points.later, points.memory, points.seen


def unpacked(state: tuple[Tensor, ...]) -> Points:
    """The way back."""
    count = len(STRIDES)
    places, speed, memory, seen = state[0], state[1], state[-2], state[-1]
    return Points(places, speed, state[2 : 2 + count], state[2 + count : 2 + 2 * count], memory, seen)


class Step(nn.Module):
    """A frame's step, with points that begin in it."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task

    def forward(self, frame: Tensor, fresh: Tensor, asked: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        maps = tuple(one.float() for one in self.task.encoder(frame))
        found = self.task.head(maps, unpacked(state))
        points = chosen(fresh, self.task.head.asked(maps, asked), found.points)
        return *packed(points), found.spread


def export(task: Any, out: Path, points: int) -> dict[str, Any]:
    """Writes the graph for so many points and square frames of side `task.image`; how far it is from PyTorch.

    ValueError and ArithmeticError as of `_graph.export`.
    """
    if points < 1:
        raise ValueError(f"objects must be at least 1, not {points}: it is how many points the graph follows")
    first = _graph.blocks((1, 3, task.image, task.image))
    asked = torch.rand(1, points, 2, generator=torch.Generator().manual_seed(0)) * task.image
    step = Step(task).eval()
    with torch.no_grad():
        maps = tuple(one.float() for one in task.encoder(first))
        known = packed(task.head.asked(maps, asked))
    fresh = torch.arange(points)[None] % 4 == 3
    inputs = {
        "frame": first.roll((2, 3), (2, 3)),
        "fresh": fresh,
        "asked": asked,
        **dict(zip(STATE, known, strict=True)),
    }
    gives = [f"next_{name}" for name in STATE]
    return _graph.export(step, inputs, [*gives, "spread"], out, TOLERANCE)
