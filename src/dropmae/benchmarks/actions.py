"""Any folder of videos in folders of their classes, or with lists `path label` (VideoMAE, V-JEPA, mae_st)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dropmae.benchmarks._actions import VideoClasses, class_folders, held_out, list_rows
from dropmae.opening import read_text
from dropmae.video.frames import natural

FOLDERS = {"test": ("test", "val", "validation"), "train": ("train",)}


@dataclass(kw_only=True)
class Actions(VideoClasses):
    """Top-1 and top-5 of a folder's videos.

    `train.csv` and `test.csv` (or `val.csv`) are lists of `path label`, paths absolute or below the folder, and
    `labels.txt` has the names of the numbered classes. Without lists videos lie in `train/class/` and `test/class/` (or
    `val/class/`), or in `class/` alone: then every fifth group of clips, by a hash of its name, is for evaluation.
    """

    TITLE: ClassVar[str] = "actions"

    def listed(self, root: Path, split: str | None = None) -> tuple[tuple[str, ...], list[tuple[str, Any, str]]]:
        if split not in (None, *FOLDERS):
            raise ValueError(f"the splits are train and test, not {split!r}")
        names = FOLDERS[split or self.split]
        if lists := [root / f"{name}.csv" for name in names if (root / f"{name}.csv").is_file()]:
            return numbered(root, lists[0])
        for name in names:
            if (root / name).is_dir():
                classes, found = class_folders(root / name)
                return classes, [(f"{name}/{one}", path, label) for one, path, label in found]
        classes, found = class_folders(root)
        wanted = split != "train"
        return classes, [one for one in found if held_out(one[0]) == wanted]


def numbered(root: Path, file: Path) -> tuple[tuple[str, ...], list[tuple[str, Any, str]]]:
    """Classes and videos of a list of paths and numbers."""
    rows = list_rows(file)
    labels = root / "labels.txt"
    names = [line.strip() for line in read_text(labels).splitlines() if line.strip()] if labels.is_file() else []
    found = []
    for path, label in rows:
        if names and (not label.isdecimal() or int(label) >= len(names)):
            raise OSError(f"{file}: class {label!r} of {path} is none of the {len(names)} in {labels}")
        place = Path(path) if Path(path).is_absolute() else root / path
        name = place.relative_to(root) if place.is_relative_to(root) else Path(place.name)
        found.append(
            (name.with_suffix("").as_posix(), place if place.exists() else None, names[int(label)] if names else label)
        )
    return tuple(names) or tuple(sorted({label for _, _, label in found}, key=natural)), found
