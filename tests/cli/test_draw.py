"""Drawing: colours and places are right, everything can be seen, and whatever is missing or outside does no harm."""

from __future__ import annotations

import numpy as np
import pytest

from dropmae.target import Target, empty
from dropmae.visualize.overlay import (
    COLOURS,
    DARK,
    colour,
    colour_flow,
    draw_boxes,
    draw_flow,
    draw_grid,
    draw_mask,
    draw_points,
    draw_target,
    draw_text,
    letter_size,
    tile,
)

FRAME = np.full((60, 80, 3), 100, np.uint8)

# What people with red, green and blue cones that fail see of linear RGB (Machado et al., 2009, severity 1).
VISION = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def cielab(colours: np.ndarray, vision: np.ndarray) -> np.ndarray:
    """CIELAB [N, 3] (white D65) of sRGB colours 0..255 as somebody with that vision sees them."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(vision).T, 0, 1)
    xyz = seen @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    f = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def changed(picture: np.ndarray) -> np.ndarray:
    return (picture != FRAME).any(-1)


def shows(picture: np.ndarray, tone: tuple[int, int, int]) -> np.ndarray:
    """Where a picture has exactly a colour."""
    return (picture == tone).all(-1)


@pytest.mark.parametrize("vision", VISION.values(), ids=VISION)
def test_colours_can_be_told_apart_by_everybody(vision: np.ndarray) -> None:
    places = cielab(np.array(COLOURS, float), vision)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)[np.triu_indices(len(places), 1)]
    assert apart.min() > 24
    first = np.linalg.norm(places[:3, None] - places[None, :3], axis=-1)
    assert first[np.triu_indices(3, 1)].min() > 45, "the first three, which nearly all pictures have, are far apart"


def test_colours_are_saturated_and_kept() -> None:
    for tone in COLOURS:
        assert 1 - min(tone) / max(tone) >= 0.74
    assert colour(1) == COLOURS[0] == colour(1 + len(COLOURS))
    assert colour(0) not in COLOURS


def test_masks() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 20:50] = 2
    picture = draw_mask(FRAME, mask)
    around = np.zeros_like(mask, bool)
    around[9:31, 20:50] = around[10:30, 19:51] = True
    np.testing.assert_array_equal(changed(picture), around)
    assert picture[20, 30].tolist() == [162, 70, 147]
    assert picture[10, 20].tolist() == picture[11, 21].tolist() == list(colour(2)), "the outline is opaque, two wide"
    assert picture[9, 30].tolist() == list(DARK)
    assert (FRAME == 100).all(), "the frame itself stays as it was"
    assert draw_mask(FRAME, mask.astype(np.int32) * 1000).shape == FRAME.shape


def test_neighbouring_masks_keep_their_outlines() -> None:
    mask = np.ones((60, 80), np.uint8)
    mask[:, 40:] = 2
    picture = draw_mask(FRAME, mask)
    assert picture[30, 39].tolist() == list(colour(1))
    assert picture[30, 40].tolist() == list(colour(2))


def test_a_box_is_drawn_on_the_pixels_at_its_edge() -> None:
    picture = draw_boxes(FRAME, np.array([[10, 20, 30, 15], [np.nan] * 4]), [1, 2])
    rows, columns = np.nonzero(shows(picture, colour(1)))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 34, 10, 39)
    rows, columns = np.nonzero(changed(picture))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (19, 35, 9, 40), "with a dark line around"
    for box in ([-50, -50, 10, 10], [70, 50, 300, 300], [5, 5, 0, 0], [5, 5, 0.2, 0.2], [-1e12, 0, 2e12, 5]):
        assert draw_boxes(FRAME, np.array([box]), [1], ["name 0.50"]).shape == FRAME.shape


@pytest.mark.parametrize(("rows", "least"), [(256, 2), (480, 3), (1080, 6)])
@pytest.mark.parametrize("ground", [0, 128, 255])
def test_lines_are_wide_enough_and_stand_out(rows: int, least: int, ground: int) -> None:
    frame = np.full((rows, rows * 3 // 2, 3), ground, np.uint8)
    picture = draw_boxes(frame, np.array([[rows / 4, rows / 4, rows / 2, rows / 2]]), [1])
    across = picture[rows // 2, : rows // 2]
    assert shows(across, colour(1)).sum() >= least
    assert shows(across, DARK).sum() >= 2, "a dark line on both sides"
    assert letter_size(frame) >= max(11, rows / 28)


def test_doubtful_boxes_are_dashed() -> None:
    frame = np.full((256, 256, 3), 100, np.uint8)
    target = Target(ids=np.array([1]), boxes=np.array([[50.0, 60, 100, 80]]), scores=np.array([0.2]))
    whole, dashed = draw_target(frame, target, (), 0.1), draw_target(frame, target, (), 0.3)
    lines = [shows(picture, colour(1))[139, 50:150] for picture in (whole, dashed)]
    assert lines[0].all()
    assert 0.3 < lines[1].mean() < 0.8
    assert lines[1][[0, -1]].all(), "the corners are there"
    unknown = Target(ids=target.ids, boxes=target.boxes)
    assert shows(draw_target(frame, unknown, (), 0.3), colour(1))[139, 50:150].all(), "no score is no doubt"


def test_points_visible_and_hidden() -> None:
    frame = np.full((256, 256, 3), 100, np.uint8)
    points = np.array([[60.5, 30.5], [120.5, 30.5], [np.nan, np.nan], [500, -20]])
    picture = draw_points(frame, points, np.array([True, False, True, True]), np.array([1, 1, 1, 1]))
    dot, ring = picture[20:42, 50:72], picture[20:42, 110:132]
    assert shows(dot, colour(1)).sum() >= 25
    assert picture[30, 60].tolist() == list(colour(1))
    assert picture[30, 120].tolist() == [100, 100, 100], "a ring is hollow"
    assert shows(ring, colour(1)).sum() >= 25
    assert shows(dot, DARK).any()
    assert shows(ring, DARK).any()


def test_trails_fade_behind_points_and_boxes() -> None:
    frame = np.full((256, 256, 3), 100, np.uint8)

    def at(k: int) -> Target:
        box, point = [[20.0 + 10 * k, 100, 20, 20]], [[30.0 + 10 * k, 200]]
        return Target(ids=np.array([1]), boxes=np.array(box), points=np.array(point), owners=np.array([1]))

    picture = draw_target(frame, at(15), [at(k) for k in range(15)]).astype(int)
    for row in (110, 200):
        old, new = (np.abs(picture[row, column] - 100).sum() for column in (35, 165))
        assert 0 < old < new / 4, "what is older is paler"
    gap = [at(k) if k != 7 else Target(ids=np.array([1]), boxes=np.full((1, 4), np.nan)) for k in range(15)]
    assert (draw_target(frame, at(15), gap)[110, 100] == 100).all(), "no line through a frame without the object"


def test_a_whole_target_and_an_empty_one() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 20:50] = 3
    target = Target(
        ids=np.array([3]),
        boxes=np.array([[20.0, 10, 30, 20]]),
        mask=mask,
        points=np.array([[70.0, 50.0]]),
        flow=np.full((60, 80, 2), 5, np.float32),
        scores=np.array([0.5]),
    )
    drawn = changed(draw_target(FRAME, target, [target, empty()]))
    assert drawn[50, 70]
    assert drawn[20, 30]
    assert not changed(draw_target(FRAME, empty())).any()


def test_flow_as_arrows() -> None:
    flow = np.zeros((60, 80, 2), np.float32)
    assert not changed(draw_flow(FRAME, flow)).any(), "what stays has no arrow"
    flow[:30] = (6, 0)
    flow[:, 40:] = np.nan
    picture = changed(draw_flow(FRAME, flow))
    assert picture[12, 12:18].all()
    assert not picture[40:].any()
    assert not picture[:, 50:].any()


def test_a_grid_gives_the_coordinates_of_pixels() -> None:
    frame = np.full((100, 200, 3), 100, np.uint8)
    frame[40, 70] = (255, 0, 0)
    sheet = draw_grid(frame, 10)
    scale = -(-960 // 200)
    left, top = sheet.shape[1] - 200 * scale, sheet.shape[0] - 100 * scale
    red = (sheet[..., 0].astype(int) - sheet[..., 1]) > 60
    rows, columns = np.nonzero(red)
    assert abs((columns.mean() - left + 0.5) / scale - 70.5) < 0.5
    assert abs((rows.mean() - top + 0.5) / scale - 40.5) < 0.5
    assert (sheet[top + 37, left + 50] > 180).all(), "a line at pixel 10"
    assert (sheet[:top, left + 40 : left + 60] < 100).any(), "and its number above"


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
