"""LaSOT (Fan et al., CVPR 2019): long videos, with flags for frames in which the object cannot be seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from dropmae.benchmarks._onepass import OnePass
from dropmae.formats.boxes import read_attributes, read_boxes, read_names, read_numbers
from dropmae.formats.tracks import Clip, Track, Truth
from dropmae.metrics import protocols
from dropmae.metrics.protocols import Protocol

ATTRIBUTES = ("IV", "POC", "DEF", "MB", "CM", "ROT", "BC", "VC", "SV", "FOC", "FM", "OV", "LR", "ARC")
"""Illumination variation, partial occlusion, deformation, motion blur, camera motion, rotation, background clutter,
viewpoint change, scale variation, full occlusion, fast motion, out of view, low resolution, aspect ratio change."""


@dataclass(kw_only=True)
class LaSOT(OnePass):
    """Success, precision and normalised precision on LaSOT.

    Layout: <root>/[<class>/]<class>-<k>/{img/*.jpg, groundtruth.txt, full_occlusion.txt, out_of_view.txt}. The test
    split is what <root>/testing_set.txt lists (protocol II, 280 videos), train the rest; without the list every
    sequence counts. For scoring, <root> can also be the toolkit's `annos` folder, which has the attributes too.
    Absent frames stay in the denominator, so a perfect result does not reach 1.
    """

    TITLE: ClassVar[str] = "LaSOT"
    ORIGIN: ClassVar[float] = 1.0
    RULES: ClassVar[dict[str, Protocol]] = {
        "official": protocols.LASOT,
        "pytracking": protocols.tagged(protocols.PYTRACKING, "lasot"),
        "ostrack": protocols.tagged(protocols.OSTRACK, "lasot"),
        "got10k": protocols.GOT10K_TOOLKIT,
        "pysot": protocols.PYSOT,
    }

    def clips(self, root: Path, split: str | None = None) -> list[Clip]:
        """The test videos, or those of the train split."""
        found = find_sequences(root)
        if not found:
            raise FileNotFoundError(
                f"{root}: no LaSOT sequences; expected <root>/<class>/<class>-<k>/groundtruth.txt with images in img/"
            )
        tested = testing_set(root)
        if tested is None and split is not None:
            raise FileNotFoundError(f"{root}: no testing_set.txt, which tells split {split!r} from the rest")
        if tested is not None:
            train = chosen(split) == "train"
            found = {name: load for name, load in found.items() if (name in tested) != train}
            if not found:
                raise FileNotFoundError(f"{root}: none of the sequences is in the {split or 'test'} split")
        return [Clip(name, folder / "img", Truth(load, self.origin)) for name, (folder, load) in found.items()]


def chosen(split: str | None) -> str:
    """The split meant, test where none is named; ValueError where there is no such split."""
    if split not in (None, "test", "train"):
        raise ValueError(f"no split {split!r}; there are train and test")
    return split or "test"


def testing_set(root: Path) -> set[str] | None:
    """The names of the test videos, from the list that belongs to data set and toolkit; None where it is missing."""
    for place in (root, root.parent, root / "sequence_evaluation_config", root.parent / "sequence_evaluation_config"):
        if (place / "testing_set.txt").is_file():
            return set(read_names(place / "testing_set.txt"))
    return None


def find_sequences(root: Path) -> Mapping[str, tuple[Path, partial[Track]]]:
    """{name: (folder, how to read its Track)} of a data set's folder or of a toolkit's annotations, sorted by name."""
    root = root / "annos" if (root / "annos").is_dir() else root
    if (root / "absent").is_dir():
        files = sorted(root.glob("*.txt"))
        return {file.stem: (root / file.stem, partial(read_toolkit_track, file)) for file in files}
    files = [*root.glob("*/groundtruth.txt"), *root.glob("*/*/groundtruth.txt")]
    folders = sorted((file.parent for file in files), key=lambda folder: folder.name)
    return {folder.name: (folder, partial(read_track, folder)) for folder in folders}


def read_track(folder: Path) -> Track:
    """The Track of a sequence's folder: absent is fully occluded or out of view."""
    boxes = read_boxes(folder / "groundtruth.txt")
    flags = [flags_of(folder / name, len(boxes)) for name in ("full_occlusion.txt", "out_of_view.txt")]
    return Track(boxes=boxes, absent=flags[0] | flags[1])


def read_toolkit_track(file: Path) -> Track:
    """The Track of one of the toolkit's annotation files: absent/ and att/ lie beside it."""
    boxes = read_boxes(file)
    absent = flags_of(file.parent / "absent" / file.name, len(boxes))
    return Track(boxes=boxes, absent=absent, attributes=read_attributes(file.parent / "att" / file.name, ATTRIBUTES))


def flags_of(file: Path, frames: int) -> np.ndarray:
    """bool [frames] from a file of 0/1 flags; more flags than frames are cut off, fewer an OSError."""
    flags = read_numbers(file)
    if len(flags) < frames:
        raise OSError(f"{file}: {len(flags)} flags for {frames} frames")
    return flags[:frames] > 0
