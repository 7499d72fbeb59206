"""Places fitted to pixels: exact where a patch moves, and left alone where there is nothing to fit or to believe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dropmae.target import Target
from dropmae.tasks.tap import TAP, pixels


def world(side: int = 200) -> Tensor:
    """float32 [1, 1, side, side]: smooth spots of several sizes."""
    torch.manual_seed(0)
    found = torch.zeros(1, 1, side, side)
    for cells in (8, 20, 50):
        found = found + functional.interpolate(50 * torch.randn(1, 1, cells, cells), (side, side), mode="bicubic")
    return (found + 128).clamp(0, 255)


def shifted(picture: Tensor, x: float, y: float) -> Tensor:
    """What lies x pixels to the right of and y below where it was."""
    height, width = picture.shape[-2:]
    across, down = torch.arange(width) + 0.5 - x, torch.arange(height) + 0.5 - y
    rows, columns = torch.meshgrid(down, across, indexing="ij")
    grid = torch.stack([columns, rows], -1) / torch.tensor([width, height]) * 2 - 1
    return functional.grid_sample(picture, grid[None], align_corners=False, padding_mode="border")


def test_a_patch_is_found_to_a_twentieth_of_a_pixel() -> None:
    before = world()
    now, move = shifted(before, 3.3, -1.7), torch.tensor([3.3, -1.7])
    old = torch.rand(40, 2) * 140 + 30
    guess = old + move + torch.randn(40, 2)
    found = pixels.settled(before, now, old, guess, 6.0)
    assert (guess - old - move).norm(dim=1).median() > 0.8
    assert (found - old - move).norm(dim=1).median() < 0.05
    assert ((found - old - move).norm(dim=1) < 0.3).float().mean() > 0.9


def test_places_stay_as_they_were_guessed_where_nothing_can_be_fitted() -> None:
    before, old, guess = world(), torch.tensor([[60.0, 70.0], [100, 90]]), torch.tensor([[62.5, 71.0], [103, 90]])
    flat = torch.full_like(before, 90.0)
    assert torch.equal(pixels.settled(flat, flat, old, guess, 6.0), guess)  # nothing to hold on to
    ramp = torch.arange(200.0).expand(1, 1, 200, 200) * 1.0
    assert torch.equal(pixels.settled(ramp, ramp, old, guess, 6.0), guess)  # along one axis alone
    assert torch.equal(pixels.settled(before, world().flip(2), old, guess, 6.0), guess)  # the way back ends elsewhere
    far = old + 20
    assert torch.equal(pixels.settled(before, before, old, far, 3.0), far)  # farther than may be believed


def still(monkeypatch: pytest.MonkeyPatch, within: float) -> TAP:
    """An untrained network that says of every point that it stays where it is, and can be seen."""
    torch.manual_seed(0)
    task = TAP(widths=(8, 16, 16, 16), channels=16, hidden=16, resolution=256, fit_within=within).eval()
    head = task.head
    monkeypatch.setattr(head.refiner, "forward", lambda own, maps, place, hidden, told: (place, hidden))
    monkeypatch.setattr(head, "guessed", lambda maps, points, at: (at[..., 0], points.places, at[..., 0]))
    with torch.no_grad():
        head.say.bias[0] = 50
    return task


def moving(count: int) -> list[np.ndarray]:
    """Frames of 768 x 768 whose content goes 2.6 pixels to the right and 1.3 down."""
    picture = world(768)
    films = [shifted(picture, 2.6 * t, 1.3 * t)[0].expand(3, -1, -1) for t in range(count)]
    return [film.permute(1, 2, 0).byte().numpy() for film in films]


def test_large_frames_are_followed_to_a_part_of_their_own_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network sees a third of each side; its own places are off by more than a pixel of the file."""
    starts, errors = np.random.default_rng(0).uniform(150, 600, (30, 2)), {}
    for within in (0.0, 4.0):
        task, films = still(monkeypatch, within), moving(5)
        state = task.start(films[0], Target(ids=np.zeros(0, np.int64), points=starts))
        found: dict[int, Target] = {}
        for frame in films[1:]:
            state, found = task.step(state, frame)
        last = found[4].points
        assert last is not None
        errors[within] = np.linalg.norm(last - starts - [4 * 2.6, 4 * 1.3], axis=1)
        assert state.light.shape == (1, 1, 768, 768)
    assert np.median(errors[0.0]) > 5
    assert np.median(errors[4.0]) < 0.3


def test_what_hid_a_point_does_not_take_it_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """A point that was not to be seen in the frame before is where the network says."""
    task, films = still(monkeypatch, 4.0), moving(2)
    starts = np.random.default_rng(0).uniform(150, 600, (10, 2))
    state = task.start(films[0], Target(ids=np.zeros(0, np.int64), points=starts))
    state.points = replace(state.points, seen=torch.where(torch.arange(10) < 5, -4.0, 4.0)[None])
    last = task.step(state, films[1])[1][1].points
    assert last is not None
    moved = np.linalg.norm(last - starts, axis=1)
    assert moved[:5].max() < 1e-3
    assert np.median(moved[5:]) > 2
