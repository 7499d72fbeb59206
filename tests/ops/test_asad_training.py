"""200 steps of training: the fast form, the reference and the textbook's `torch.multinomial` lead to the same losses.

A network of one encoder and two decoder layers learns colour gradients and their mirror images, and attention dropout
changes how fast it does: without it the losses are others, so that what is compared here does depend on the op.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dropmae.methods.dropmae import DropMAE
from dropmae.nn.vit import SIZES, Shape
from dropmae.ops import asad, switch
from dropmae.speed.stepspeed import textbook

SEEDS, STEPS, BATCH, SIDE, PATCH, RATIO = 3, 200, 8, 48, 8, 0.3


def gradients() -> Tensor:
    """uint8 [64, 2, 3, SIDE, SIDE]: pictures between four random colours, each beside its mirror image."""
    corners = torch.rand(64, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    picture = functional.interpolate(corners, size=(SIDE, SIDE), mode="bilinear", align_corners=True)
    return (torch.stack([picture, picture.flip(3)], 1) * 255).to(torch.uint8)


def losses(form: str, seed: int) -> Tensor:
    """Mean losses float64 [STEPS / 20] of 20 steps each. `form` is one of the switch's, "textbook" or "none"."""
    torch.manual_seed(seed)
    ratio = 0.0 if form == "none" else RATIO
    size: Any = "toy"
    module = DropMAE(size=size, image=SIDE, patch=PATCH, drop_ratio=ratio, norm_pix=False).train()
    if form == "textbook":
        drop = partial(textbook, count=asad.drop_count(RATIO, (SIDE // PATCH) ** 2))
        module.attends = lambda key, grid: [drop] * len(module.decoder.blocks)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, fused=True)
    frames, found = gradients(), torch.empty(STEPS, dtype=torch.float64)
    with switch.use(form if form in switch.FORMS else "fast"):
        for step in range(STEPS):
            index = torch.arange(BATCH) + BATCH * step
            loss = module({"frames": frames[index % len(frames)], "index": index, "seed": seed})["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found[step] = loss.detach()
    return found.view(-1, 20).mean(1)


def test_losses_over_200_steps_agree_within_the_noise_of_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "toy", Shape(64, 1, 2, 48, 2, 3))
    fast, reference = (torch.stack([losses(form, seed) for seed in range(SEEDS)]) for form in ("fast", "reference"))
    noise = reference.std(0)
    assert (reference[:, -1] < 0.3 * reference[:, 0]).all(), "nothing was learned"
    torch.testing.assert_close(fast, reference, rtol=0.03, atol=0)  # the same draws: only rounding differs
    difference = (fast[0] - losses("textbook", 0)).abs()  # other draws of the same distribution
    assert (difference < noise).all(), f"{difference} beside a deviation over seeds of {noise}"
    assert losses("none", 0)[-1] - reference[0, -1] > 3 * noise[-1], "dropout makes no difference here"
