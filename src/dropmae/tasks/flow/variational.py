"""Flow brought to a part of a pixel: what the network found is the start of a search for the flow that fits best.

Wanted is flow under which brightness and its gradient stay, and which is smooth but at edges (Brox et al., ECCV 2004);
both constraints are measured in pixels, as Zimmer et al. (IJCV 2011) normalise them. The second picture is brought onto
the first along the flow that is there, all is linear in what is added to it, and the weights by which large errors
count less are found in turns with it. Each system is solved by a few steps of conjugate gradients. B pictures of H x W.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dropmae.nn.refine import centres, sample

SMOOTH, BRIGHTNESS, GRADIENT = 15.0, 5.0, 10.0
"""What each of the three counts."""
TINY, STEADY = 0.01, 0.1
"""Below which an error counts as its square; and what is added to a slope, in grey levels, before it divides."""
REACH = 2
"""Pixels to each side from which a second slope is made."""
INNER = 8
"""Steps of conjugate gradients for each set of weights."""


def settled(flow: Tensor, first: Tensor, second: Tensor, rounds: int) -> Tensor:
    """Flow [B, 2, H, W] as it fits best between grey pictures [B, 1, H, W] of 0 to 255, after so many rounds.

    Where it leads out of the picture there is nothing to fit, and smoothness alone holds.
    """
    if not rounds or min(flow.shape[2:]) < 3:
        return flow
    height, width = flow.shape[2:]
    places = centres(height, width, flow.device) + flow
    limit = torch.tensor([width, height], device=flow.device)[:, None, None]
    outside = ((places < 0) | (places > limit)).any(1, keepdim=True).float()
    inside = 1 - functional.max_pool2d(outside, 2 * REACH + 1, 1, REACH)  # what a second slope takes in
    warped = sample(second, places)
    both = (first + warped) / 2
    x, y = slopes(both)
    xx, xy = slopes(x)
    _, yy = slopes(y)
    change = warped - first
    change_x, change_y = slopes(change)
    lines = [  # factor, change, slopes: change + slope_x du + slope_y dv should be 0
        (1 / (x * x + y * y + STEADY**2), change, x, y),
        (1 / (xx * xx + xy * xy + STEADY**2), change_x, xx, xy),
        (1 / (xy * xy + yy * yy + STEADY**2), change_y, xy, yy),
    ]
    added = torch.zeros_like(flow)
    for _ in range(rounds):
        errors = [part * (off + a * added[:, :1] + b * added[:, 1:]) ** 2 for part, off, a, b in lines]
        bright = BRIGHTNESS * inside * (errors[0] + TINY**2).rsqrt()
        steep = GRADIENT * inside * (errors[1] + errors[2] + TINY**2).rsqrt()
        weights = [part * weight for (part, *_), weight in zip(lines, (bright, steep, steep))]
        of_u, of_v = (x, xx, xy), (y, xy, yy)
        own = torch.cat([total(weights, *pair) for pair in ((of_u, of_u), (of_u, of_v), (of_v, of_v))], 1)
        offs = tuple(off for _, off, *_ in lines)
        pull = -torch.cat([total(weights, offs, some) for some in (of_u, of_v)], 1)
        across, down = edges(flow + added)
        added = solved(own, across, down, pull - tension(flow, across, down), added)
    return flow + added


def total(weights: list[Tensor], one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> Tensor:
    """[B, 1, H, W]: the sum of three weighted products."""
    first, second, third = (weight * a * b for weight, a, b in zip(weights, one, other, strict=True))
    return first + second + third


def slopes(picture: Tensor) -> tuple[Tensor, Tensor]:
    """How a picture [B, 1, H, W] changes from left to right and from top to bottom, a pixel."""
    wide = functional.pad(picture, (1, 1, 1, 1), mode="replicate")
    return (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]) / 2, (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]) / 2


def edges(flow: Tensor) -> tuple[Tensor, Tensor]:
    """What it counts that neighbours differ, [B, 1, H, W - 1] and [B, 1, H - 1, W]: less where much changes."""
    across, down = flow.diff(dim=3), flow.diff(dim=2)
    square = functional.pad(across.square().sum(1, keepdim=True), (0, 1))
    square = square + functional.pad(down.square().sum(1, keepdim=True), (0, 0, 0, 1))
    weight = SMOOTH * (square + TINY**2).rsqrt()
    return (weight[..., 1:] + weight[..., :-1]) / 2, (weight[..., 1:, :] + weight[..., :-1, :]) / 2


def tension(flow: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """By how much flow differs from its neighbours', weighted: the gradient of what smoothness asks for."""
    found = torch.zeros_like(flow)
    for axis, weight in ((3, across), (2, down)):
        pull, count = flow.diff(dim=axis) * weight, weight.shape[axis]
        found.narrow(axis, 1, count).add_(pull)
        found.narrow(axis, 0, count).sub_(pull)
    return found


def solved(own: Tensor, across: Tensor, down: Tensor, wanted: Tensor, start: Tensor) -> Tensor:
    """[B, 2, H, W]: a few steps from `start` towards the solution. `own` [B, 3, H, W] is the symmetric matrix of each
    pixel (uu, uv, vv), with which, and with the weights of its edges, steps are preconditioned."""
    around = functional.pad(across, (1, 0)) + functional.pad(across, (0, 1))
    around = around + functional.pad(down, (0, 0, 1, 0)) + functional.pad(down, (0, 0, 0, 1))
    alone, mixed = own[:, ::2].contiguous(), own[:, 1:2]
    full = alone + around
    scale = 1 / (full.prod(1, keepdim=True) - mixed * mixed).clamp_min(1e-12)
    inverse, against = full.flip(1) * scale, mixed * scale

    def times(x: Tensor) -> Tensor:
        return tension(x, across, down).addcmul_(alone, x).addcmul_(mixed, x.flip(1))

    def near(x: Tensor) -> Tensor:
        return (inverse * x).addcmul_(against, x.flip(1), value=-1)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((1, 2, 3), keepdim=True)

    found, residual = start, wanted - times(start)
    way = better = near(residual)
    reach = dot(residual, better)
    for _ in range(INNER):
        onward = times(way)
        far = reach / dot(way, onward).clamp_min(1e-20)
        found = torch.addcmul(found, way, far)
        residual = torch.addcmul(residual, onward, far, value=-1)
        better = near(residual)
        last, reach = reach, dot(residual, better)
        way = torch.addcmul(better, way, reach / last.clamp_min(1e-20))
    return found
