"""MPI Sintel (Butler et al., ECCV 2012): an animated film."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dropmae.benchmarks._flow import FlowBenchmark, FlowPair, Rows, only_split
from dropmae.formats.flow import read_marks
from dropmae.metrics import flow as metrics
from dropmae.target import Target

HELD = ("temple_2", "temple_3")
"""Scenes of the split `val`; the other ones are `subtrain`."""


@dataclass(kw_only=True)
class Sintel(FlowBenchmark):
    """Mean end-point error over all pixels, of each pass and of both.

    Layout: <root>/training/{clean,final}/<scene>/frame_0001.png, training/flow/<scene>/frame_0001.flo, training/
    occlusions and training/invalid alike, <root>/test/{clean,final}. Splits: `train` (all scenes, the default),
    `subtrain`, `val` (temple_2 and temple_3), `test`, whose truth is not public. Results are, as the official bundler
    takes them, <pass>/<scene>/frame0001.flo. Parts: pixels by how far they move; and, where occlusions are at hand,
    `matched` (seen in the next frame, and landing in it) and `unmatched`.
    """

    RULES = "all pixels, as RAFT has it"
    train_split = "train"

    passes: tuple[str, ...] = ("clean", "final")
    """Which renderings are taken, of those that are there."""
    mask_invalid: bool = False
    """Leave out the pixels that Sintel marks as invalid; nobody does in published numbers."""

    def pairs(self, root: Path, split: str | None = None) -> list[FlowPair]:
        only_split(self, split, ("train", "subtrain", "val", "test"))
        folder, found = root / ("test" if split == "test" else "training"), []
        for name in self.passes:
            for scene in sorted(place for place in (folder / name).glob("*") if place.is_dir()):
                if split in ("subtrain", "val") and (scene.name in HELD) != (split == "val"):
                    continue
                pictures = sorted(scene.glob("frame_*.png"))
                for first, second in itertools.pairwise(pictures):
                    found.append(self.pair(folder, name, scene.name, first, second))
        if not found:
            raise FileNotFoundError(f"{root}: no pairs; expected {folder / self.passes[0]}/SCENE/frame_0001.png")
        return found

    def pair(self, folder: Path, name: str, scene: str, first: Path, second: Path) -> FlowPair:
        flow, occluded, invalid = (
            path if path.is_file() else None
            for path in (
                folder / "flow" / scene / f"{first.stem}.flo",
                folder / "occlusions" / scene / first.name,
                folder / "invalid" / scene / first.name,
            )
        )
        if flow is None and folder.name == "training":
            raise FileNotFoundError(f"{folder / 'flow' / scene / first.stem}.flo: no such file")
        marks = {} if invalid is None else {"invalid": invalid}
        title = f"{name}/{scene}/{first.stem}"
        return FlowPair(name=title, first=first, second=second, flow=flow, occluded=occluded, marks=marks)

    def files(self, name: str) -> tuple[str, ...]:
        return (f"{name.replace('frame_', 'frame')}.flo", f"{name}.flo")

    def tally(self, pair: FlowPair, true: Target, found: np.ndarray) -> Rows:
        assert true.flow is not None
        if self.mask_invalid and "invalid" in pair.marks:
            true.flow[read_marks(pair.marks["invalid"])] = np.nan
        rows = {"": metrics.errors(true.flow, found), **metrics.by_speed(true.flow, found)}
        if true.occluded is not None:
            seen = ~true.occluded & metrics.lands_inside(true.flow)
            rows |= {
                "matched": metrics.errors(true.flow, found, seen),
                "unmatched": metrics.errors(true.flow, found, ~seen),
            }
        return rows

    def summary(self, rows: Mapping[str, Rows]) -> dict[str, Any]:
        """The numbers of all pairs, and those of each pass where both are there."""
        found = super().summary(rows)
        passes = list(dict.fromkeys(name.partition("/")[0] for name in rows))
        for one in passes if len(passes) > 1 else ():
            own = super().summary({name: row for name, row in rows.items() if name.startswith(f"{one}/")})
            found |= {f"{key}_{one}": own[key] for key in ("epe", "outliers")}
        return found
