"""What trackers of boxes are told: checks of frames and first boxes, and errors that name them."""

from __future__ import annotations

import numpy as np

from dropmae.data.boxtracks import boxes_of
from dropmae.target import Target, misplaced


def check_frame(frame: np.ndarray) -> tuple[int, int]:
    """Height and width of a frame; ValueError where it is not uint8 [H, W, 3]."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
        raise ValueError(f"a frame is uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}")
    return frame.shape[0], frame.shape[1]


def prompted_boxes(target: Target, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ids [N] and boxes [N, 4] of the objects to follow from a frame on.

    ValueError where ids are not unique, or a box has no area, or none of it in the frame, or a mask has not its size.
    """
    ids, boxes = boxes_of(target)
    if len(set(ids.tolist())) < len(ids):
        raise ValueError(f"object ids must differ, but are {', '.join(map(str, ids.tolist()))}")
    if fault := misplaced(Target(ids=target.ids, boxes=target.boxes, mask=target.mask), *frame.shape[:2]):
        raise ValueError(fault)
    return ids, boxes


def describe(box: np.ndarray) -> str:
    """A box for an error message."""
    return "x {:g}, y {:g}, w {:g}, h {:g}".format(*(float(value) for value in box))
