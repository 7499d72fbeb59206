"""Nearest neighbours of points: shifted pictures by hand, prompts that come later, odd input, and who is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dropmae.engine import Engine
from dropmae.loading import training_free_class, untrained
from dropmae.nn import masking
from dropmae.target import Target
from dropmae.tasks.neighbours import Neighbours
from dropmae.tasks.propagation import Propagation


class Patches(nn.Module):
    """An encoder whose features are the patches themselves: shifted by whole patches, they are the same."""

    def __init__(self, patch: int = 16) -> None:
        super().__init__()
        self.patch = patch
        self.scale = nn.Parameter(torch.ones(()))

    def features(self, frames: Tensor) -> Tensor:
        patches = masking.patchify(frames, self.patch) * self.scale
        return (
            (patches - patches.mean(-1, keepdim=True)).transpose(1, 2).unflatten(2, masking.grid_of(frames, self.patch))
        )


def make(encoder: Any = None, **settings: Any) -> Neighbours:
    task = Neighbours(**settings)
    task.encoder = encoder or Patches()
    return task.eval()


def pointed(*points: list[float], visible: list[bool] | None = None) -> Target:
    seen = None if visible is None else np.array(visible)
    return Target(ids=np.zeros(0, np.int64), points=np.array(points, float), visible=seen)


@pytest.fixture
def frame() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


def test_what_is_shifted_is_found(frame: np.ndarray) -> None:
    """Points in the middles of tokens; 4 x 6 tokens; the picture moves two tokens to the right and one down."""
    task = make(grid=4)
    state = task.start(frame, pointed([24, 8], [56, 40], [88, 56]))
    state, found = task.step(state, np.roll(frame, (16, 32), (0, 1)))
    assert list(found) == [1]
    np.testing.assert_array_equal(found[1].points, [[56, 24], [88, 56], [24, 8]])
    state, found = task.step(state, frame)
    np.testing.assert_array_equal(found[2].points, [[24, 8], [56, 40], [88, 56]])


def test_a_feature_is_taken_between_tokens_and_the_answer_is_the_middle_of_one(frame: np.ndarray) -> None:
    """Three quarters of the way from one token's middle to the next, the feature is mostly the next one's."""
    task = make(grid=4)
    state = task.start(frame, pointed([8 + 12, 8], [0, 0], [95.9, 63.9], [8, 8 + 12]))
    _, found = task.step(state, frame)
    np.testing.assert_array_equal(found[1].points, [[24, 8], [8, 8], [88, 56], [8, 24]])


def test_tokens_along_the_short_side() -> None:
    """A frame of 64 x 96 pixels at 2 x 3 tokens is seen at 32 x 48 pixels, and answers are in the frame's pixels."""
    frame = np.random.default_rng(1).integers(0, 256, (2, 3, 3), np.uint8).repeat(32, 0).repeat(32, 1)
    frame[::4] //= 2
    task = make(grid=2)
    state = task.start(frame, pointed([16, 16], [80, 48]))
    assert state.sides == (32, 48)
    _, found = task.step(state, frame)
    np.testing.assert_array_equal(found[1].points, [[16, 16], [80, 48]])
    assert make().short_side() == 14
    assert make(untrained("random:tiny:mae:0:64").encoder).short_side() == 4


def test_points_that_are_asked_for_later(frame: np.ndarray) -> None:
    nan = [np.nan, np.nan]
    moved = np.roll(frame, 32, 1)
    prompts = {0: pointed([24, 8], nan, [40, 40], visible=[True, True, False]), 1: pointed(nan, [56, 40], nan)}
    answers = list(Engine(make(grid=4), "cpu", "fp32").session(prompts).follow(enumerate([frame, moved, frame])))
    points = [answer.target.points for answer in answers]
    np.testing.assert_array_equal(points[1], [[56, 8], [56, 40], nan])
    np.testing.assert_array_equal(points[2], [[24, 8], [24, 40], nan])


def test_features_of_an_inner_block(frame: np.ndarray) -> None:
    encoder = untrained("random:tiny:mae:0:64").encoder
    target = pointed([24, 8])
    inner, last, named = (make(encoder, grid=4, block=block).start(frame, target).features for block in (3, 0, 12))
    assert torch.equal(last, named)
    assert not torch.allclose(inner, last, atol=1e-3)
    assert inner.norm(dim=1) == pytest.approx(1)


def test_odd_input_is_one_line(frame: np.ndarray) -> None:
    for settings in ({"grid": -1}, {"block": -1}):
        with pytest.raises(ValueError, match="must not be negative"):
            Neighbours(**settings)
    with pytest.raises(ValueError, match="needs an encoder"):
        Neighbours().start(frame, pointed([1, 1]))
    with pytest.raises(ValueError, match="no blocks of ours"):
        make(block=2).start(frame, pointed([1, 1]))
    with pytest.raises(ValueError, match="the encoder has 12 blocks"):
        make(untrained("random:tiny:mae:0:64").encoder, block=13).start(frame, pointed([1, 1]))
    task = make(grid=4)
    state = task.start(frame, pointed([1, 1]))
    with pytest.raises(ValueError, match="64x64 pixels, but the first one has 96x64"):
        task.step(state, frame[:, :64])
    with pytest.raises(ValueError, match="2 points, but 1 in the first frame"):
        task.step(state, frame, pointed([1, 1], [2, 2]))


def test_who_is_chosen_for_an_encoder() -> None:
    assert training_free_class({}, ("points",)) is Propagation
    assert training_free_class({"block": 3}, ("points",)) is Propagation
    assert training_free_class({"grid": 28}, ("points",)) is Neighbours
    assert training_free_class({}, ("boxes", "mask", "points"), "matching") is Neighbours
    assert training_free_class({}, ("boxes", "mask", "points"), "synthetic") is Propagation
