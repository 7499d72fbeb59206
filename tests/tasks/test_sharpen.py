"""Propagated masks made sharp: what colours tell, what an untrained network does, and what the shipped one is worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dropmae import loading, weights
from dropmae.metrics.masks import boundary_f, jaccard
from dropmae.target import Target
from dropmae.tasks.propagation import Propagation
from dropmae.tasks.propagation.sharpen import Sharpener, colour_odds, places, shares


def two_colours() -> tuple[torch.Tensor, torch.Tensor]:
    """A red square on blue ground, 64 x 64, with its mask; far away, more red."""
    picture = torch.zeros(3, 64, 64)
    picture[2] = 0.8
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[8:20, 8:20] = True
    picture[:, 50:] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    picture[:, mask] = torch.tensor([0.9, 0.1, 0.1])[:, None]
    return picture, mask


def test_colours_tell_an_object_from_what_is_around_it() -> None:
    picture, mask = two_colours()
    odds = colour_odds(picture, mask)[places(picture)]
    assert odds[mask].min() == 1  # what lies far away does not count against it
    assert odds[:40][~mask[:40]].max() == -1


@pytest.mark.parametrize("whole", [False, True])
def test_colours_tell_nothing_without_both_sides(whole: bool) -> None:
    picture, mask = two_colours()
    assert not colour_odds(picture, torch.full_like(mask, whole)).any()


def test_an_untrained_network_changes_nothing_and_is_refused() -> None:
    network, rng = Sharpener(), torch.Generator().manual_seed(0)
    planes = [torch.rand(2, 30, 41, generator=rng) for _ in range(3)]
    logits = network(torch.rand(2, 3, 30, 41, generator=rng), *planes)
    assert torch.allclose(logits.sigmoid(), planes[1].clamp(0.02, 0.98), atol=1e-6)
    task = Propagation(sharp=True)
    task.encoder = nn.Identity()
    with pytest.raises(ValueError, match="trained"):
        task.start(np.zeros((32, 32, 3), np.uint8), Target(ids=np.array([1])))


def test_shares_sum_to_one_and_are_stretched() -> None:
    coarse = torch.tensor([[[0.9, 0.7]], [[0.1, 0.3]]])
    share, wide = shares(coarse)
    assert torch.allclose(share, coarse)
    assert wide[1].tolist() == [[0, 1]]


def disc(frames: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [T, 140, 196, 3]: a spotted disc with a bite that moves over a lawn of noise; bool [T, 140, 196]."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:140, :196]
    spots = rng.integers(120, 256, (12, 12, 1)).repeat(7, 0).repeat(7, 1) * np.array([1, 0.55, 0.3])
    lawn = rng.integers(40, 110, (140, 196, 1)) * np.array([0.6, 1, 0.5])
    clip, masks = np.empty((frames, 140, 196, 3), np.uint8), np.empty((frames, 140, 196), bool)
    for t in range(frames):
        cx, cy = 70 + 7 * t, 66 + 3 * t
        masks[t] = ((x - cx) ** 2 + (y - cy) ** 2 < 40**2) & ((x - cx - 32) ** 2 + (y - cy) ** 2 > 20**2)
        own = spots[np.clip(y - cy + 42, 0, 83), np.clip(x - cx + 42, 0, 83)]
        clip[t] = np.where(masks[t][..., None], own, lawn)
    return clip, masks


def test_the_shipped_one_is_sharper_than_what_is_propagated() -> None:
    clip, masks = disc()
    found = {}
    for edges in ("sharp", "coarse"):
        task = loading.load_task("shipped:masks", settings={"edges": edges, "resize": "native"})
        state = task.start(clip[0], Target(ids=np.array([7]), mask=masks[0].astype(np.uint8) * 7))
        for frame in clip[1:]:
            state, answer = task.step(state, frame)
        mask = answer[len(clip) - 1].mask == 7
        found[edges] = jaccard(mask, masks[-1]), boundary_f(mask, masks[-1])
    assert found["sharp"][0] > found["coarse"][0] + 0.03, found
    assert found["sharp"][1] > found["coarse"][1] + 0.1, found


def test_several_objects_share_a_frame_without_overlap() -> None:
    clip, masks = disc(2)
    labels = masks[0].astype(np.uint8)
    labels[5:25, 160:190] = 3
    task = loading.load_task("shipped:masks", settings={"resize": "native"})
    state = task.start(clip[0], Target(ids=np.array([1, 3]), mask=labels))
    _, answer = task.step(state, clip[1])
    assert set(np.unique(answer[1].mask)) <= {0, 1, 3}
    assert (answer[1].mask == 1).sum() > 0.8 * masks[1].sum()


def test_a_mask_takes_it_by_default_and_it_is_small() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 2:5] = 1
    assert loading.shipped(Target(ids=np.array([1]), mask=mask)) == "shipped:masks"
    path = weights.locate("shipped:masks")
    assert path.stat().st_size < 1e6
    assert path.with_suffix(".md").is_file()
    assert weights.read_header("shipped:masks")["fields"]["trunk"] == "shipped:encoder"
