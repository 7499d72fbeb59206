"""What comes with the package for flow and for points: it is what the words mean, and it is worth something."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

import dropmae
from dropmae import loading, weights
from dropmae.target import Target


def world() -> np.ndarray:
    """uint8 [256, 384, 3]: smooth patches of several sizes."""
    rng, picture = np.random.default_rng(3), torch.zeros(1, 3, 256, 384)
    for cells in (8, 24, 72):
        coarse = torch.from_numpy(rng.normal(0, 60, (1, 3, cells, cells * 3 // 2)).astype(np.float32))
        picture = picture + functional.interpolate(coarse, picture.shape[2:], mode="bicubic") / 1.5
    return (picture[0] + 128).clamp(0, 255).byte().permute(1, 2, 0).numpy()


def clip() -> np.ndarray:
    """uint8 [5, 160, 224, 3]: the view goes 7 pixels to the right and 4 down in each frame."""
    return np.stack([world()[20 + 4 * t : 180 + 4 * t, 30 + 7 * t : 254 + 7 * t] for t in range(5)])


def test_flow_needs_no_weights_and_is_right_to_a_fraction_of_a_pixel(capsys: pytest.CaptureFixture[str]) -> None:
    found = dict(dropmae.track(clip()[:2], flow=True))
    assert "shipped:flow, which comes with the package" in capsys.readouterr().err
    flow = found[0].flow
    assert flow is not None
    assert np.linalg.norm(flow[24:-24, 24:-24] + [7, 4], axis=-1).mean() < 0.5


def test_points_need_no_weights_and_stay_on_what_they_are_on(capsys: pytest.CaptureFixture[str]) -> None:
    starts = np.array([(60.0, 60), (120, 80), (180, 120)])
    found = dict(dropmae.track(clip(), points=[(0, *place) for place in starts]))
    assert "shipped:tap, which comes with the package" in capsys.readouterr().err
    last = found[4]
    assert last.points is not None
    assert last.visible is not None
    assert np.linalg.norm(last.points - (starts - [28, 16]), axis=1).max() < 2
    assert last.visible.all()


def test_each_file_has_a_card_and_is_what_is_meant() -> None:
    nobody = np.zeros(0, np.int64)
    assert loading.shipped(Target(ids=nobody, points=np.ones((1, 2)))) == "shipped:tap"
    assert loading.shipped(None, ("flow",)) == "shipped:flow"
    for name in ("flow", "tap"):
        assert weights.SHIPPED.joinpath(f"{name}.md").is_file()
        assert weights.SHIPPED.joinpath(f"{name}.safetensors").stat().st_size < 2e6
