"""What trackers of boxes are told: checks of frames and first boxes, and errors that name them."""

from __future__ import annotations

import numpy as np

from dropmae.data.boxtracks import boxes_of
from dropmae.target import Target


def check_frame(frame: np.ndarray) -> tuple[int, int]:
    """Height and width of a frame; ValueError where it is not uint8 [H, W, 3]."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
        raise ValueError(f"a frame is uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}")
    return frame.shape[0], frame.shape[1]


def prompted_boxes(target: Target, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ids [N] and boxes [N, 4] of the objects to follow from a frame on.

    ValueError where ids are not unique, or a box has no area, or none of it in the frame.
    """
    ids, boxes = boxes_of(target)
    if len(set(ids.tolist())) < len(ids):
        raise ValueError(f"object ids must differ, but are {', '.join(map(str, ids.tolist()))}")
    height, width = frame.shape[:2]
    for object_id, box in zip(ids.tolist(), boxes):
        if not (box[2:] > 0).all():
            raise ValueError(f"the box of object {object_id} needs a positive width and height: {describe(box)}")
        if (box[:2] + box[2:] <= 0).any() or box[0] >= width or box[1] >= height:
            raise ValueError(f"the box of object {object_id} lies outside the {width}x{height} frame: {describe(box)}")
    return ids, boxes


def describe(box: np.ndarray) -> str:
    """A box for an error message."""
    return "x {:g}, y {:g}, w {:g}, h {:g}".format(*(float(value) for value in box))
