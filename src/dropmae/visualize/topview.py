"""Drawing scans: points and boxes from above, each object by itself beside, and boxes in a camera's picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from dropmae.metrics.boxes3d import corners, local
from dropmae.target import Target
from dropmae.visualize.overlay import colour, draw_target, draw_text, font

SIDE, CLOSE = 640, 214
"""Pixels of the view from above and of an object's own, which shows twice: from above and from its side."""
GROUND = (18, 18, 24)
STEPS = (20, 40, 60, 80, 120, 160)
"""Metres to the edge of the view."""
EDGES = [(k + low, (k + 1) % 4 + low) for low in (0, 4) for k in range(4)] + [(k, k + 4) for k in range(4)]
"""Of a box's corners, four below and four above."""


def draw_frame(
    frame: np.ndarray, target: Target, trail: Sequence[Target] = (), doubtful_below: float | None = None
) -> np.ndarray:
    """What a Target knows of a frame of either kind: on the picture, or on a view of the scan."""
    return (draw_scan if frame.ndim == 2 else draw_target)(frame, target, trail, doubtful_below)


def draw_scan(
    scan: np.ndarray, target: Target, trail: Sequence[Target] = (), doubtful_below: float | None = None
) -> np.ndarray:
    """uint8 [640, 854, 3]: a scan float32 [P, C] from above, x upwards and y to the left, and the first three objects.

    Boxes have a line from the centre to the front. Points are the brighter the higher they are.
    """
    points = scan[np.isfinite(scan[:, :3]).all(1), :3].astype(np.float64)
    boxes = np.zeros((0, 7)) if target.boxes3d is None else target.boxes3d
    known = np.isfinite(boxes).all(1)
    middle = np.zeros(2)
    if known.any() and np.abs(boxes[known, :2]).max() > STEPS[-1]:  # in the world, not around the scanner
        middle = boxes[known, :2].mean(0)
    if known.any():
        away = np.abs(boxes[known, :2] - middle).max() + 6
    else:
        away = np.percentile(np.abs(points[:, :2]), 98) if len(points) else 0
    reach = next((step for step in STEPS if step >= away), STEPS[-1])

    def place(xy: np.ndarray) -> np.ndarray:
        return SIDE / 2 - (xy - middle)[..., ::-1] * (SIDE / 2 / reach)

    picture = dots(place(points[:, :2]), points[:, 2], (SIDE, SIDE))
    draw = ImageDraw.Draw(picture)
    for ring in range(reach // 4, reach + 1, reach // 4):
        (left, top), (right, bottom) = place(middle + ring), place(middle - ring)
        draw.ellipse([left, top, right, bottom], outline=(52, 52, 64))
        draw.text((SIDE / 2 + 3, top + 2), f"{ring} m", fill=(120, 120, 130), font=font(11))
    for past in (*trail, target):
        for number, box in zip(past.ids.tolist(), () if past.boxes3d is None else past.boxes3d):
            if np.isfinite(box).all():
                x, y = place(box[:2])
                draw.ellipse([x - 1, y - 1, x + 1, y + 1], fill=colour(number))
    for row in np.flatnonzero(known).tolist():
        tone = colour(int(target.ids[row]))
        outline(draw, place, boxes[row], tone)
        draw.text(tuple(place(boxes[row, :2]) + 9), caption(target, row, doubtful_below), fill=tone, font=font(13))
    sheet = Image.new("RGB", (SIDE + CLOSE, SIDE), GROUND)
    sheet.paste(picture, (0, 0))
    for slot, row in enumerate(np.flatnonzero(known)[: SIDE // CLOSE].tolist()):
        sheet.paste(close_up(points, boxes[row], colour(int(target.ids[row]))), (SIDE, slot * CLOSE))
    return np.array(sheet)


def caption(target: Target, row: int, doubtful_below: float | None) -> str:
    """An object's number and score, with a question mark where that is low."""
    if target.scores is None or not np.isfinite(target.scores[row]):
        return str(target.ids[row])
    doubt = " ?" if doubtful_below is not None and target.scores[row] < doubtful_below else ""
    return f"{target.ids[row]}: {target.scores[row]:.2f}{doubt}"


def dots(places: np.ndarray, heights: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A picture of points at places [P, 2] in pixels."""
    made = np.full((*size, 3), GROUND, np.uint8)
    column, line = np.floor(places).astype(np.int64).T if len(places) else np.zeros((2, 0), np.int64)
    there = (column >= 0) & (column < size[1]) & (line >= 0) & (line < size[0])
    order = np.argsort(heights[there])  # what is higher covers what is below
    light = np.clip((heights[there][order] + 2) / 3, 0, 1)[:, None]
    made[line[there][order], column[there][order]] = (1 - light) * [70, 80, 110] + light * [255, 236, 200]
    return Image.fromarray(made)


def outline(draw: ImageDraw.ImageDraw, place: Callable[[np.ndarray], np.ndarray], box: np.ndarray, tone: tuple) -> None:
    """A box from above."""
    ends = corners(box[None])[0]
    ring = [tuple(point) for point in place(np.concatenate([ends, ends[:1]]))]
    draw.line(ring, fill=tone, width=2)
    draw.line([tuple(place(box[:2])), tuple(place((ends[0] + ends[3]) / 2))], fill=tone, width=1)


def close_up(points: np.ndarray, box: np.ndarray, tone: tuple) -> Image.Image:
    """One object in its own axes, from above and from its side, front to the right."""
    scale = CLOSE / 2 / (0.75 * max(box[3:6]) + 0.6)
    own = local(points, box)
    own = own[np.abs(own).max(1, initial=0) < CLOSE / scale]
    sheet = Image.new("RGB", (CLOSE, CLOSE), GROUND)
    for slot, (axis, side) in enumerate(((1, box[3]), (2, box[5]))):
        middle = np.array([CLOSE / 2, CLOSE / 4])
        size = (CLOSE // 2, CLOSE)
        view = dots(middle + own[:, [0, axis]] * [scale, -scale] * 0.62, own[:, 2], size)
        half = np.array([box[4], side]) / 2 * scale * 0.62
        ImageDraw.Draw(view).rectangle([*(middle - half), *(middle + half)], outline=tone)
        sheet.paste(view, (0, slot * (CLOSE // 2)))
    return sheet


def draw_camera(picture: np.ndarray, target: Target, pixels: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A camera's picture uint8 [H, W, 3] with boxes in it; `pixels` gives x, y and depth [P, 3] of points [P, 3]."""
    made = Image.fromarray(picture)
    draw = ImageDraw.Draw(made)
    for number, box in zip(target.ids.tolist(), () if target.boxes3d is None else target.boxes3d):
        if not np.isfinite(box).all():
            continue
        flat = corners(box[None])[0]
        ends = np.concatenate([np.column_stack([flat, np.full(4, box[2] + way * box[5] / 2)]) for way in (-1, 1)])
        seen = pixels(ends)
        if (seen[:, 2] < 0.1).any():
            continue  # behind the camera
        for a, b in EDGES:
            draw.line([*seen[a, :2], *seen[b, :2]], fill=colour(number), width=2)
    return draw_text(np.array(made), "camera 2")
