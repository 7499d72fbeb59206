"""The flow of a pair as one graph: `Flow.answers` for pictures of one size, without guesses from halved pairs.

With them the graph would be four times as large, and its writing take a quarter of an hour.

input   first, second  uint8 [1, 3, H, W]   two frames
output  flow           float32 [2, H, W]    in pixels, from the first to the second
        occluded       float32 [H, W]       probability of being hidden in the second
        confidence     float32 [H, W]       probability that neither coordinate is off by more than `precise`
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dropmae.tasks import _graph

TOLERANCE = 0.02
"""Pixels that flow may be from PyTorch's."""
SHIFT = (3, 5)
"""Rows and columns by which the second picture of the trial is moved."""


class Step(nn.Module):
    """A pair's answer, without tiles, guesses from halved pairs, and the fit to pixels, whose steps would be thousands
    of nodes."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = copy.copy(task)
        self.task.halves = self.task.fit_rounds = 0

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.task.answers(torch.cat([first, second]))
        return found[:2], found[2], found[3]


def export(task: Any, out: Path) -> dict[str, Any]:
    """Writes the graph for frames of `task.image`; how far it is from PyTorch. ValueError and ArithmeticError as of
    `_graph.export`."""
    first = _graph.blocks((1, 3, *task.image))
    inputs = {"first": first, "second": first.roll(SHIFT, (2, 3))}
    return _graph.export(Step(task), inputs, ["flow", "occluded", "confidence"], out, TOLERANCE)
