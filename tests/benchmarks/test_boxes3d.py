"""Boxes in space against the official evaluation's numbers, and against counting points."""

from __future__ import annotations

import numpy as np
import pytest

from dropmae.metrics.boxes3d import distances, inside, iou, local, moved, offset, precision, success

# dx, dy, dz, yaw in degrees -> overlap and distance, as Open3DSOT's code has them (shapely's polygons), of a box
# 1.6 x 4.0 x 1.5 turned by 30 degrees.
GOLDEN = np.array([
    [0.5478467492858172, -0.4604265724722594, -0.2754158856382832, 2.098002343060794, 0.2851256375707066],
    [1.2530809568010897, 0.8255111545554434, 0.06398146546030792, 18.941619262584844, 0.35134949678599553],
    [-1.8867213154181481, -0.7514334470008721, 0.1023746488161782, 7.030201401860394, 0.2102704102989793],
    [-0.4335239978873551, 0.7805487040095846, -0.16370544387997216, 39.2051663289993, 0.25574335336251997],
    [0.28611932291904374, -0.3562612178481157, 0.056580018119818075, 15.62622801400855, 0.5144496687857777],
])  # fmt: skip
METRES = [0.7668002343528006, 1.5019234928968392, 2.033433086198077, 0.9077438010976537, 0.46042113411605395]


def boxes(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.normal(0, 30, (count, 3)), rng.uniform(0.4, 5, (count, 3)), rng.uniform(-9, 9, count)])


def test_overlap_is_that_of_the_official_code() -> None:
    a = np.tile([0, 0, 0, 1.6, 4.0, 1.5, np.pi / 6], (len(GOLDEN), 1))
    b = a.copy()
    b[:, :3] += GOLDEN[:, :3]
    b[:, 6] += np.radians(GOLDEN[:, 3])
    np.testing.assert_allclose(iou(a, b), GOLDEN[:, 4], rtol=1e-12)
    np.testing.assert_allclose(iou(b, a), GOLDEN[:, 4], rtol=1e-12)
    np.testing.assert_allclose(distances(a, b), METRES, rtol=1e-12)


def test_overlap_is_what_points_count() -> None:
    rng = np.random.default_rng(1)
    for a, b in zip(boxes(6), boxes(6)):
        a[3:6], b[3:6] = rng.uniform(3, 5, (2, 3))
        b[:3] += rng.normal(0, 0.5, 3)
        b[6] += rng.normal(0, 1)
        points = rng.uniform(-5, 5, (60_000, 3)) + a[:3]
        first, second = (inside(local(points, box), box) for box in (a, b))
        counted = (first & second).sum() / (first | second).sum()
        assert iou(a[None], b[None])[0] == pytest.approx(counted, abs=0.02)


def test_the_ends() -> None:
    own = boxes(500)
    assert (iou(own, own) == 1).all()
    away = own + np.array([20.0, 0, 0, 0, 0, 0, 0])
    assert (iou(own, away) == 0).all()
    above = own.copy()
    above[:, 2] += own[:, 5] * 1.01
    assert (iou(own, above) == 0).all()
    unknown = np.full((1, 7), np.nan)
    assert iou(own[:1], unknown)[0] == 0
    assert distances(own[:1], unknown)[0] == np.inf
    for wrong in ({3: -1.6, 4: -4.0}, {5: 0.0}, {0: np.inf}, {3: 1e308}):
        none = own[:1].copy()
        none[0, list(wrong)] = list(wrong.values())
        assert iou(own[:1], none)[0] == 0


def test_success_and_precision_have_the_official_ends() -> None:
    assert (success(np.ones(7)), precision(np.zeros(7))) == (1.0, 1.0)
    assert success(np.zeros(7)) == pytest.approx(0.025)  # a threshold is 0, which every frame reaches
    assert precision(np.full(7, 2.1)) == 0
    assert success(np.array([0.5])) == pytest.approx(0.525)
    assert precision(np.array([1.0])) == pytest.approx(0.525)


def test_offsets_are_undone() -> None:
    for a, b in zip(boxes(50), boxes(50, 1)):
        b[3:6] = a[3:6]
        found = moved(a, offset(a, b))
        np.testing.assert_allclose(found[:3], b[:3], atol=1e-9)
        assert np.cos(found[6] - b[6]) == pytest.approx(1)
