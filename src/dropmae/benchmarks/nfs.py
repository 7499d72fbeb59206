"""Need for Speed (Kiani Galoogahi et al., ICCV 2017), the 30 frames/s version that papers report."""

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
class NFS(OnePass):
    """Success and precision on Need for Speed, 100 sequences at 30 frames/s.

    Layout, pytracking's: <root>/{sequences/<name>/*.jpg, anno/nfs_<name>.txt}, x y w h per line. The data set has no
    toolkit of its own; published numbers are pytracking's or OSTrack's.
    """

    protocol: ProtocolName = "pytracking"
    """Whose rules give the numbers. "all" puts them side by side, with the first as the headline."""

    TITLE: ClassVar[str] = "NFS"
    PREFIX: ClassVar[str] = "nfs_"
    RULES: ClassVar[dict[str, Protocol]] = {
        "pytracking": protocols.PYTRACKING,
        "ostrack": protocols.OSTRACK,
        "got10k": protocols.GOT10K_TOOLKIT,
        "pysot": protocols.PYSOT,
        "otb": protocols.OTB,
    }

    def clips(self, root: Path, split: str | None = None) -> list[Clip]:
        """All sequences; NFS has no splits."""
        self.only_test(split)
        files = sorted((root / "anno").glob("*.txt"))
        if not files:
            raise FileNotFoundError(
                f"{root}: no NFS annotations; expected <root>/anno/nfs_<name>.txt and sequences/<name>/"
            )
        names = {file.stem.removeprefix(self.PREFIX): file for file in files}
        return [
            Clip(name, root / "sequences" / name, Truth(partial(read_track, file), self.origin))
            for name, file in names.items()
        ]


def read_track(file: Path) -> Track:
    return Track(boxes=read_boxes(file))
