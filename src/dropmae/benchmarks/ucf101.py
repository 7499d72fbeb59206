"""UCF101 (arXiv 1212.0402), by its official splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dropmae.benchmarks._actions import VideoClasses, files_below
from dropmae.opening import read_text


@dataclass(kw_only=True)
class UCF101(VideoClasses):
    """Top-1 and top-5 on one of the three splits of UCF101.

    `trainlist0N.txt` and `testlist0N.txt`, lines Class/v_Class_g01_c01.avi, and the videos in folders of their classes,
    both anywhere below. Classes are what the folders are called.
    """

    TITLE: ClassVar[str] = "UCF101"

    fold: int = 1
    """Which of the three official splits."""

    def listed(self, root: Path, split: str | None = None) -> tuple[tuple[str, ...], list[tuple[str, Any, str]]]:
        names = {part: self.names(root, part) for part in ("train", "test")}
        if split not in (None, *names):
            raise ValueError(f"the splits are train and test, not {split!r}")
        there = {path.stem: path for path in files_below(root).values()}
        classes = tuple(sorted({name.split("/")[0] for part in names.values() for name in part}))
        wanted = names[split or self.split]
        return classes, [(name, there.get(name.rsplit("/", 1)[-1]), name.split("/")[0]) for name in wanted]

    def names(self, root: Path, part: str) -> list[str]:
        """Class/video, without an ending, of a list."""
        files = sorted(root.rglob(f"{part}list{self.fold:02d}.txt"))
        if not files:
            raise FileNotFoundError(f"{root}: no {part}list{self.fold:02d}.txt")
        rows = [line.split()[0] for line in read_text(files[0]).splitlines() if line.strip()]
        if wrong := [row for row in rows if row.count("/") != 1]:
            raise OSError(f"{files[0]}: a line is Class/video.avi, not {wrong[0]!r}")
        return [row.removesuffix(".avi") for row in rows]
