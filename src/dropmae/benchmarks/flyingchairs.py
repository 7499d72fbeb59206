"""FlyingChairs (Dosovitskiy et al., ICCV 2015): rendered chairs before photographs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dropmae.benchmarks._flow import FlowBenchmark, FlowPair, only_split
from dropmae.opening import read_text

SPLITS = ("FlyingChairs_train_val.txt", "chairs_split.txt")
"""Files that say of every pair, a line each, whether it is for training (1) or validation (2)."""


@dataclass(kw_only=True)
class FlyingChairs(FlowBenchmark):
    """Mean end-point error over all pixels.

    Layout: <root>/data/00001_img1.ppm, 00001_img2.ppm, 00001_flow.flo. The splits `train` and `val` need the official
    list in <root> or above it; without a split it is `val` where there is such a list, else every pair. Results are
    00001_flow.flo.
    """

    RULES = "all pixels, as RAFT has it"

    def pairs(self, root: Path, split: str | None = None) -> list[FlowPair]:
        only_split(self, split, ("train", "val"))
        folder = root / "data" if (root / "data").is_dir() else root
        files = sorted(folder.glob("*_flow.flo"))
        if not files:
            raise FileNotFoundError(f"{root}: no pairs; expected data/00001_img1.ppm, 00001_img2.ppm, 00001_flow.flo")
        lists = [place / name for place in (root, root.parent) for name in SPLITS if (place / name).is_file()]
        if lists:
            marks = read_text(lists[0]).split()
            if len(marks) < len(files) or not set(marks) <= {"1", "2"}:
                raise OSError(f"{lists[0]}: {len(marks)} lines for {len(files)} pairs; each is 1 (train) or 2 (val)")
            wanted = "1" if split == "train" else "2"
            files = [file for file in files if marks[int(file.name[:5]) - 1] == wanted]
        elif split is not None:
            raise FileNotFoundError(f"{root / SPLITS[0]}: no such file, which says what is {split}")
        return [
            FlowPair(
                name=(number := file.name.removesuffix("_flow.flo")),
                first=file.with_name(f"{number}_img1.ppm"),
                second=file.with_name(f"{number}_img2.ppm"),
                flow=file,
            )
            for file in files
        ]

    def files(self, name: str) -> tuple[str, ...]:
        return (f"{name}_flow.flo", f"{name}.flo")
