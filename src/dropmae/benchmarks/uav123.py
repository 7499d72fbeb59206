"""UAV123 (Mueller, Smith, Ghanem, ECCV 2016): 123 aerial sequences cut from 91 videos."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from dropmae.benchmarks._onepass import OnePass
from dropmae.formats.boxes import read_attributes, read_boxes
from dropmae.formats.tracks import Clip, Track, Truth, numbered_images
from dropmae.metrics import protocols
from dropmae.metrics.protocols import Protocol
from dropmae.opening import read_text

ATTRIBUTES = ("SV", "ARC", "LR", "FM", "FOC", "POC", "OV", "BC", "IV", "VC", "CM", "SOB")
"""Scale variation, aspect ratio change, low resolution, fast motion, full and partial occlusion, out of view,
background clutter, illumination variation, viewpoint change, camera motion, similar object."""
GAPS = {"bird1_2": 775, "bird1_3": 1573, "uav1_3": 2473}
"""First image of the pieces that do not begin with the last image of the piece before, as all others do."""


@dataclass(kw_only=True)
class UAV123(OnePass):
    """Success and precision on UAV123.

    Layout: <root>/{data_seq/UAV123/<video>/%06d.jpg, anno/UAV123/<sequence>.txt, anno/UAV123/att/<sequence>.txt}. An
    object out of view has a box of NaN. Sequences such as car1_2 are pieces of one video (car1), each beginning with
    the last image of the piece before.
    """

    TITLE: ClassVar[str] = "UAV123"
    ORIGIN: ClassVar[float] = 1.0
    PREFIX: ClassVar[str] = "uav_"
    RULES: ClassVar[dict[str, Protocol]] = {
        "official": protocols.UAV123,
        "pytracking": protocols.tagged(protocols.PYTRACKING, "uav"),
        "ostrack": protocols.tagged(protocols.OSTRACK, "uav"),
        "got10k": protocols.GOT10K_TOOLKIT,
        "pysot": protocols.PYSOT,
    }

    def clips(self, root: Path, split: str | None = None) -> list[Clip]:
        """All sequences; UAV123 has no splits."""
        self.only_test(split)
        annotations = root / "anno" / "UAV123"
        files = {file.stem: file for file in sorted(annotations.glob("*.txt"))}
        if not files:
            raise FileNotFoundError(
                f"{root}: no UAV123 annotations; expected <root>/anno/UAV123/*.txt beside <root>/data_seq/UAV123"
            )
        found: list[Clip] = []
        for name, file in files.items():
            truth = Truth(partial(read_track, file), self.origin)
            match = re.fullmatch(r"(.+)_(\d)", name)
            images = root / "data_seq" / "UAV123" / (match[1] if match else name)
            if match is None:
                found.append(Clip(name, images, truth))
                continue
            first = start(name, files)
            found.append(Clip(name, numbered_images(images, first, first + lines(file) - 1), truth))
        return found


def start(name: str, files: dict[str, Path]) -> int:
    """The number of the first image of a piece such as car1_3."""
    video, piece = name.rsplit("_", 1)
    if name in GAPS:
        return GAPS[name]
    if piece == "1":
        return 1
    before = f"{video}_{int(piece) - 1}"
    if before not in files:
        raise FileNotFoundError(f"{files[name].parent / before}.txt: missing, and {name} begins where it ends")
    return start(before, files) + lines(files[before]) - 1


def lines(file: Path) -> int:
    """How many boxes a file holds."""
    return len(read_text(file).rstrip().splitlines())


def read_track(file: Path) -> Track:
    """The Track of an annotation file and its attribute flags."""
    return Track(boxes=read_boxes(file), attributes=read_attributes(file.parent / "att" / file.name, ATTRIBUTES))
