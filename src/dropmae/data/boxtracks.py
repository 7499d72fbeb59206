"""The boxes of a sequence, object by object: what box trackers are trained on and compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np

from dropmae.target import Target, VideoTargets, mask_boxes


class BoxTracks(Mapping[int, Target]):
    """The targets of a sequence, with the way of every object's box through it, read once."""

    def __init__(self, targets: Mapping[int, Target]) -> None:
        self.targets = targets

    @cached_property
    def tracks(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Object id -> frames int64 [n], ascending, in which it is seen, and its boxes float64 [n, 4] there."""
        rows: dict[int, tuple[list[int], list[np.ndarray]]] = {}
        for frame in sorted(self.targets):
            for object_id, box in seen_boxes(self.targets, frame):
                if np.isfinite(box).all() and (box[2:] > 0).all():
                    frames, found = rows.setdefault(int(object_id), ([], []))
                    frames.append(frame)
                    found.append(box)
        return {object_id: (np.array(frames), np.stack(boxes)) for object_id, (frames, boxes) in rows.items()}

    @cached_property
    def tracks3d(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """As `tracks`, of the boxes in space, float64 [n, 7]."""
        rows: dict[int, list[tuple[int, np.ndarray]]] = {}
        for frame in sorted(self.targets):
            target = self.targets[frame]
            for row, box in enumerate(() if target.boxes3d is None else target.boxes3d):
                seen = target.scores is None or target.scores[row] != 0
                if seen and np.isfinite(box).all():
                    rows.setdefault(int(target.ids[row]), []).append((frame, box))
        return {number: (np.array([f for f, _ in own]), np.stack([b for _, b in own])) for number, own in rows.items()}

    def __getitem__(self, frame: int) -> Target:
        return self.targets[frame]

    def __iter__(self) -> Iterator[int]:
        return iter(self.targets)

    def __len__(self) -> int:
        return len(self.targets)


def seen_boxes(targets: Mapping[int, Target], frame: int) -> Iterator[tuple[int, np.ndarray]]:
    """(id, box) of the objects in a frame of which something is seen; from a file, masks beside boxes are not read."""
    if isinstance(targets, VideoTargets):
        lines = [line for line in targets.fields(frame) if line.get("id")]
        if all("box" in line for line in lines):
            for line in lines:
                if line["box"] is not None and line.get("score") != 0:
                    yield line["id"], np.array(line["box"], np.float64)
            return
    target = targets[frame]
    hidden = set() if target.scores is None else set(target.ids[target.scores == 0].tolist())
    for object_id, box in zip(*boxes_of(target)):
        if object_id not in hidden:
            yield object_id, box


def boxes_of(target: Target) -> tuple[np.ndarray, np.ndarray]:
    """ids [N] and boxes [N, 4] of the objects of a Target that have one; around its mask where it has no boxes."""
    ids, boxes = target.ids[:0], np.zeros((0, 4))
    if target.boxes is not None:
        ids, boxes = target.ids, target.boxes.astype(np.float64)
    elif target.mask is not None:
        ids, boxes = mask_boxes(target.mask)
    known = np.isfinite(boxes).all(1)
    return ids[known], boxes[known]


def tracks_of(targets: Mapping[int, Target]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """See `BoxTracks.tracks`."""
    return (targets if isinstance(targets, BoxTracks) else BoxTracks(targets)).tracks
