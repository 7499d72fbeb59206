"""OTB-100 (Wu, Lim, Yang, Object Tracking Benchmark, PAMI 2015), also OTB-50 and OTB-2013: what the folder holds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from dropmae.benchmarks._onepass import OnePass
from dropmae.formats.boxes import folded, read_attributes, read_boxes
from dropmae.formats.tracks import Clip, Track, Truth, numbered_images
from dropmae.metrics import protocols
from dropmae.metrics.protocols import Protocol
from dropmae.opening import read_text

FRAMES = {
    "BlurCar1": (247, 988),
    "BlurCar3": (3, 359),
    "BlurCar4": (18, 397),
    "David": (300, 770),
    "Diving": (1, 215),
    "Football1": (1, 74),
    "Freeman3": (1, 460),
    "Freeman4": (1, 283),
}
"""First and last image, by file name, of the sequences that use only some of theirs."""
ANNOTATION = re.compile(r"groundtruth_rect(?:\.(\d+))?\.txt")
"""Name of an annotation file, with the number of its target where there are several."""
ATTRIBUTES = ("IV", "OPR", "SV", "OCC", "DEF", "MB", "FM", "IPR", "OV", "BC", "LR")
"""Illumination variation, out-of-plane rotation, scale variation, occlusion, deformation, motion blur, fast motion,
in-plane rotation, out of view, background clutter, low resolution: the order of the toolkit's flags."""
SKIPPED = {"tiger1": 5}
"""Frames at the start that pytracking and OSTrack leave out; the MATLAB toolkit and got10k do not."""


@dataclass(kw_only=True)
class OTB(OnePass):
    """Success and precision on OTB-100.

    Layout: <root>/<Sequence>/{img/*.jpg, groundtruth_rect.txt}, or groundtruth_rect.1.txt and .2.txt for two targets,
    which are called Jogging_1 and Jogging_2 (a groundtruth_rect.txt beside these repeats one of them and is passed
    over); the toolkit's attribute flags where there is <root>/att/<sequence>.txt.
    The published success AUC and precision are `success_auc` and `precision_20`. The toolkit has no normalised
    precision; here it follows LaSOT's definition.
    """

    TITLE: ClassVar[str] = "OTB-100"
    ORIGIN: ClassVar[float] = 1.0
    RULES: ClassVar[dict[str, Protocol]] = {
        "official": protocols.OTB,
        "pytracking": protocols.PYTRACKING,
        "ostrack": protocols.OSTRACK,
        "got10k": protocols.GOT10K_TOOLKIT,
        "pysot": protocols.PYSOT,
    }

    def clips(self, root: Path, split: str | None = None) -> list[Clip]:
        """All sequences below `root`; OTB has no splits. Of several targets those without boxes are left out (Human4).

        OSError for an annotation file that is empty where it is the only one.
        """
        self.only_test(split)
        found: list[Clip] = []
        for folder in sorted({file.parent for file in root.glob("*/groundtruth_rect*.txt")}):
            files = {match[1] or "": file for file in folder.iterdir() if (match := ANNOTATION.fullmatch(file.name))}
            plain = {target: file for target, file in files.items() if not target}
            several = {target: files[target] for target in sorted(files) if target}
            annotated = {target: file for target, file in several.items() if read_text(file).strip()}
            for target, file in (annotated or plain or several).items():
                name = f"{folder.name}_{target}" if target else folder.name
                truth = Truth(partial(read_track, file, name), self.origin)
                images = folder / "img"
                used = FRAMES.get(folder.name)
                found.append(Clip(name, images if used is None else numbered_images(images, *used), truth))
        if not found:
            raise FileNotFoundError(
                f"{root}: no OTB sequences; expected <root>/<Sequence>/groundtruth_rect.txt with images in img/"
            )
        return found

    def aliases(self, name: str, names: Iterable[str]) -> list[str]:
        """A target's number can be missing in a file's name where only one of the targets is used (Human4_2)."""
        match = re.fullmatch(r"(.+)_\d", name)
        if match is None:
            return [name]
        siblings = [other for other in names if re.fullmatch(re.escape(folded(match[1])) + r"_\d", folded(other))]
        return [name, match[1]] if len(siblings) == 1 else [name]

    def curves(self, name: str, run: np.ndarray, track: Track, protocol: str) -> dict[str, np.ndarray]:
        skipped = SKIPPED.get(name.lower(), 0) if protocol in ("pytracking", "ostrack") else 0
        if skipped:
            # A result of pytracking's own begins after the frames left out, anybody else's holds them.
            run = run[skipped:] if len(run) == len(track.boxes) else run
            track = Track(boxes=track.boxes[skipped:])
        return super().curves(name, run, track, protocol)


def read_track(file: Path, name: str) -> Track:
    """The Track of one annotation file, with the attributes that lie beside the sequences."""
    return Track(
        boxes=read_boxes(file), attributes=read_attributes(file.parent.parent / "att" / f"{name}.txt", ATTRIBUTES)
    )
