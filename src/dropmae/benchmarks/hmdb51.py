"""HMDB51 (Kuehne et al., ICCV 2011), by its official splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dropmae.benchmarks._actions import VideoClasses, files_below, list_rows

MARKS = {"train": "1", "test": "2"}
"""What stands behind a video in the lists; 0 is in neither."""


@dataclass(kw_only=True)
class HMDB51(VideoClasses):
    """Top-1 and top-5 on one of the three splits of HMDB51: <class>_test_splitN.txt, and videos in folders of their
    classes, both anywhere below."""

    TITLE: ClassVar[str] = "HMDB51"

    fold: int = 1
    """Which of the three official splits."""

    def listed(self, root: Path, split: str | None = None) -> tuple[tuple[str, ...], list[tuple[str, Any, str]]]:
        if split not in (None, *MARKS):
            raise ValueError(f"the splits are train and test, not {split!r}")
        ending = f"_test_split{self.fold}.txt"
        files = sorted(root.rglob(f"*{ending}"))
        if not files:
            raise FileNotFoundError(f"{root}: no <class>{ending}")
        there = {(path.parent.name, path.name): path for path in files_below(root).values()}
        found = []
        for file in files:
            label = file.name.removesuffix(ending)
            for name, kind in list_rows(file):
                if kind == MARKS[split or self.split]:
                    found.append((f"{label}/{name.removesuffix('.avi')}", there.get((label, name)), label))
        return tuple(sorted(file.name.removesuffix(ending) for file in files)), found
