"""A world in two colours for trackers on a frozen encoder, and an encoder that sees colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dropmae.target import Target
from dropmae.tasks.dcf import DCF


class Colours(nn.Module):
    """An encoder without weights: each patch's mean colours in its four quarters."""

    patch = 14

    def layers(self, frames: Tensor, layers: tuple[int, ...]) -> Tensor:
        small = functional.avg_pool2d(frames.float() / 255 - 0.5, 7)
        return functional.pixel_unshuffle(small, 2).repeat(1, len(layers), 1, 1)


class Wide(Colours):
    """The same in the widths of two blocks of ViT-S."""

    def layers(self, frames: Tensor, layers: tuple[int, ...]) -> Tensor:
        return super().layers(frames, layers).repeat(1, 32, 1, 1)


def untrained(**fields: Any) -> Any:
    """A tracker that goes by its filter alone, and whose presence is how high the filter answers."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "taps": (1,),
        "widths": (12,),
        "channels": (12,),
        "head_width": 16,
        "head_depth": 1,
        "head_heads": 2,
    }
    plain = {"image": 168, "calibrate": False, "response_share": 1.0, "penalty": 0.0, "window": 0.0}
    settings: dict[str, Any] = {**sizes, **plain, **fields}
    task: Any = DCF(**settings)
    with torch.no_grad():
        task.head.reduce[0].weight.copy_(torch.eye(12))
        task.head.reduce[0].bias.zero_()
        task.head.sides.weight.zero_()
        task.head.sides.bias.zero_()
        first, last = task.head.presence[0], task.head.presence[2]
        for part in (first, last):
            part.weight.zero_()
            part.bias.zero_()
        first.weight[0, 16 + 2] = 40  # the filter's highest answer
        last.weight[0, 0], last.bias[0] = 1, -8
    task.encoder = Colours()
    return task.eval()


def made() -> tuple[np.ndarray, np.ndarray]:
    """A background [160, 240, 3] and a thing [32, 24, 3] that differs from all of it."""
    rng = np.random.default_rng(0)
    back = rng.integers(0, 120, (20, 30, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    thing = rng.integers(130, 255, (4, 3, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    return back, thing


def shown(world: tuple[np.ndarray, np.ndarray], *places: tuple[int, int]) -> np.ndarray:
    frame, thing = world[0].copy(), world[1]
    for x, y in places:
        frame[y : y + 32, x : x + 24] = thing
    return frame


def given(*places: tuple[float, float]) -> Target:
    boxes = np.array([[x, y, 24.0, 32.0] for x, y in places])
    return Target(ids=np.arange(1, len(places) + 1), boxes=boxes)


class Counted(Colours):
    """Notes how many crops each look at a frame takes."""

    def __init__(self) -> None:
        super().__init__()
        self.crops: list[int] = []

    def layers(self, frames: Tensor, layers: tuple[int, ...]) -> Tensor:
        self.crops.append(len(frames))
        return super().layers(frames, layers)
