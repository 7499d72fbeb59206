"""Annotations of others as {frame: Target}: rows of objects, made into Targets when a frame is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from dropmae.target import LARGEST, Target, mask_boxes

OVERLAP = 0.3
"""Share that two boxes have to have in common to be of one object."""


class Row(NamedTuple):
    """An object in a frame."""

    id: int | None
    """None where the file does not say which object it is."""
    name: str | None = None
    box: tuple[float, ...] | None = None
    """x, y, w, h in pixels; None where it is not to be seen, or has a mask."""
    mask: Callable[[], np.ndarray] | None = None
    """Makes bool [H, W]."""
    score: float | None = None


class Rows(Mapping[int, Target]):
    """{frame: Target} of one video, from {frame: rows}.

    `sightings` says that the file knows no objects, only what was seen in each frame: then boxes that overlap from one
    frame to the next are one object. Where objects are counted from 0, which is the background of masks, all numbers
    are one more. ValueError where some rows have an id and others none, where one is out of range or twice in a frame,
    for a frame below 0 and for a box that is none.
    """

    def __init__(self, rows: Mapping[int, list[Row]], name: str = "") -> None:
        numbers = [row.id for found in rows.values() for row in found]
        ids = {number for number in numbers if number is not None}
        self.sightings = None in numbers
        if self.sightings and ids:
            raise ValueError(f"object {min(ids)} has an id, and others have none")
        if ids and not 0 <= min(ids) <= max(ids) < LARGEST:  # those counted from 0 are one more
            wrong = min(ids) if min(ids) < 0 else max(ids)
            raise ValueError(f"the id of an object is a number from 0 to {LARGEST - 1}, not {wrong}")
        for frame, found in rows.items():
            if frame < 0:
                raise ValueError(f"frames count from 0, and there is frame {frame}")
            for row in found:
                if row.box is not None and not (all(map(math.isfinite, row.box)) and min(row.box[2:]) >= 0):
                    told = ", ".join(f"{value:g}" for value in row.box)
                    raise ValueError(f"frame {frame}: a box is x, y, w, h, not {told}")
            if ids and len({row.id for row in found}) < len(found):
                twice = next(row.id for place, row in enumerate(found) if row.id in [r.id for r in found[:place]])
                raise ValueError(f"object {twice} is twice in frame {frame}")
        if 0 in ids:
            rows = {frame: [row._replace(id=(row.id or 0) + 1) for row in found] for frame, found in rows.items()}
        self.rows = linked(rows) if self.sightings else dict(sorted(rows.items()))
        self.name = name

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows)

    def __contains__(self, frame: object) -> bool:
        return frame in self.rows

    def __getitem__(self, frame: int) -> Target:
        rows = self.rows[frame]
        ids = [row.id or 0 for row in rows]
        target = Target(ids=np.array(ids, np.int64))
        if any(row.name is not None for row in rows):
            target.names = [row.name for row in rows]
        if any(row.score is not None for row in rows):
            target.scores = np.array([np.nan if row.score is None else row.score for row in rows])
        for number, row in zip(ids, rows):
            if row.mask is not None:
                mask = row.mask()
                if target.mask is None:
                    target.mask = np.zeros(mask.shape, np.int32 if max(ids) > 254 else np.uint8)
                target.mask[mask] = number
        if any(row.mask is None for row in rows):
            known = np.full((len(rows), 4), np.nan)
            for place, row in enumerate(rows):
                if row.box is not None:
                    known[place] = row.box
            if target.mask is not None:  # the others have theirs by their masks
                tight = mask_boxes(target.mask, target.ids)[1]
                known = np.where(np.isfinite(known), known, tight)
            target.boxes = known
        return target


SIGHTED = ("boxes", "mask", "names")
"""What a first sight tells of an object."""


def linked(rows: Mapping[int, list[Row]], gap: int | None = None) -> dict[int, list[Row]]:
    """Rows without ids, with those that follow each other by overlap: each with the best that is left, once a frame.

    An object is looked for again up to `gap` frames after it was seen; by default three times the usual distance of
    frames that hold anything.
    """
    frames = sorted(frame for frame, found in rows.items() if found)
    steps = np.diff(frames)
    gap = gap or 3 * int(np.median(steps)) if len(steps) else 1
    last: dict[int, tuple[int, Row]] = {}
    made: dict[int, list[Row]] = {}
    count = 0
    for frame in frames:
        near = {number: row for number, (at, row) in last.items() if frame - at <= gap}
        pairs = [
            (share, -number, place)
            for place, row in enumerate(rows[frame])
            for number, other in near.items()
            if row.name == other.name and (share := common(row.box, other.box)) >= OVERLAP
        ]
        taken: dict[int, int] = {}
        for _, number, place in sorted(pairs, reverse=True):
            if place not in taken and -number not in taken.values():
                taken[place] = -number
        for place, row in enumerate(rows[frame]):
            if place not in taken:
                count += 1
                taken[place] = count
            row = row._replace(id=taken[place])
            last[taken[place]] = (frame, row)
            made.setdefault(frame, []).append(row)
    return made


def confidence(value: Any) -> float | None:
    """A score in [0, 1]; None for none, or for one that is on another scale. ValueError for what is no number."""
    try:
        score = None if value is None else float(value)
    except (ValueError, TypeError):
        raise ValueError(f"a score is a number, not {str(value)[:40]!r}") from None
    return score if score is not None and 0 <= score <= 1 else None


def common(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> float:
    """Intersection over union of two boxes x y w h; 0 where one is missing."""
    if one is None or other is None:
        return 0.0
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared / max(one[2] * one[3] + other[2] * other[3] - shared, 1e-9)


def polygon_mask(points: list[tuple[float, float]], size: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: pixels whose centres lie inside a polygon of (x, y), by the even-odd rule."""
    height, width = size
    flips = np.zeros((height, width + 1), bool)
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], *points[:1]]):
        if y0 == y1:
            continue
        (x0, y0), (x1, y1) = sorted(((x0, y0), (x1, y1)), key=lambda point: point[1])
        rows = np.arange(max(int(np.ceil(y0 - 0.5)), 0), min(int(np.ceil(y1 - 0.5)), height))
        columns = np.ceil(x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0) - 0.5)
        np.logical_xor.at(flips, (rows, np.clip(columns, 0, width).astype(np.int64)), True)
    return np.logical_xor.accumulate(flips, 1)[:, :width]
