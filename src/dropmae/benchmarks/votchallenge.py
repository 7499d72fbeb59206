"""Sequences in the layout of the VOT challenges (Kristan et al., 2013 on), gone through once without resets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from dropmae.benchmarks._onepass import OnePass, ProtocolName
from dropmae.formats.boxes import read_names, read_regions
from dropmae.formats.tracks import Clip, Track, Truth
from dropmae.metrics import protocols
from dropmae.metrics.protocols import Protocol


@dataclass(kw_only=True)
class VOTChallenge(OnePass):
    """Success and precision of one plain pass; not the challenge's own accuracy, robustness or expected overlap.

    Layout: <root>/<sequence>/{groundtruth.txt, *.jpg or color/*.jpg}, with <root>/list.txt where only some sequences
    count. A line is x,y,w,h or the corners of a polygon x1,y1,x2,y2,...; of a polygon the box that encloses it counts,
    from its least to its greatest coordinates, as the toolkit converts one. Coordinates are taken as they are.
    """

    protocol: ProtocolName = "got10k"
    """Whose rules give the numbers: got10k's toolkit, which leaves absent frames out; or otb, the rules of OTB-100."""

    TITLE: ClassVar[str] = "VOT"
    RULES: ClassVar[dict[str, Protocol]] = {
        "got10k": protocols.GOT10K_TOOLKIT,
        "otb": protocols.OTB,
        "pysot": protocols.PYSOT,
    }

    def clips(self, root: Path, split: str | None = None) -> list[Clip]:
        """The listed sequences, or all; there are no splits."""
        self.only_test(split)
        listed = root / "list.txt"
        folders = sorted(file.parent for file in root.glob("*/groundtruth.txt"))
        if listed.is_file():
            folders = [root / name for name in read_names(listed)]
        if not folders:
            raise FileNotFoundError(f"{root}: no VOT sequences; expected <root>/<sequence>/groundtruth.txt")
        return [
            Clip(folder.name, images(folder), Truth(partial(read_track, folder), self.origin)) for folder in folders
        ]


def images(folder: Path) -> Path:
    return folder / "color" if (folder / "color").is_dir() else folder


def read_track(folder: Path) -> Track:
    """The Track of a sequence's regions; the object is absent where they have no area."""
    boxes = read_regions(folder / "groundtruth.txt")
    with np.errstate(invalid="ignore"):
        shown = np.asarray((boxes[:, 2:] > 0).all(1))
    return Track(boxes=boxes, absent=~shown)
