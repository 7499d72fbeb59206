"""Outlines of objects that a box or a click shows, with an encoder that sees colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import dropmae
from dropmae.engine import Engine
from dropmae.loading import load_task, named
from dropmae.target import Target, misplaced
from dropmae.tasks.propagation import Propagation, outline
from dropmae.video import Video

RNG = np.random.default_rng(0)


class Colours(nn.Module):
    """An encoder whose features are the mean colours of a patch."""

    patch = 16

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def features(self, frames: Tensor) -> Tensor:
        return functional.avg_pool2d(frames.float(), 16)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def scene(height: int = 240, width: int = 320) -> tuple[np.ndarray, np.ndarray]:
    """A green field with a red disc [H, W, 3] and a blue ring around nothing, and the disc's mask."""
    y, x = np.mgrid[:height, :width]
    frame = np.full((height, width, 3), (40, 140, 60), np.float64) + RNG.normal(0, 6, (height, width, 3))
    disc = (x - 170) ** 2 + (y - 110) ** 2 < 50**2
    frame[disc] = np.array([190, 50, 40]) + RNG.normal(0, 6, (int(disc.sum()), 3))
    frame[(x > 20) & (x < 70) & (y > 170) & (y < 220)] = (60, 70, 190)
    return frame.clip(0, 255).astype(np.uint8), disc


def task(**settings: Any) -> Propagation:
    made = Propagation(preset="fitted", **settings)
    made.encoder = Colours()
    return made.eval()


BOX = np.array([[120.0, 60, 100, 100]])


def test_walks_end_where_currents_flow() -> None:
    """Three nodes in a row with edges 2 and 1, the ends held to the object and to the surroundings: by Kirchhoff's
    law the middle has 2 / (2 + 1), as near as the ends are held firmly."""
    edges = torch.tensor([[0.0, 2, 0], [2, 0, 1], [0, 1, 0]])
    made = outline.Graph((1, 3), edges, edges, edges.sum(1).mean())
    found = outline.walks(made, torch.tensor([1e5, 0, 0]), torch.tensor([0, 0, 1e5]))
    torch.testing.assert_close(found, torch.tensor([[1, 2 / 3, 0]]), atol=1e-4, rtol=0)
    leaking = outline.walks(made, torch.tensor([1e5, 0, 0]), torch.tensor([0, 0.5, 1e5]))
    torch.testing.assert_close(leaking[0, 1], torch.tensor(2 / (2 + 1 + 0.5 * 2)), atol=1e-4, rtol=0)


def test_the_threshold_is_the_one_of_least_variance_within() -> None:
    values = torch.cat([torch.rand(40) * 0.2, 0.7 + torch.rand(17) * 0.3])

    def within(level: float) -> float:
        low, high = values[values <= level], values[values > level]
        return sum(len(part) * float(part.var(correction=0)) for part in (low, high) if len(part))

    least = min(within(float(value)) for value in values)
    assert within(outline.threshold(values)) == pytest.approx(least, abs=1e-6)
    assert outline.threshold(torch.ones(5)) == 1


def test_what_is_reached_is_joined() -> None:
    mask = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1]]).bool()
    expected = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    assert torch.equal(outline.reached(mask, (0, 0)), expected)
    assert int(outline.reached(mask, (2, 0)).sum()) == 2 + 2  # what is clicked counts, and what it touches


@pytest.mark.parametrize("shift", [0, 12])
def test_the_object_in_a_box_is_found(shift: int) -> None:
    frame, disc = scene()
    box = BOX + np.array([-shift, -shift, 2 * shift, 2 * shift])
    found = task().understood(frame, Target(ids=np.array([5]), boxes=box))
    assert found.mask is not None
    assert np.unique(found.mask).tolist() == [0, 5]
    assert overlap(found.mask == 5, disc) > 0.88
    assert found.boxes is box


def test_the_object_at_a_click_is_found() -> None:
    frame, disc = scene()
    told = Target(ids=np.array([1, 2]), clicks=np.array([[170.0, 110], [45, 195]]))
    found = task().understood(frame, told)
    assert found.mask is not None
    assert overlap(found.mask == 1, disc) > 0.85
    assert overlap(found.mask == 2, np.abs(frame.astype(int) - (60, 70, 190)).sum(2) == 0) > 0.75
    assert found.boxes is not None
    assert found.clicks is None


def test_a_box_at_the_border_and_one_around_everything() -> None:
    frame, _ = scene()
    made = task()
    for box in ([-30.0, -20, 120, 90], [0.0, 0, 320, 240], [300.0, 200, 60, 80], [100.0, 100, 2, 2]):
        mask = made.understood(frame, Target(ids=np.array([1]), boxes=np.array([box]))).mask
        assert mask is not None
        rows, columns = np.nonzero(mask)
        assert len(rows)
        assert rows.min() >= box[1] - 1
        assert columns.max() <= box[0] + box[2]


def test_scripts_take_boxes_as_they_are_and_ours_says_what_it_understood() -> None:
    frame, disc = scene()
    told = Target(ids=np.array([1]), boxes=BOX)
    plain = Propagation(preset="dino")
    plain.encoder = Colours()
    assert plain.understood(frame, told) is told
    mask = Target(ids=np.array([1]), mask=disc.astype(np.uint8))
    assert task().understood(frame, mask) is mask
    answers = list(Engine(task(), "cpu", "fp32").session({0: told}).follow(enumerate([frame, frame])))
    assert [answer.given for answer in answers] == [True, False]
    for answer in answers:
        assert answer.target.mask is not None
        assert overlap(answer.target.mask == 1, disc) > 0.8


def test_a_later_click_adds_an_object() -> None:
    frame, disc = scene()
    prompts = {0: Target(ids=np.array([1]), boxes=BOX), 2: Target(ids=np.array([7]), clicks=np.array([[45.0, 195]]))}
    last = list(Engine(task(), "cpu", "fp32").session(prompts).follow(enumerate([frame] * 4)))[-1].target
    assert last.mask is not None
    assert last.ids.tolist() == [1, 7]
    assert (last.mask == 7).sum() > 1500
    assert overlap(last.mask == 1, disc) > 0.8


def test_a_click_outside_is_named() -> None:
    frame, _ = scene()
    told = Target(ids=np.array([3]), clicks=np.array([[400.0, 10]]))
    assert misplaced(told, 240, 320) == "the click on object 3 at 400,10 lies outside the 320x240 frame"
    with pytest.raises(ValueError, match="click on object 3"):
        task().start(frame, told)
    unknown = Target(ids=np.array([3]), clicks=np.array([[np.nan, np.nan]]))
    assert misplaced(unknown, 240, 320) is None


CAR = Path(__file__).parents[2] / "docs/images/car.mp4"


@pytest.mark.slow
def test_a_cut_out_needs_no_painted_mask(tmp_path: Path) -> None:
    """The encoder of the package takes the place of the tracker where masks are asked for."""
    box = Target(ids=np.array([1]), boxes=np.array([[160.0, 69, 108, 171]]))
    assert named(None, box) == "shipped:filters"
    assert named(None, box, (), ("mask",)) == "shipped:encoder"
    out = tmp_path / "car.masks"
    report: Any = dropmae.track(CAR, box=(160, 69, 108, 171), start=76, stop=79, out=out, precision="fp32")
    assert report["task"] == "propagation"
    assert len(list(out.rglob("*.png"))) == 3


def test_the_shipped_encoder_finds_the_car_from_a_click_and_a_box() -> None:
    frame = Video(CAR)[76]
    made = load_task(None, Target(ids=np.array([1]), clicks=np.zeros((1, 2))))
    body = np.zeros(frame.shape[:2], bool)
    body[75:235, 168:262] = True
    for told in (
        Target(ids=np.array([1]), boxes=np.array([[160.0, 69, 108, 171]])),
        Target(ids=np.array([1]), clicks=np.array([[215.0, 150]])),
    ):
        found = made.understood(frame, told).mask
        assert found is not None
        mask = found == 1
        assert (mask & body).sum() > 0.95 * mask.sum()
        assert (mask & body).sum() > (0.6 if told.boxes is not None else 0.3) * body.sum()
