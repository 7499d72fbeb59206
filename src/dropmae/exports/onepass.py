"""Boxes of one object as OTB and GOT-10k have them: a line per frame."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dropmae.contracts import Export
from dropmae.contracts.exports import Add
from dropmae.engine import Answer
from dropmae.exports._things import frame_count, things
from dropmae.formats.boxes import format_boxes
from dropmae.storage import write_text
from dropmae.video import Video


@dataclass(kw_only=True)
class OnePass(Export):
    """x,y,w,h of one object, a line for every frame of the video and NaN where it has no box; pixels count from 1."""

    suffixes = (".otb.txt", ".got10k.txt")
    needs = ("boxes", "mask")

    @contextlib.contextmanager
    def open(self, out: Path, video: Video, doubtful_below: float | None) -> Iterator[Add]:
        boxes: dict[int, list[float]] = {}
        known: set[int] = set()

        def add(answer: Answer) -> None:
            for thing in things(answer.target):
                known.add(thing.id)
                if thing.box is not None:
                    boxes[answer.frame] = thing.box
            if len(known) > 1:
                raise ValueError(f"{out}: this form holds one object, not {len(known)}: write OUT.mot.txt or OUT.csv")

        yield add
        table = np.full((frame_count(video, max(boxes, default=0)), 4), np.nan)
        for frame, box in boxes.items():
            table[frame] = box
        write_text(out, format_boxes(table + np.array([1, 1, 0, 0]), 4))
