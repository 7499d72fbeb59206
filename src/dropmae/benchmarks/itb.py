"""The Informed Tracking Benchmark (Li et al., arXiv:2112.06467): 180 short videos of nine scenarios."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from dropmae.benchmarks._onepass import OnePass, ProtocolName
from dropmae.formats.boxes import read_boxes
from dropmae.formats.tracks import Clip, Track, Truth
from dropmae.metrics import protocols
from dropmae.metrics.protocols import Protocol


@dataclass(kw_only=True)
class ITB(OnePass):
    """Success and precision on ITB; the scenario is each sequence's attribute.

    Layout: <root>/<scenario>/<video>/{*.jpg, groundtruth.txt}. Published numbers are OSTrack's (DropTrack too).
    """

    protocol: ProtocolName = "ostrack"
    """Whose rules give the numbers. "all" puts them side by side, with the first as the headline."""

    TITLE: ClassVar[str] = "ITB"
    RULES: ClassVar[dict[str, Protocol]] = {
        "ostrack": protocols.OSTRACK,
        "pytracking": protocols.PYTRACKING,
        "got10k": protocols.GOT10K_TOOLKIT,
        "pysot": protocols.PYSOT,
        "otb": protocols.OTB,
    }

    def clips(self, root: Path, split: str | None = None) -> list[Clip]:
        """All sequences; ITB has no splits."""
        self.only_test(split)
        folders = sorted(file.parent for file in root.glob("*/*/groundtruth.txt"))
        if not folders:
            raise FileNotFoundError(f"{root}: no ITB sequences; expected <root>/<scenario>/<video>/groundtruth.txt")
        return [Clip(folder.name, folder, Truth(partial(read_track, folder), self.origin)) for folder in folders]


def read_track(folder: Path) -> Track:
    return Track(boxes=read_boxes(folder / "groundtruth.txt"), attributes=(folder.parent.name,))
