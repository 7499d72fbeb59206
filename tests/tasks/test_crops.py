"""Crops as the official trackers cut them, heat maps and losses: their numbers, and OpenCV's bytes without OpenCV."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from dropmae.tasks.vot import crops, head

NOISE = np.random.RandomState(31).randint(0, 256, (480, 640, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("box", "factor", "side", "mean"),
    [
        ((100, 120, 50, 80), 2.0, 127, 127.133),
        ((100, 120, 50, 80), 5.0, 317, 113.542),
        ((0, 0, 30, 20), 2.0, 49, 72.3552),
        ((0, 0, 30, 20), 5.0, 123, 45.9245),
        ((600, 440, 39, 39), 2.0, 78, 72.9123),
        ((600, 440, 39, 39), 5.0, 195, 46.0819),
        ((610, 450, 60, 60), 2.0, 120, 30.8647),
        ((610, 450, 60, 60), 5.0, 300, 31.5662),
        ((200.5, 100.5, 33.3, 77.7), 2.0, 102, 127.389),
        ((200.5, 100.5, 33.3, 77.7), 5.0, 255, 127.238),
        ((320, 240, 300, 200), 2.0, 490, 84.2494),
        ((320, 240, 300, 200), 5.0, 1225, 25.9751),
    ],
)
def test_the_official_crops(box: tuple[float, ...], factor: float, side: int, mean: float) -> None:
    out = 192 if factor == 2 else 384
    place = crops.region(np.array(box, float), factor)
    assert place.side == side
    crop = crops.cut(NOISE, place, out)
    assert crop.shape == (out, out, 3)
    assert crop.dtype == np.uint8
    assert crop.mean() == pytest.approx(mean, abs=6e-4 if mean > 100 else 6e-5)


def digest(crop: np.ndarray) -> str:
    return hashlib.sha256(crop.tobytes()).hexdigest()[:12]


@pytest.mark.parametrize(
    ("place", "out", "expected"),
    [
        ((62, 96, 127), 192, "d8b7d879ca4b"),
        ((-34, 2, 317), 384, "87d821b53403"),
        ((580, 420, 78), 192, "0a17c5ad3110"),
        ((-142, -272, 1225), 384, "e569981f723c"),
        ((10, 20, 256), 128, "a218a6422e8b"),  # exactly half: means of four
        ((-20, -30, 768), 384, "54f258a06fbb"),
        ((500, 300, 192), 192, "7bb4a4d75301"),
        ((300, 200, 1), 64, "ba4244e02155"),
        ((300, 200, 2), 64, "f13fb5dea54f"),
        ((600, 400, 900), 96, "5fa4df91d680"),
    ],
)
def test_bytes_as_opencv_makes_them(place: tuple[int, int, int], out: int, expected: str) -> None:
    """The hashes are of cv2.resize (5.0) on the region padded with zeros."""
    assert digest(crops.cut(NOISE, crops.Region(*place), out)) == expected


@pytest.mark.parametrize(
    "box",
    [(-500, -500, 20, 20), (5000, 100, 30, 30), (0, 0, 1e7, 1e7), (-1e6, 3, 2e6, 5), (639, 479, 0.01, 0.01)],
)
def test_any_box_gives_a_crop_of_the_size_asked_for(box: tuple[float, ...]) -> None:
    crop = crops.cut(NOISE, crops.region(np.array(box, float), 4.0), 64)
    assert crop.shape == (64, 64, 3)


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (0, 0, 5, -5), (np.nan, 0, 5, 5), (0, np.inf, 5, 5)])
def test_boxes_without_area_are_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="positive width"):
        crops.region(np.array(box, float), 4.0)


def test_boxes_into_crops() -> None:
    inside = crops.into_crop(np.array([110.0, 130, 40, 60]), np.array([100.0, 120, 50, 80]), 1.5, 384)
    assert inside.tolist() == pytest.approx([0.44010416, 0.38151041, 0.15625, 0.234375], abs=1e-7)


def test_boxes_come_back_from_crops() -> None:
    around = np.array([[100.0, 120, 50, 80], [-10, 300, 31.5, 44]])
    scale = np.array([384 / 317, 384 / 187])
    true = around + np.array([3.0, -4, 5, 6])
    inside = np.stack([crops.into_crop(t, a, s, 384) for t, a, s in zip(true, around, scale, strict=True)])
    inside[:, :2] += 0.5 * inside[:, 2:]
    back = crops.from_crop(inside, around, scale, 384)
    np.testing.assert_allclose(back[:, 2:], true[:, 2:], atol=1e-9)
    # The official code is half a pixel of the crop off between training and tracking.
    np.testing.assert_allclose(back[:, :2], true[:, :2] - (0.5 / scale)[:, None], atol=1e-9)


def test_boxes_stay_in_the_frame() -> None:
    boxes = [
        (-5, -5, 8, 8),
        (635, 100, 50, 50),
        (100, 475, 30, 30),
        (700, 500, 20, 20),
        (-100, -100, 20, 20),
        (50, 60, 2, 3),
    ]
    expected = [
        (0, 0, 10, 10),
        (630, 100, 10, 50),
        (100, 470, 30, 10),
        (630, 470, 10, 10),
        (0, 0, 10, 10),
        (50, 60, 10, 10),
    ]
    assert crops.clip_boxes(np.array(boxes, float), (480, 640), 10).tolist() == [list(map(float, b)) for b in expected]
    assert crops.clip_boxes(np.array([[3.0, 4, 2, 2]]), (6, 8), 10).tolist() == [[0, 0, 8, 6]]


# ------------------------------------------------------------ heat maps and losses

BOXES = torch.tensor([[0.3, 0.4, 0.2, 0.1], [0.45, 0.45, 0.1, 0.3]])


def test_heat_maps() -> None:
    maps = head.heatmap(BOXES, (24, 24))
    assert maps.shape == (2, 1, 24, 24)
    assert [divmod(int(place), 24) for place in maps.flatten(1).argmax(1)] == [(11, 10), (14, 12)]
    assert maps.flatten(1).sum(1).tolist() == pytest.approx([1.0, 1.6146], abs=1e-4)
    assert (maps > 0).flatten(1).sum(1).tolist() == [1, 9]
    assert (maps == 1).flatten(1).sum(1).tolist() == [1, 1]
    sizes = torch.tensor([[4.8, 2.4], [2.4, 7.2], [10.0, 10.0]])
    assert head.gaussian_radius(sizes).tolist() == pytest.approx([0.882702, 1.00487, 2.7332], abs=1e-5)


def test_focal_loss() -> None:
    logits = torch.from_numpy(np.random.RandomState(41).standard_normal((2, 1, 24, 24)).astype(np.float32))
    assert head.focal_loss(head.bounded(logits), head.heatmap(BOXES, (24, 24))).item() == pytest.approx(
        190.775, abs=2e-3
    )
    outside = torch.tensor([[0.98, 0.98, 0.1, 0.1]])  # its centre is no cell: all of the map should be low
    assert head.focal_loss(head.bounded(logits[:1]), head.heatmap(outside, (24, 24))).isfinite()


def test_overlaps() -> None:
    first = torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.2, 0.3, 0.6, 0.7]])
    second = torch.tensor([[0.2, 0.2, 0.5, 0.6], [0.7, 0.7, 0.9, 0.9]])
    iou, giou = head.overlaps(first, second)
    assert iou.tolist() == pytest.approx([0.333333, 0.0], abs=1e-6)
    assert (1 - giou).mean().item() == pytest.approx(1.14524, abs=1e-5)
    nothing = torch.zeros(1, 4)
    assert head.overlaps(nothing, nothing)[1].isfinite().all()


def test_the_window() -> None:
    window = head.hann(24)
    expected = [0.000246754, 0.000971513, 0.00212874, 0.00364571, 0.00542712, 0.00736104]
    assert window[0, :6].tolist() == pytest.approx(expected, abs=1e-7)
    assert window.sum().item() == pytest.approx(156.25, abs=1e-3)
    assert window.max().item() == pytest.approx(0.99213, abs=1e-5)
    assert window[11, 11] == window.max()
