"""The clips of TLD (Kalal, Mikolajczyk, Matas, PAMI 2012): objects that leave the view and come back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from dropmae.benchmarks._onepass import OnePass, ProtocolName
from dropmae.formats.boxes import read_boxes
from dropmae.formats.tracks import Clip, Track, Truth
from dropmae.metrics import protocols
from dropmae.metrics.protocols import Protocol

TEXTS = {".txt", ".md"}


@dataclass(kw_only=True)
class TLD(OnePass):
    """Success and precision on TLD's clips, over the frames in which the object is to be seen.

    Layout: <root>/<clip>/{gt.txt, init.txt, a video file or images}. gt.txt holds the corners x1,y1,x2,y2 of a frame
    per line, first pixel 1 and both corners inside the object, or NaN where it is absent. Results are x,y,w,h.
    """

    protocol: ProtocolName = "got10k"
    """Whose rules give the numbers: got10k's toolkit, which leaves absent frames out; or otb, the rules of OTB-100,
    to which an absent frame is a miss in overlap and a hit in distance. "all" puts them side by side."""

    TITLE: ClassVar[str] = "TLD"
    ORIGIN: ClassVar[float] = 1.0
    RULES: ClassVar[dict[str, Protocol]] = {
        "got10k": protocols.GOT10K_TOOLKIT,
        "otb": protocols.OTB,
        "pysot": protocols.PYSOT,
    }

    def clips(self, root: Path, split: str | None = None) -> list[Clip]:
        """All clips; there are no splits."""
        self.only_test(split)
        files = sorted(root.glob("*/gt.txt"))
        if not files:
            raise FileNotFoundError(f"{root}: no TLD clips; expected <root>/<clip>/gt.txt beside a video")
        return [
            Clip(file.parent.name, video(file.parent), Truth(partial(read_track, file), self.origin)) for file in files
        ]


def video(folder: Path) -> Path:
    """The one video file in a clip's folder, else the folder itself, for its images."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix.lower() not in TEXTS]
    return files[0] if len(files) == 1 else folder


def read_track(file: Path) -> Track:
    """The Track of corners; the object is absent where they are NaN."""
    corners = read_boxes(file)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2] + 1], 1)
    return Track(boxes=boxes, absent=np.isnan(boxes.sum(1)))
