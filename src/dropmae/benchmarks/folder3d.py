"""Any folder of scans with a `targets.jsonl` of 3-D boxes, scored as KITTI is: what `synth --scans` renders, say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dropmae.benchmarks._onepass3d import Boxes, OnePass3D, Tracklet
from dropmae.target import read_targets
from dropmae.video.scans import Recording, scan_files


@dataclass(kw_only=True)
class Folder3D(OnePass3D):
    """Each object of each folder of scans by itself, from the first frame that shows it on; its name is its class."""

    TITLE = "scans"
    train_split = None
    least_seen: float = 0.3
    """Visible share, where the annotation has it, of the frame with which an object begins."""

    def tracklets(self, root: Path, split: str | None = None) -> list[Tracklet]:
        """The objects; a split is a folder within `root`."""
        folder, made = root / (split or ""), []
        for name, targets in read_targets(folder / "targets.jsonl").items():
            rows: dict[int, list[tuple[int, np.ndarray]]] = {}
            kinds: dict[int, str] = {}
            for frame in sorted(targets):
                target = targets[frame]
                if target.boxes3d is None:
                    continue
                for row, number in enumerate(target.ids.tolist()):
                    share = 1.0 if target.scores is None else target.scores[row]
                    if np.isfinite(target.boxes3d[row]).all() and (number in rows or share >= self.least_seen):
                        rows.setdefault(number, []).append((frame, target.boxes3d[row]))
                        kinds.setdefault(number, str((target.names and target.names[row]) or "object"))
            place = folder / name
            files = scan_files(str(place)) if place.is_dir() else []
            for number, known in rows.items():
                if files and known[-1][0] >= len(files):
                    raise OSError(f"{place}: {len(files)} scans, but targets.jsonl speaks of frame {known[-1][0]}")
                source = Recording(tuple(files[frame] for frame, _ in known)) if files else place
                boxes = Boxes(np.stack([box for _, box in known]), kinds[number])
                made.append(Tracklet(f"{kinds[number]}/{name}-{number:03d}", source, boxes))
        if not made:
            raise FileNotFoundError(f"{folder / 'targets.jsonl'}: speaks of no 3-D box")
        return made
