"""FlyingThings3D (Mayer et al., CVPR 2016): rendered things that fly about."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dropmae.benchmarks._flow import FlowBenchmark, FlowPair, Rows, only_split
from dropmae.metrics import flow as metrics
from dropmae.target import Target

FARTHEST = 400.0
"""Pixels beyond which flow does not count."""


@dataclass(kw_only=True)
class FlyingThings(FlowBenchmark):
    """Mean end-point error over all pixels that move less than 400, by the left camera.

    Layout: <root>/frames_cleanpass/TRAIN/A/0000/left/0006.png (frames_finalpass alike) and <root>/optical_flow/TRAIN/A/
    0000/into_future/left/OpticalFlowIntoFuture_0006_L.pfm (into_past alike). `train` is every pair of TRAIN, in both
    directions; `test` those of TEST; `val`, the default, every seventh of these, as far as the first 1024.
    """

    RULES = "all pixels that move less than 400"
    train_split = "train"

    passes: tuple[str, ...] = ("clean", "final")
    """Which renderings are taken, of those that are there."""

    def pairs(self, root: Path, split: str | None = None) -> list[FlowPair]:
        only_split(self, split, ("train", "val", "test"))
        part = "TRAIN" if split == "train" else "TEST"
        found = []
        for name in self.passes:
            listed = list(self.directions(root, part, name))
            found += listed[::7][:1024] if split in (None, "val") else listed
        if not found:
            raise FileNotFoundError(
                f"{root}: no pairs; expected frames_cleanpass/{part}/A/0000/left and optical_flow/{part}"
            )
        return found

    def directions(self, root: Path, part: str, name: str) -> Iterator[FlowPair]:
        """All pairs of a pass that have flow, into the future and then into the past."""
        for scene in sorted((root / f"frames_{name}pass" / part).glob("[ABC]/*/left")):
            where = scene.parent.relative_to(root / f"frames_{name}pass")
            pictures = sorted(scene.glob("*.png"))
            for word, order in (("Future", pictures), ("Past", pictures[::-1])):
                for first, second in itertools.pairwise(order):
                    flow = root / "optical_flow" / where / f"into_{word.lower()}" / "left"
                    flow = flow / f"OpticalFlowInto{word}_{first.stem}_L.pfm"
                    if flow.is_file():
                        title = f"{name}/{where.as_posix()}/{word.lower()}/{first.stem}"
                        yield FlowPair(name=title, first=first, second=second, flow=flow)

    def files(self, name: str) -> tuple[str, ...]:
        return (f"{name}.flo",)

    def tally(self, pair: FlowPair, true: Target, found: np.ndarray) -> Rows:
        assert true.flow is not None
        near = (np.abs(np.nan_to_num(true.flow)) < FARTHEST).all(-1)
        return {"": metrics.errors(true.flow, found, near)}
