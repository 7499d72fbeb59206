"""A table for spreadsheets: a line per frame and object."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dropmae.contracts import Export
from dropmae.contracts.exports import Add
from dropmae.engine import Answer
from dropmae.exports._things import short, things
from dropmae.storage import mark, replacing
from dropmae.video import Video

COLUMNS = ("frame", "time", "id", "name", "x", "y", "width", "height", "score", "area")


@dataclass(kw_only=True)
class CSV(Export):
    """Boxes, scores and the areas of masks in pixels; where an object is not to be seen, its box is empty."""

    suffixes = (".csv",)
    needs = ("boxes", "mask")

    @contextlib.contextmanager
    def open(self, out: Path, video: Video, doubtful_below: float | None) -> Iterator[Add]:
        times = video.times if video.stamped else None
        with replacing(out) as partial, open(partial, "w", newline="") as stream:
            table = csv.writer(stream, lineterminator="\n")
            stream.write(f"# {mark(self.KIND)}\n")
            table.writerow(COLUMNS)

            def add(answer: Answer) -> None:
                now = "" if times is None else f"{times[answer.frame]:.6f}"
                for thing in things(answer.target):
                    box = [""] * 4 if thing.box is None else map(short, thing.box)
                    score = "" if thing.score is None else f"{thing.score:.6f}"
                    area = "" if thing.mask is None else int(thing.mask.sum())
                    table.writerow([answer.frame, now, thing.id, thing.name, *box, score, area])

            yield add
