"""Middlebury's optical flow (Baker et al., IJCV 2011): the pairs whose truth is public."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dropmae.benchmarks._flow import FlowBenchmark, FlowPair, only_split


@dataclass(kw_only=True)
class Middlebury(FlowBenchmark):
    """Mean end-point error of each pair, then over pairs.

    Layout: <root>/other-data/<name>/frame10.png and frame11.png, <root>/other-gt-flow/<name>/flow10.flo. Results are
    <name>/flow10.flo. `over_0.5px` and the like are Middlebury's robustness R0.5, R1 and R2. There are no splits.
    """

    LIMITS = (0.5, 1.0, 2.0)
    POOLED = ()
    RULES = "mean over pairs"
    train_split = None

    def pairs(self, root: Path, split: str | None = None) -> list[FlowPair]:
        only_split(self, split, ())
        files = sorted(root.glob("other-gt-flow/*/flow10.flo"))
        if not files:
            raise FileNotFoundError(
                f"{root}: no pairs; expected other-data/NAME/frame10.png, other-gt-flow/NAME/flow10.flo"
            )
        found = []
        for file in files:
            pictures = root / "other-data" / file.parent.name
            found.append(
                FlowPair(
                    name=file.parent.name, first=pictures / "frame10.png", second=pictures / "frame11.png", flow=file
                )
            )
        return found

    def files(self, name: str) -> tuple[str, ...]:
        return (f"{name}/flow10.flo", f"{name}.flo")
