"""A table for spreadsheets: a line per frame and object, or per frame and point."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dropmae.contracts import Export
from dropmae.contracts.exports import Add
from dropmae.engine import Answer
from dropmae.exports._things import short, things
from dropmae.storage import mark, replacing
from dropmae.target import Target
from dropmae.video import Video

COLUMNS = ("frame", "time", "id", "name", "x", "y", "width", "height", "score", "area")
OF_POINTS = ("frame", "time", "point", "id", "x", "y", "visible", "uncertainty")


@dataclass(kw_only=True)
class CSV(Export):
    """Boxes, scores and the areas of masks in pixels; where an object is not to be seen, its box is empty.

    Where points alone are followed: their places, whether they are visible (0 or 1), and the error to expect in pixels.
    """

    suffixes = (".csv",)
    needs = ("boxes", "mask", "points")

    @contextlib.contextmanager
    def open(self, out: Path, video: Video, doubtful_below: float | None) -> Iterator[Add]:
        times = video.times if video.stamped else None
        with replacing(out) as partial, open(partial, "w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream, lineterminator="\n")
            stream.write(f"# {mark(self.KIND)}\n")
            points: bool | None = None

            def add(answer: Answer) -> None:
                nonlocal points
                if points is None:
                    one = answer.target
                    points = one.points is not None and one.boxes is None and one.mask is None
                    table.writerow(OF_POINTS if points else COLUMNS)
                now = "" if times is None else f"{times[answer.frame]:.6f}"
                if points:
                    table.writerows([answer.frame, now, *row] for row in point_rows(answer.target))
                    return
                for thing in things(answer.target):
                    box = [""] * 4 if thing.box is None else map(short, thing.box)
                    score = "" if thing.score is None else f"{thing.score:.6f}"
                    area = "" if thing.mask is None else int(thing.mask.sum())
                    table.writerow([answer.frame, now, thing.id, thing.name, *box, score, area])

            yield add
            if points is None:
                table.writerow(COLUMNS)


def point_rows(target: Target) -> Iterator[list[object]]:
    """Number, owner, x, y, visible and uncertainty of each point, from 1; what is not known is empty."""
    for row, (x, y) in enumerate(() if target.points is None else target.points.tolist()):
        owner = "" if target.owners is None else int(target.owners[row])
        place = [short(x), short(y)] if np.isfinite(x + y) else ["", ""]
        seen = int(np.isfinite(x + y)) if target.visible is None else int(target.visible[row])
        doubt = "" if target.uncertainty is None else target.uncertainty[row]
        yield [row + 1, owner, *place, seen, short(doubt) if doubt != "" and np.isfinite(doubt) else ""]
