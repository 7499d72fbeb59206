"""Kinetics-400 (arXiv 1705.06950) and its like, by the official CSV files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dropmae.benchmarks._actions import VideoClasses, files_below, table_rows


@dataclass(kw_only=True)
class Kinetics(VideoClasses):
    """Top-1 and top-5 on Kinetics.

    `train.csv`, `val.csv` (label, youtube_id, time_start, time_end, split), also in `annotations/`; videos
    <id>_<start>_<end>.mp4 anywhere below. A class's number is its rank among the sorted labels of the train list.
    """

    TITLE: ClassVar[str] = "Kinetics"
    split: ClassVar[str] = "val"

    def listed(self, root: Path, split: str | None = None) -> tuple[tuple[str, ...], list[tuple[str, Any, str]]]:
        wanted = self.table(root, split or self.split)
        try:
            known = self.table(root, "train")
        except FileNotFoundError:
            known = wanted
        there = {path.stem: path for path in files_below(root).values()}
        found = []
        for row in wanted:
            name = f"{row['youtube_id']}_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
            found.append((name, there.get(name), plain(row["label"])))
        return tuple(sorted({plain(row["label"]) for row in known})), found

    def table(self, root: Path, split: str) -> list[dict[str, str]]:
        """The rows of a split's file; FileNotFoundError without it, OSError where it has other columns."""
        files = [folder / f"{split}.csv" for folder in (root, root / "annotations")]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise FileNotFoundError(f"{root}: no {split}.csv, there or in annotations/")
        rows = table_rows(file)
        if not rows or not {"label", "youtube_id", "time_start", "time_end"} <= rows[0].keys():
            raise OSError(f"{file}: expected the columns label, youtube_id, time_start and time_end")
        return rows


def plain(label: str) -> str:
    return label.replace('"', "").strip()
