"""Edges of propagated masks: the guided filter against a plain one, and where it is used."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dropmae import loading
from dropmae.metrics.masks import jaccard
from dropmae.target import Target
from dropmae.tasks.propagation import Propagation, edges


def window(values: Tensor, row: int, column: int) -> Tensor:
    """[n, C]: what of values [C, h, w] is in the window around a pixel."""
    r = edges.REACH
    part = values[:, max(0, row - r) : row + r + 1, max(0, column - r) : column + r + 1]
    return part.flatten(1).T


def plain(picture: Tensor, label: Tensor) -> Tensor:
    """[h, w]: the filter for one label [h, w], a pixel at a time, in float64."""
    height, width = label.shape
    functions = torch.zeros(4, height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            colours, level = window(picture, row, column), window(label[None], row, column)[:, 0]
            away = colours - colours.mean(0)
            spread = away.T @ away / len(away) + edges.EPSILON * torch.eye(3)
            slope = torch.linalg.solve(spread, away.T @ (level - level.mean()) / len(away))
            functions[:3, row, column] = slope
            functions[3, row, column] = level.mean() - slope @ colours.mean(0)
    means = torch.stack([window(functions, r, c).mean(0) for r in range(height) for c in range(width)])
    slope, offset = means.T.view(4, height, width).split([3, 1])
    return (slope * picture).sum(0) + offset[0]


def test_it_is_the_guided_filter() -> None:
    made = torch.Generator().manual_seed(1)
    picture = torch.rand(3, 19, 23, generator=made, dtype=torch.float64)
    maps = torch.rand(2, 19, 23, generator=made, dtype=torch.float64)
    found = edges.guided(picture, maps)
    for label, one in zip(maps, found):
        assert torch.allclose(one, plain(picture, label), atol=1e-9)


def scene(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """A frame with a bright slanted shape on dark ground, its mask, and the labels of tokens of 16 pixels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]]
    mask = (x + 0.6 * y > 70) & (x - 0.4 * y < 120) & (y > 20) & (y < 110)
    frame = np.where(mask[..., None], [190, 170, 60], [60, 80, 70]) + rng.normal(0, 6, (*size, 3))
    share = torch.from_numpy(mask).float().view(size[0] // 16, 16, size[1] // 16, 16).mean((1, 3)).round()
    return np.clip(frame, 0, 255).astype(np.uint8), mask, torch.stack([1 - share, share])


def test_edges_move_to_where_colours_change() -> None:
    frame, mask, maps = scene((128, 176))
    coarse = torch.nn.functional.interpolate(maps[None], mask.shape, mode="bilinear")[0].argmax(0).numpy() == 1
    found = edges.sharp(frame, maps).numpy() == 1
    assert jaccard(found, mask) > jaccard(coarse, mask) + 0.04


def test_a_picture_that_tells_nothing_leaves_labels_as_they_are() -> None:
    frame, _, maps = scene((128, 176))
    grey = np.full_like(frame, 128)
    coarse = torch.nn.functional.interpolate(maps[None], grey.shape[:2], mode="bilinear")[0].argmax(0).numpy()
    assert jaccard(edges.sharp(grey, maps).numpy() == 1, coarse == 1) > 0.9


def test_odd_sizes_and_one_label() -> None:
    frame = np.zeros((97, 131, 3), np.uint8)
    assert edges.sharp(frame, torch.rand(3, 6, 8)).shape == (97, 131)
    assert not edges.sharp(frame, torch.rand(1, 6, 8)).any()


def test_it_is_an_option_and_the_scripts_do_not_have_it() -> None:
    assert Propagation().edges == "coarse"
    frame, mask, _ = scene((128, 176))
    found = {}
    for how in ("coarse", "guided"):
        task = loading.load_task("random:tiny", settings={"edges": how, "resize": "native"}, wanted=("mask",))
        state = task.start(frame, Target(ids=np.array([5]), mask=mask.astype(np.uint8) * 5))
        answer = task.step(state, frame)[1][1].mask
        assert answer is not None
        found[how] = jaccard(answer == 5, mask)
    assert found["guided"] > found["coarse"] + 0.02
