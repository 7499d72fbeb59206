"""J, F and mIoU: small cases by hand, brute force, the reference evaluators' numbers and real published ones."""

from __future__ import annotations

import io
import itertools
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dropmae.formats.labels import read_labels
from dropmae.metrics import masks


def disc(height: int, width: int, y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def test_jaccard_by_hand() -> None:
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert masks.jaccard(a, b) == 1
    a[:2] = True
    assert masks.jaccard(a, b) == 0
    b[1:3] = True
    assert masks.jaccard(a, b) == pytest.approx(1 / 3)
    void = np.zeros((4, 4), bool)
    void[2] = True
    assert masks.jaccard(a, b, void) == pytest.approx(1 / 2)


def test_boundary_is_half_a_pixel_towards_the_origin() -> None:
    mask = np.zeros((5, 5), bool)
    mask[2, 2] = True
    expected = np.zeros((5, 5), bool)
    expected[1:3, 1:3] = True
    assert (masks.boundary(mask) == expected).all()
    corner = np.zeros((3, 3), bool)
    corner[2, 2] = True  # the last row looks right only, the last column down only, the last pixel at nothing
    assert masks.boundary(corner).tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 0]]
    assert not masks.boundary(np.ones((3, 3), bool)).any()


@pytest.mark.parametrize(("height", "width", "radius"), [(480, 854, 8), (480, 910, 9), (1080, 1920, 18), (240, 432, 4)])
def test_tolerance(height: int, width: int, radius: int) -> None:
    assert masks.tolerance_radius(height, width) == radius
    assert masks.tolerance_radius(height, width, 3) == 3


@pytest.mark.parametrize("shape", [(5, 7), (40, 30), (3, 50), (50, 3), (1, 1), (1, 30)])
@pytest.mark.parametrize("radius", [0, 1, 2, 5, 8, 18])
def test_dilate_is_a_disc(shape: tuple[int, int], radius: int) -> None:
    points = np.random.default_rng(radius).random(shape) < 0.06
    expected = np.zeros(shape, bool)
    for y, x in np.argwhere(points):
        expected |= disc(*shape, y, x, radius)
    assert (masks.dilate(points, radius) == expected).all()


def test_contours_match_within_the_tolerance_only() -> None:
    truth = disc(480, 854, 200, 300, 60)
    assert masks.boundary_f(truth, truth) == 1
    assert masks.boundary_f(disc(480, 854, 208, 300, 60), truth) == 1
    assert 0 < masks.boundary_f(disc(480, 854, 215, 300, 60), truth) < 1
    assert masks.boundary_f(disc(480, 854, 200, 600, 60), truth) == 0
    empty = np.zeros_like(truth)
    assert masks.boundary_f(empty, empty) == 1
    assert masks.boundary_f(empty, truth) == masks.boundary_f(truth, empty) == 0
    full = np.ones_like(truth)
    assert masks.boundary_f(full, full) == masks.boundary_f(full, empty) == 1  # a full image has no contour
    assert masks.boundary_f(full, truth) == 0


def test_boundary_f_does_not_depend_on_the_box_it_is_computed_in() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        height, width = (int(n) for n in rng.integers(4, 60, 2))
        pair = [
            disc(height, width, rng.random() * height, rng.random() * width, 1 + rng.random() * 12) for _ in range(2)
        ]
        radius = masks.tolerance_radius(height, width)
        edges = [masks.boundary(mask) for mask in pair]
        counts = [int(edge.sum()) for edge in edges]
        if not min(counts):
            continue
        precision = (edges[0] & masks.dilate(edges[1], radius)).sum() / counts[0]
        recall = (edges[1] & masks.dilate(edges[0], radius)).sum() / counts[1]
        expected = 2 * precision * recall / (precision + recall) if precision + recall else 0
        assert masks.boundary_f(pair[0], pair[1]) == expected


def test_void_is_background_on_both_sides() -> None:
    truth, predicted = disc(100, 100, 50, 40, 20), disc(100, 100, 50, 60, 20)
    void = truth ^ predicted
    assert masks.jaccard(predicted, truth, void) == masks.boundary_f(predicted, truth, void) == 1
    assert masks.boundary_f(predicted, truth, np.zeros_like(void)) == masks.boundary_f(predicted, truth)


def test_statistics() -> None:
    mean, recall, decay = masks.statistics(np.array([1.0, 0.8, 0.5, 0.2, 0.0]))
    assert (mean, recall) == (0.5, 0.4)  # 0.5 itself is no success
    assert decay == pytest.approx(0.9 - 0.1)  # quarters share their ends: [1, .8] and [.2, 0]
    assert masks.statistics(np.array([0.7])) == (0.7, 1, 0)
    assert all(math.isnan(value) for value in masks.statistics(np.array([])))


def test_decay_of_long_videos_and_the_official_overflow() -> None:
    values = np.linspace(1, 0, 298)
    assert masks.statistics(values)[2] == pytest.approx(0.75, abs=0.01)
    assert math.isnan(masks.statistics(values, uint8_decay=True)[2])  # the last quarter ends at 297 - 256 = 41
    assert masks.statistics(values[:200], uint8_decay=True) == masks.statistics(values[:200])


def test_assign_finds_the_best_matching() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        proposals = int(rng.integers(1, 6))
        objects = int(rng.integers(1, proposals + 1))
        scores = rng.random((proposals, objects)).round(1)
        rows = masks.assign(scores)
        best = max(
            sum(scores[p, k] for k, p in enumerate(choice))
            for choice in itertools.permutations(range(proposals), objects)
        )
        assert len(set(rows)) == objects
        assert scores[rows, np.arange(objects)].sum() == pytest.approx(best)


def test_confusion_and_its_summaries() -> None:
    truth = np.array([[0, 0, 1], [1, 1, 255]], np.uint8)
    predicted = np.array([[0, 1, 1], [1, 0, 9]], np.uint8)
    matrix = masks.confusion(predicted, truth, 3)
    assert matrix.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    found = masks.class_scores(matrix)
    assert isinstance(found["iou"], list)
    assert found["iou"][:2] == pytest.approx([1 / 3, 1 / 2])
    assert math.isnan(found["iou"][2])
    assert found["mean_iou"] == pytest.approx(5 / 12)
    assert found["pixel_accuracy"] == pytest.approx(3 / 5)
    assert found["mean_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["frequency_iou"] == pytest.approx(2 / 5 / 3 + 3 / 5 / 2)
    with pytest.raises(ValueError, match="class 3"):
        masks.confusion(np.full((1, 1), 3), np.zeros((1, 1), int), 3)


def test_published_values_of_osvos(test_data: Path) -> None:
    """Per-frame J and F of OSVOS on DAVIS-2016 as its authors published them, with three decimals."""
    folder = test_data / "reference-results" / "davis2016"
    published = json.loads((folder / "osvos_davis.json").read_text())
    with zipfile.ZipFile(folder / "osvos.zip") as archive:
        for truths in sorted((test_data / "data" / "DAVIS" / "Annotations" / "480p").iterdir()):
            files = sorted(truths.glob("*.png"))[1:-1]
            assert len(files) == len(published[truths.name]["J"])
            for number, file in enumerate(files):
                truth = read_labels(file) > 0
                with Image.open(io.BytesIO(archive.read(f"{truths.name}/{file.name}"))) as image:
                    predicted = np.asarray(image) > 0
                values = masks.jaccard(predicted, truth), masks.boundary_f(predicted, truth)
                expected = [float(published[truths.name][measure][number]) for measure in "JF"]
                assert values == pytest.approx(expected, abs=0.0005 + 1e-9)
