"""Flow fitted to pixels: exact where brightness stays, smooth where nothing is known, solved as it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dropmae.nn.refine import centres, grey, sample
from dropmae.tasks.flow import Flow, variational


def spots(height: int, width: int) -> Tensor:
    """float32 [1, 1, H, W]: smooth spots of several sizes, 0 to 255."""
    torch.manual_seed(0)
    found = torch.zeros(1, 1, height, width)
    for cells in (6, 14, 30):
        found = found + functional.interpolate(45 * torch.randn(1, 1, cells, cells), (height, width), mode="bicubic")
    return (found + 128).clamp(0, 255)


def wave(height: int, width: int) -> Tensor:
    """Flow [1, 2, H, W] of a few pixels that changes slowly."""
    x, y = centres(height, width).unbind(1)
    return torch.stack([2 + 1.5 * torch.sin(y / 25), -1 + torch.cos(x / 30)], 1)


def test_flow_that_is_nearly_right_becomes_right() -> None:
    """The first picture is the second one, looked at along a flow that is known."""
    second, true = spots(96, 128), wave(96, 128)
    first = sample(second, centres(96, 128) + true)
    guess = true + 0.5 * functional.interpolate(torch.randn(1, 2, 12, 16), (96, 128), mode="bicubic")
    found = variational.settled(guess, first, second, 4)
    inner = slice(8, -8)
    before, after = ((one - true)[..., inner, inner].norm(dim=1).mean() for one in (guess, found))
    assert before > 0.4
    assert after < 0.15 * before
    assert torch.equal(variational.settled(guess, first, second, 0), guess)


def test_edges_of_motion_stay_and_light_may_change() -> None:
    """Two halves that move apart, the second picture brighter by a tenth: each half keeps its own motion."""
    second = spots(80, 120)
    true = torch.zeros(1, 2, 80, 120)
    true[:, 0, :, :60], true[:, 0, :, 60:] = -3.0, 3.0
    first = sample(second, centres(80, 120) + true)
    guess = true + 0.4 * functional.interpolate(torch.randn(1, 2, 10, 15), (80, 120), mode="bicubic")
    found = variational.settled(guess, first, second + 12, 4)
    for part in (slice(8, 52), slice(68, 112)):
        assert (found - true)[..., 8:-8, part].norm(dim=1).mean() < 0.15
    assert (found - true)[:, 0, 8:-8, 56:64].abs().mean() < 1.2  # 3 if it were one smooth slope


def test_what_leaves_the_picture_follows_its_neighbours() -> None:
    second, true = spots(64, 96), torch.zeros(1, 2, 64, 96)
    true[:, 0] = 12.0
    first = sample(second, centres(64, 96) + true)
    guess = true.clone()
    guess[..., 84:] += torch.randn(1, 2, 64, 12)  # where nothing can be seen any more
    found = variational.settled(guess, first, second, 4)
    assert (found - true)[..., 10:-10, :80].norm(dim=1).max() < 0.2
    before, after = ((one - true)[..., 84:].norm(dim=1).mean() for one in (guess, found))
    assert after < 0.3 * before


def test_the_system_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the matrix written out and solved by elimination."""
    torch.manual_seed(0)
    height, width = 5, 6
    slope = torch.randn(2, 3, height, width, dtype=torch.float64)
    own = torch.stack([(slope[0] ** 2).sum(0), (slope[0] * slope[1]).sum(0), (slope[1] ** 2).sum(0)])[None]
    across = torch.rand(1, 1, height, width - 1, dtype=torch.float64) + 0.1
    down = torch.rand(1, 1, height - 1, width, dtype=torch.float64) + 0.1
    wanted = torch.randn(1, 2, height, width, dtype=torch.float64)
    count = height * width
    matrix = torch.zeros(2 * count, 2 * count, dtype=torch.float64)
    for axis, other, part in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        rows = torch.arange(count)
        matrix[axis * count + rows, other * count + rows] += own[0, part].flatten()
    for weights, step in ((across, 1), (down, width)):
        for y in range(weights.shape[2]):
            for x in range(weights.shape[3]):
                a, weight = y * width + x, weights[0, 0, y, x]
                for i, j in ((a, a + step), (a + count, a + step + count)):
                    matrix[i, i] += weight
                    matrix[j, j] += weight
                    matrix[i, j] -= weight
                    matrix[j, i] -= weight
    exact = torch.linalg.solve(matrix, wanted.flatten()).view(1, 2, height, width)
    monkeypatch.setattr(variational, "INNER", 60)
    torch.testing.assert_close(variational.solved(own, across, down, wanted, torch.zeros_like(wanted)), exact)


def test_the_task_fits_and_can_be_told_not_to() -> None:
    second, true = spots(96, 128), torch.tensor([1.4, -0.6]).view(1, 2, 1, 1).expand(1, 2, 96, 128)
    first = sample(second, centres(96, 128) + true)
    frames = [one[0].expand(3, -1, -1).permute(1, 2, 0).round().byte().numpy() for one in (first, second)]
    errors = []
    for rounds in (0, 4):
        torch.manual_seed(0)
        task = Flow(halves=0, fit_rounds=rounds).eval()
        found = task.between(*frames)
        assert found.flow is not None
        assert found.flow.shape == (96, 128, 2)
        errors.append(np.abs(found.flow[16:-16, 16:-16] - true[0, :, 0, 0].numpy()).mean())
    assert errors[1] != errors[0]  # an untrained network guesses at nothing; that it is right is the tests' above
    with pytest.raises(ValueError, match="fit_rounds must not be negative"):
        Flow(fit_rounds=-1)


def test_grey_is_what_eyes_weigh() -> None:
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], dtype=torch.uint8)
    found = grey(colours.T.reshape(1, 3, 2, 2))
    torch.testing.assert_close(found.flatten(), torch.tensor([76.245, 149.685, 29.07, 9.0]))
