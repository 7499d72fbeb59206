"""KITTI's tracking results: a line per frame and object, its box in the coordinates of the scene's camera."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dropmae.contracts import Export
from dropmae.contracts.exports import Add
from dropmae.engine import Answer
from dropmae.formats.kitti import calibration_of, read_calibration
from dropmae.storage import replacing
from dropmae.video import Video


@dataclass(kw_only=True)
class KITTI(Export):
    """Lines `frame id type -1 -1 -10 -1 -1 -1 -1 h w l x y z rotation_y score`, for scans in KITTI's layout."""

    suffixes = (".kitti.txt",)
    KIND = "KITTI results"
    needs = ("boxes3d",)

    category: str = "Car"
    """Type of objects whose class is not known."""

    @contextlib.contextmanager
    def open(self, out: Path, video: Video, doubtful_below: float | None) -> Iterator[Add]:
        if video.path is None:
            raise ValueError(f"{out}: KITTI results are of folders of scans, which have a calibration beside them")
        calibration = read_calibration(calibration_of(Path(video.path)))
        with replacing(out) as partial, open(partial, "w") as stream:

            def add(answer: Answer) -> None:
                target = answer.target
                boxes = np.zeros((0, 7)) if target.boxes3d is None else target.boxes3d
                for row in np.flatnonzero(np.isfinite(boxes).all(1)).tolist():
                    numbers = calibration.to_labels(boxes[row : row + 1])[0]
                    kind = (target.names and target.names[row]) or self.category
                    score = 1.0 if target.scores is None else target.scores[row]
                    values = " ".join(f"{value:.4f}" for value in (*numbers, score))
                    stream.write(f"{answer.frame} {target.ids[row]} {kind} -1 -1 -10 -1 -1 -1 -1 {values}\n")

            yield add
