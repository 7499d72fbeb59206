"""TNL2K (Wang et al., CVPR 2021): tracking by box (its sentences are not used here), with infrared and game videos."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from dropmae.benchmarks._onepass import OnePass
from dropmae.formats.boxes import read_attributes, read_boxes, read_names, read_numbers
from dropmae.formats.tracks import Clip, Track, Truth
from dropmae.metrics import protocols
from dropmae.metrics.protocols import Protocol

ATTRIBUTES = (
    *("CM", "ROT", "DEF", "FOC", "IV", "OV", "POC", "VC", "SV", "BC", "MB", "ARC", "LR", "FM"),
    *("AS", "TC", "MS"),
)
"""As LaSOT's, and adversarial samples, thermal crossover, modality switch, in the order of the toolkit's flags."""


@dataclass(kw_only=True)
class TNL2K(OnePass):
    """Success, precision and normalised precision on TNL2K.

    Layout: <root>/<sequence>/{imgs/*, groundtruth.txt}, <root> being one split's folder, or its parent that holds
    TNL2K_train_subset and TNL2K_test_subset. For scoring, <root> can also be the toolkit's `annos` folder (gt_rect,
    absent, att). Elsewhere absent frames are those whose box is 0,0,0,0.
    pytracking and OSTrack do not know about absent frames and count them as hits in normalised precision; OSTrack also
    takes boxes with x or y at or below 0. Their numbers are higher than the toolkit's.
    """

    TITLE: ClassVar[str] = "TNL2K"
    RULES: ClassVar[dict[str, Protocol]] = {
        "official": protocols.TNL2K,
        "pytracking": protocols.PYTRACKING,
        "ostrack": protocols.OSTRACK,
        "got10k": protocols.GOT10K_TOOLKIT,
        "pysot": protocols.PYSOT,
    }

    def clips(self, root: Path, split: str | None = None) -> list[Clip]:
        """The test videos, or those of the train split."""
        if split not in (None, "test", "train"):
            raise ValueError(f"TNL2K has no split {split!r}; there are train and test")
        toolkit = root / "annos" if (root / "annos").is_dir() else root
        if (toolkit / "gt_rect").is_dir():
            files = sorted((toolkit / "gt_rect").glob("*.txt"))
            return [
                Clip(file.stem, root / file.stem / "imgs", Truth(partial(read_toolkit_track, file), self.origin))
                for file in files
            ]
        subset = root / f"TNL2K_{split or 'test'}_subset"
        if subset.is_dir():
            root = subset
        elif split == "train" and (root / "TNL2K_testing_set.txt").is_file():
            raise FileNotFoundError(f"{root}: holds the test set; give the folder of the train split")
        folders = sorted(file.parent for file in root.glob("*/groundtruth.txt"))
        if (listed := root / "TNL2K_testing_set.txt").is_file():
            names = set(read_names(listed))
            folders = [folder for folder in folders if folder.name in names]
        if not folders:
            raise FileNotFoundError(f"{root}: no TNL2K sequences; expected <root>/<sequence>/groundtruth.txt and imgs/")
        return [
            Clip(folder.name, folder / "imgs", Truth(partial(read_track, folder / "groundtruth.txt"), self.origin))
            for folder in folders
        ]


def read_track(file: Path) -> Track:
    """The Track of an annotation file: a box of zeros says that the object is absent."""
    boxes = read_boxes(file)
    return Track(boxes=boxes, absent=(boxes == 0).all(1))


def read_toolkit_track(file: Path) -> Track:
    """The Track of one of the toolkit's gt_rect files, with absent/<name>.txt and att/<name>_attribute.txt."""
    boxes = read_boxes(file)
    annos = file.parent.parent
    absent = read_numbers(annos / "absent" / file.name)
    if len(absent) < len(boxes):
        raise OSError(f"{annos / 'absent' / file.name}: {len(absent)} flags for {len(boxes)} frames")
    attributes = read_attributes(annos / "att" / f"{file.stem}_attribute.txt", ATTRIBUTES)
    return Track(boxes=boxes, absent=absent[: len(boxes)] > 0, attributes=attributes)
