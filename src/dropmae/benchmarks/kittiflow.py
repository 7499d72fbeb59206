"""KITTI's optical flow of 2015 (Menze and Geiger, CVPR 2015) and of 2012 (Geiger et al., CVPR 2012): driving."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from dropmae.benchmarks._flow import FlowBenchmark, FlowPair, Rows, only_split
from dropmae.formats.flow import read_kitti, read_marks, write_kitti
from dropmae.metrics import flow as metrics
from dropmae.target import Target

PICTURES = {"2015": "image_2", "2012": "colored_0"}
WAYS: dict[str, tuple[tuple[str, ...], str]] = {
    "raft": (("outliers",), "RAFT: errors by pair, outliers of all pixels"),
    "pooled": (("epe", "outliers"), "all pixels, as UniMatch and the 2015 development kit have it"),
    "pairs": ((), "mean over pairs, as ptlflow and the 2012 development kit have it"),
}
"""Protocol -> numbers that are of all pixels, and in words."""


@dataclass(kw_only=True)
class KittiFlow(FlowBenchmark):
    """End-point error and outliers (Fl: beyond 3 pixels and 5 %) over the pixels whose flow is known.

    Layout: <root>/training/image_2/000000_10.png and 000000_11.png (2012: colored_0), training/flow_occ/000000_10.png,
    flow_noc alike, obj_map where there is one, <root>/testing. Splits: `train` (the default) and `test`, whose truth is
    not public. Results are flow/000000_10.png, in 16 bits, as they are handed in. Parts: `noc` (seen in both pictures),
    and `fg` and `bg`, by the map of moving objects.
    """

    train_split = "train"
    WAYS: ClassVar = WAYS

    protocol: Literal["raft", "pooled", "pairs"] = "raft"
    """What is a mean of all pixels, and what over pairs: papers differ, and so do their numbers."""

    @property
    def POOLED(self) -> tuple[str, ...]:  # type: ignore[override]
        return WAYS[self.protocol][0]

    @property
    def RULES(self) -> str:  # type: ignore[override]
        return WAYS[self.protocol][1]

    def pairs(self, root: Path, split: str | None = None) -> list[FlowPair]:
        only_split(self, split, ("train", "test"))
        folder = root / ("testing" if split == "test" else "training")
        pictures = next((folder / name for name in PICTURES.values() if (folder / name).is_dir()), folder / "image_2")
        found = []
        for first in sorted(pictures.glob("*_10.png")):
            flow = folder / "flow_occ" / first.name
            if split != "test" and not flow.is_file():
                continue
            marks = {name: path for name in ("flow_noc", "obj_map") if (path := folder / name / first.name).is_file()}
            name, second = first.name.removesuffix("_10.png"), first.with_name(first.name.replace("_10.", "_11."))
            truth = None if split == "test" else flow
            found.append(FlowPair(name=name, first=first, second=second, flow=truth, marks=marks))
        if not found:
            raise FileNotFoundError(f"{root}: no pairs; expected {pictures}/000000_10.png and {folder}/flow_occ")
        return found

    def files(self, name: str) -> tuple[str, ...]:
        return (f"flow/{name}_10.png", f"{name}_10.png", f"{name}.flo")

    write_flow = staticmethod(write_kitti)

    def tally(self, pair: FlowPair, true: Target, found: np.ndarray) -> Rows:
        assert true.flow is not None
        rows = {"": metrics.errors(true.flow, found)}
        if "flow_noc" in pair.marks:
            rows["noc"] = metrics.errors(read_kitti(pair.marks["flow_noc"]), found)
        if "obj_map" in pair.marks:
            moving = read_marks(pair.marks["obj_map"])
            rows |= {"bg": metrics.errors(true.flow, found, ~moving), "fg": metrics.errors(true.flow, found, moving)}
        return rows
