"""Places to a part of the file's own pixels: what a point showed a frame ago is found again near where it was guessed.

The network sees large frames scaled down, and is exact to a part of its pixels. From there Gauss-Newton steps of Lucas
and Kanade (IJCAI 1981), in the inverse form of Baker and Matthews (IJCV 2004), fit the patch around a point in the
frame before to the new frame, at two resolutions. What does not come back when the same is done the other way round, or
strays from the guess, is not believed. N points, frames of H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dropmae.nn.refine import grey

HALF = 8
"""Pixels from the middle of a patch to its edge."""
LEVELS = (2, 1)
"""Pixels that count as one, coarse to fine."""
STEPS, ENOUGH = 6, 0.03
"""Most steps at each of these, and a movement after which no further one is made, in its pixels."""
BACK = 1.0
"""Pixels from where it came that the way back may end."""
FLAT = 4.0
"""Smallest mean square of the slope, in grey levels of 255, across which a patch can be placed."""


def light(picture: Tensor) -> Tensor:
    """uint8 [1, 1, H, W]: what is kept of a picture uint8 [3, H, W], its brightness."""
    return grey(picture[None]).round().byte()


def patches(picture: Tensor, places: Tensor, half: int) -> Tensor:
    """[N, 2 half + 1, 2 half + 1] of a picture [1, 1, H, W] around places [N, 2], in pixels whose middles are at .5."""
    steps = torch.arange(-half, half + 1, device=places.device).float()
    x, y = places[:, 0, None, None] + steps, places[:, 1, None, None] + steps[:, None]
    size = torch.tensor(picture.shape[:-3:-1], device=places.device)
    grid = torch.stack(torch.broadcast_tensors(x, y), -1) / size * 2 - 1
    found = functional.grid_sample(picture, grid.flatten(1, 2)[None], align_corners=False, padding_mode="border")
    return found[0, 0].unflatten(1, (2 * half + 1, -1))


def fitted(before: Tensor, now: Tensor, old: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
    """Where patches around `old` [N, 2] of one picture lie in another, looked for from `guess`; and bool [N], of those
    whose brightness changes along both axes, so that they can be placed."""
    place, firm = guess, torch.ones(len(old), dtype=torch.bool, device=old.device)
    for level in LEVELS:
        first, second = (functional.avg_pool2d(one, level) if level > 1 else one for one in (before, now))
        wide = patches(first, old / level, HALF + 1)
        known = wide[:, 1:-1, 1:-1].flatten(1)
        slope = torch.stack([wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2], wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1]], -1) / 2
        slope = slope.flatten(1, 2)
        product = slope.transpose(1, 2) @ slope
        least = torch.linalg.eigvalsh(product)[:, 0] / slope.shape[1]
        firm = least > FLAT
        inverse = torch.linalg.inv(product + 1e-3 * torch.eye(2, device=old.device))
        at, moving = place / level, firm.clone()
        for _ in range(STEPS):
            rows = moving.nonzero()[:, 0]
            if not len(rows):
                break
            error = patches(second, at[rows], HALF).flatten(1) - known[rows]
            step = (inverse[rows] @ (slope[rows] * error[..., None]).sum(1)[..., None])[..., 0].clamp(-HALF, HALF)
            at = at.index_add(0, rows, -step)
            moving[rows] = step.norm(dim=1) > ENOUGH
        place = torch.where(firm[:, None], at * level, place)
    return place, firm


def settled(before: Tensor, now: Tensor, old: Tensor, guess: Tensor, within: float) -> Tensor:
    """[N, 2]: guesses of where points at `old` in one grey picture lie in another, fitted where that can be believed.

    It is where the fit is `within` so many pixels of the guess, and the way back from there ends where it came from.
    """
    before, now = before.float(), now.float()
    place, firm = fitted(before, now, old, guess)
    firm &= ((place - guess).norm(dim=1) < within) & ((place - old).abs().amax(1) < max(now.shape[-2:]))
    if not firm.any():
        return guess
    back, again = fitted(now, before, place[firm], old[firm])
    firm[firm.clone()] = again & ((back - old[firm]).norm(dim=1) < BACK)
    return torch.where(firm[:, None], place, guess)
