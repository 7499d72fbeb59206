"""What forms with a row per object need: the objects of a frame, their names, and what frames are called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dropmae.names import printable
from dropmae.target import Target, mask_boxes
from dropmae.video import Video, is_live

UNNAMED = "object"
"""The class of objects that have no name."""


class Thing(NamedTuple):
    """An object in a frame."""

    id: int
    name: str
    """On one line."""
    box: list[float] | None
    """x, y, w, h in pixels; None where it is not to be seen."""
    mask: np.ndarray | None
    """bool [H, W]; None where there is none, or nothing of it to be seen."""
    score: float | None


def things(target: Target) -> Iterator[Thing]:
    """The objects that a target tells of, with boxes, with masks or with both; those that are not there, too."""
    rows = {number: row for row, number in enumerate(target.ids.tolist())}
    tight: dict[int, np.ndarray] = {}
    if target.mask is not None:
        shown, boxes = mask_boxes(target.mask)
        tight = dict(zip(shown.tolist(), boxes))
    for number in sorted({*rows, *tight}):
        row, box, score, name = rows.get(number), None, None, None
        if row is not None:
            if target.boxes is not None and np.isfinite(target.boxes[row]).all():
                box = target.boxes[row]
            if target.scores is not None and np.isfinite(target.scores[row]):
                score = float(target.scores[row])
            name = None if target.names is None else target.names[row]
        mask = target.mask == number if number in tight and target.mask is not None else None
        box = tight.get(number) if box is None else box
        yield Thing(number, printable(name or UNNAMED), None if box is None else box.tolist(), mask, score)


def clipped(box: list[float], height: int, width: int) -> list[float] | None:
    """The part of a box that lies in the frame; None for nothing."""
    x, y, right, bottom = max(box[0], 0), max(box[1], 0), min(box[0] + box[2], width), min(box[1] + box[3], height)
    return [x, y, right - x, bottom - y] if right > x and bottom > y else None


def frame_name(video: Video, frame: int) -> str:
    """What the image of a frame is called: the file of a folder of images, else the video's name and the number."""
    names = video.image_names
    return names[frame] if names else f"{printable(video.name)}_{frame:06d}.jpg"


def frame_count(video: Video, last: int) -> int:
    """How many frames a video has; of a live stream, those up to the last one that was answered."""
    return last + 1 if is_live(video.source) else len(video)


def short(value: float) -> str:
    """A coordinate in a text, to a thousandth of a pixel."""
    return f"{value:.3f}".rstrip("0").rstrip(".")
