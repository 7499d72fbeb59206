"""Drawing: colours and places are right, and whatever is missing or outside does no harm."""

from __future__ import annotations

import numpy as np
import pytest

from dropmae.reports.draw import (
    bright,
    colour,
    colour_flow,
    draw_boxes,
    draw_mask,
    draw_points,
    draw_target,
    draw_text,
    tile,
)
from dropmae.target import Target, empty

FRAME = np.full((60, 80, 3), 100, np.uint8)


def changed(picture: np.ndarray) -> np.ndarray:
    return (picture != FRAME).any(-1)


def test_colours_are_those_of_davis() -> None:
    assert [colour(k) for k in (1, 2, 3, 4)] == [(128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    assert min(max(bright(k)) for k in range(300)) >= 128


def test_masks() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 20:50] = 2
    picture = draw_mask(FRAME, mask)
    np.testing.assert_array_equal(changed(picture), mask > 0)
    assert picture[20, 30].tolist() == [50, 114, 50]
    assert picture[10, 20].tolist() == [0, 128, 0], "the outline is opaque"
    assert (FRAME == 100).all(), "the frame itself stays as it was"
    assert draw_mask(FRAME, mask.astype(np.int32) * 1000).shape == FRAME.shape


def test_a_box_is_drawn_on_the_pixels_at_its_edge() -> None:
    picture = draw_boxes(FRAME, np.array([[10, 20, 30, 15], [np.nan] * 4]), [1, 2])
    rows, columns = np.nonzero(changed(picture))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 34, 10, 39)
    assert picture[20, 10].tolist() == list(bright(1))
    for box in ([-50, -50, 10, 10], [70, 50, 300, 300], [5, 5, 0, 0], [5, 5, 0.2, 0.2]):
        assert draw_boxes(FRAME, np.array([box]), [1], ["name 0.50"]).shape == FRAME.shape


def test_points_visible_and_hidden() -> None:
    points = np.array([[20.5, 30.5], [50.5, 30.5], [np.nan, np.nan], [500, -20]])
    picture = draw_points(FRAME, points, np.array([True, False, True, True]), np.array([1, 1, 1, 1]))
    assert picture[30, 20].tolist() == list(bright(1))
    assert picture[30, 50].tolist() == [100, 100, 100], "a ring is hollow"
    assert changed(picture)[30, 45:56].any()
    trailed = draw_points(FRAME, points, None, None, [points - [10, 0]])
    assert changed(trailed)[30, 12]


def test_a_whole_target_and_an_empty_one() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 20:50] = 3
    target = Target(
        ids=np.array([3]),
        boxes=np.array([[20.0, 10, 30, 20]]),
        mask=mask,
        points=np.array([[70.0, 50.0]]),
        scores=np.array([0.5]),
    )
    drawn = changed(draw_target(FRAME, target, [target, empty()]))
    assert drawn[50, 70]
    assert drawn[20, 30]
    assert not changed(draw_target(FRAME, empty())).any()


def test_flow_colours() -> None:
    flow = np.zeros((1, 6, 2), np.float32)
    flow[0, 1:] = [[1, 0], [0, 1], [-1, 0], [0, -1], [np.nan, 0]]
    picture = colour_flow(flow)[0].tolist()
    assert picture[0] == [255, 255, 255], "nothing moves"
    assert picture[1] == [255, 0, 0], "to the right is red"
    assert picture[2][2] == 0, "down is between yellow and green"
    assert min(picture[2][:2]) > 0
    assert picture[3][0] == 0, "to the left is between cyan and blue"
    assert picture[4][1] == 0, "up is between blue and magenta"
    assert picture[5] == [0, 0, 0], "not known"
    np.testing.assert_array_equal(colour_flow(flow * 3, 1)[0, 1], [191, 0, 0])
    assert colour_flow(np.zeros((2, 2, 2))).min() == 255
    assert colour_flow(np.full((2, 2, 2), np.nan)).max() == 0


def test_text_stays_in_the_frame() -> None:
    for at in ((0, 0), (79, 59), (-20, 500)):
        assert changed(draw_text(FRAME, "ab", at)).any()


def test_grids() -> None:
    sheet = tile([FRAME, FRAME[:30], FRAME], 2, ["one", "two"])
    assert sheet.shape[1] == 2 * 80 + 3 * 4
    assert tile([FRAME], 5).shape == (68, 88, 3)
    with pytest.raises(ValueError, match="at least one picture"):
        tile([], 2)
