"""LaSOT's extension (Fan et al., IJCV 2021): 150 videos of 15 further classes, all of them test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dropmae.benchmarks._onepass import OnePass
from dropmae.benchmarks.lasot import find_sequences
from dropmae.formats.tracks import Clip, Truth
from dropmae.metrics import protocols
from dropmae.metrics.protocols import Protocol

CLASSES = (
    *("atv", "badminton", "cosplay", "dancingshoe", "footbag", "frisbee", "jianzi", "lantern", "misc", "opossum"),
    *("paddle", "raccoon", "rhino", "skatingshoe", "wingsuit"),
)


@dataclass(kw_only=True)
class LaSOT_ext(OnePass):
    """Success, precision and normalised precision on LaSOT's extension; layout as LaSOT.

    pytracking and OSTrack have no branch for it: frames without the object count as hits in their normalised precision,
    so the numbers that papers report from them are higher than the toolkit's.
    """

    TITLE: ClassVar[str] = "LaSOT_ext"
    ORIGIN: ClassVar[float] = 1.0
    RULES: ClassVar[dict[str, Protocol]] = {
        "official": protocols.LASOT,
        "pytracking": protocols.tagged(protocols.PYTRACKING, "visible"),
        "ostrack": protocols.tagged(protocols.OSTRACK, "visible"),
        "got10k": protocols.GOT10K_TOOLKIT,
        "pysot": protocols.PYSOT,
    }

    def clips(self, root: Path, split: str | None = None) -> list[Clip]:
        """The videos of the 15 classes; others below `root`, such as LaSOT's own, are left out."""
        self.only_test(split)
        found = [
            Clip(name, folder / "img", Truth(load, self.origin))
            for name, (folder, load) in find_sequences(root).items()
            if name.rsplit("-", 1)[0] in CLASSES
        ]
        if not found:
            raise FileNotFoundError(
                f"{root}: no LaSOT_ext sequences; expected <root>/<class>/<class>-<k>/groundtruth.txt"
                f" of the classes {', '.join(CLASSES[:3])}, ..."
            )
        return found
