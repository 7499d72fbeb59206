"""The encoder in the package: found by name, small, and good enough to carry points and masks without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import dropmae
from dropmae import loading, weights
from dropmae.methods.distill import Distill
from dropmae.target import Target
from dropmae.video import write_store


def test_it_is_small_and_says_what_it_is() -> None:
    path = weights.locate("shipped:encoder")
    assert path.stat().st_size <= 15e6
    assert weights.precision(path) == "F16"
    header = weights.read_header("shipped:encoder")
    assert header["licence"].startswith("Apache-2.0")
    assert header["teacher"]["model"].startswith("DINOv2 ViT-S/14")
    assert path.with_suffix(".md").is_file()
    module = dropmae.load("shipped:encoder")
    assert isinstance(module, Distill)
    with torch.no_grad():
        features = module.encoder.features(torch.zeros(1, 3, 56, 84, dtype=torch.uint8))
    assert features.shape == (1, 384, 4, 6)


def moving(frames: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [T, 168, 224, 3]: a patched disc that moves 6 pixels a frame over blurred noise; its centres [T, 2]."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:168, :224]
    patches = rng.integers(0, 256, (8, 8, 3)).repeat(7, 0).repeat(7, 1)
    ground = rng.integers(60, 140, (21, 28, 3)).repeat(8, 0).repeat(8, 1)
    clip, centres = np.empty((frames, 168, 224, 3), np.uint8), []
    for t in range(frames):
        cx, cy = 60 + 6 * t, 70 + 3 * t
        disc = (x - cx) ** 2 + (y - cy) ** 2 < 24**2
        own = patches[np.clip(y - cy + 28, 0, 55), np.clip(x - cx + 28, 0, 55)]
        clip[t] = np.where(disc[..., None], own, ground)
        centres.append((cx, cy))
    return clip, np.array(centres, float)


def test_points_are_carried_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, centres = moving()
    write_store(tmp_path / "clip.frames", clip, 25)
    x, y = centres[0]
    followed = dict(dropmae.track(tmp_path / "clip.frames", points=(f"0,{x},{y}",), weights="shipped:encoder"))
    assert "which propagation uses as it is" in capsys.readouterr().err
    assert list(followed) == list(range(len(clip)))
    found = np.array([target.points[0] for target in followed.values() if target.points is not None])
    assert np.linalg.norm(found - centres, axis=1).max() < 14  # a token's side


def test_a_mask_takes_it_and_boxes_and_points_take_trackers() -> None:
    mask, points = np.zeros((8, 8), np.uint8), np.ones((1, 2))
    mask[2:5, 2:5] = 1
    nobody = np.zeros(0, np.int64)
    assert loading.shipped(Target(ids=np.array([1]), mask=mask)) == "shipped:encoder"
    assert loading.shipped(Target(ids=nobody, points=points)) == "shipped:tap"
    assert loading.shipped(Target(ids=np.array([1]), boxes=np.ones((1, 4)))) == "shipped:filters"
