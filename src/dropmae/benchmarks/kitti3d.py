"""KITTI tracking as 3-D single-object trackers are judged by it: its training part, split by scenes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dropmae.benchmarks._onepass3d import Boxes, OnePass3D, Tracklet
from dropmae.formats.kitti import calibration_of, read_calibration, read_labels
from dropmae.progress import say
from dropmae.video.scans import Recording

SPLITS = {"train": range(17), "val": range(17, 19), "test": range(19, 21)}


@dataclass(kw_only=True)
class Kitti3D(OnePass3D):
    """KITTI tracking: velodyne/SCENE/*.bin, label_02/SCENE.txt and calib/SCENE.txt, in `root` or `root`/training.

    Splits are train (scenes 0 to 16), val (17, 18), test (19, 20) and all. Where none is named it is test, or all that
    is there where none of its scenes is. A scan that is missing counts as an empty one, as in P2B's code.
    """

    TITLE = "KITTI tracking"

    categories: tuple[str, ...] = ("Car", "Pedestrian", "Van", "Cyclist")
    """Types of labels that are followed."""

    def tracklets(self, root: Path, split: str | None = None) -> list[Tracklet]:
        """Every object of a type, over the frames with a label of it; gaps are closed up."""
        folder = root / "training" if (root / "training").is_dir() else root
        there = sorted((folder / "label_02").glob("*.txt"))
        if not there:
            raise FileNotFoundError(f"{folder / 'label_02'}: holds no labels (SCENE.txt)")
        if split not in (None, "all", *SPLITS):
            raise ValueError(f"KITTI tracking has no split {split!r}; there are: {', '.join(SPLITS)}, all")
        named = {path: int(path.stem) if path.stem.isdecimal() else -1 for path in there}
        files = [path for path, scene in named.items() if split == "all" or scene in SPLITS[split or "test"]]
        if not files and split is None:
            files = there
            say(f"{root}: no scene of the split test is there, so all {len(files)} are taken")
        if not files:
            raise FileNotFoundError(f"{folder / 'label_02'}: no scene of the split {split}")
        found = [one for path in files for one in self.scene(folder, path)]
        if not found:
            raise FileNotFoundError(f"{folder / 'label_02'}: no object is a {' or '.join(self.categories)}")
        return sorted(found, key=lambda one: one.name)

    def scene(self, folder: Path, path: Path) -> list[Tracklet]:
        """The tracklets of one scene."""
        scans = folder / "velodyne" / path.stem
        labels = read_labels(path)
        boxes = read_calibration(calibration_of(scans)).from_labels(labels.boxes)
        made = []
        for track in np.unique(labels.tracks[labels.tracks >= 0]).tolist():
            for category in self.categories:
                rows = np.flatnonzero((labels.tracks == track) & (labels.types == category))
                if len(rows):
                    rows = rows[np.argsort(labels.frames[rows], kind="stable")]
                    if len(twice := np.flatnonzero(np.diff(labels.frames[rows]) == 0)):
                        raise OSError(f"{path}: object {track} is twice in frame {labels.frames[rows[twice[0]]]}")
                    files = [scans / f"{frame:06d}.bin" for frame in labels.frames[rows].tolist()]
                    listed = tuple(str(file) if file.is_file() else None for file in files)
                    source = Recording(listed, columns=4) if scans.is_dir() else scans
                    name = f"{category}/{path.stem}-{track:04d}"
                    made.append(Tracklet(name, source, Boxes(boxes[rows], category)))
        return made
