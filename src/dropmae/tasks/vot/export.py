"""A tracker's step as one graph of fixed shapes: torch.export (.pt2) or ONNX, checked against what it was made of.

input   template  uint8 [N, 3, Z, Z]   crops of the objects as they were first (`crops.cut` with `template_factor`)
        search    uint8 [N, 3, S, S]   crops around where they were last (`search_factor`)
output  boxes     float32 [N, 4]       centre x, y, width, height in shares of the search crop (`crops.from_crop`)
        scores    float32 [N]          confidence
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dropmae.tasks import _graph
from dropmae.tasks.vot import head

TOLERANCE = 1e-4
"""How far boxes and scores of a graph may be from PyTorch's."""


class Step(nn.Module):
    """The part of `VOT.step` that a network computes."""

    def __init__(self, tracker: Any) -> None:
        super().__init__()
        if tracker.ce_template_range == "box":
            raise ValueError("a tracker with ce_template_range=box cannot be exported: the graph has no box")
        self.tracker = tracker
        self.window = head.hann(tracker.grid[0])

    def forward(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.tracker.encoder.tokens(template, 1)
        count = len(self.tracker.rows(tokens.device))
        weights = torch.full((template.shape[0], count), 1 / count, device=tokens.device)
        maps = self.tracker.respond(tokens, weights, search, self.tracker.ce_keep_ratio, None)
        return head.decode(maps, maps.score * self.window if self.tracker.window else None)


def export(tracker: Any, out: Path, objects: int = 1) -> dict[str, Any]:
    """Writes the step of a tracker for so many objects to OUT.pt2 or OUT.onnx; how far it is from PyTorch.

    ValueError where it is no tracker, or where a package for ONNX is missing; ArithmeticError where the graph computes
    something else.
    """
    if objects < 1:
        raise ValueError(f"objects must be at least 1, not {objects}")
    template, search = trial_crops(tracker, objects)
    return _graph.export(Step(tracker), {"template": template, "search": search}, ["boxes", "scores"], out, TOLERANCE)


def trial_crops(tracker: Any, objects: int) -> tuple[Tensor, Tensor]:
    """A template and a search crop for so many objects: two places of one picture, so that there is something to find.

    Any crops would do.
    """
    picture = _graph.blocks((objects, 3, 2 * tracker.image, 2 * tracker.image))
    sides = tracker.template, tracker.image
    template, search = (picture[..., :side, :side].contiguous() for side in sides)
    return template, search
