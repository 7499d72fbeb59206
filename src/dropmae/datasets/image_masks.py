"""Images with masks as sequences of one frame, from any folder that holds both.

A task that needs motion makes it up. Data sets of this kind are DUTS, ECSSD, HRSOD, FSS-1000, VOC and
the like: masks are PNGs with the name of their image, beside it or in a folder of their own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence as Listed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dropmae.contracts import Dataset
from dropmae.formats.labels import LabelFolder, shaded
from dropmae.sequence import Sequence
from dropmae.video.frames import image_name, natural

MASK_FOLDERS = ("mask", "annotation", "label", "segmentation", "gt", "ground")
"""Words in the name of a folder that holds masks."""


@dataclass(kw_only=True)
class ImageMasks(Dataset):
    """Images with masks: every image below a folder that has one."""

    def sequences(self, root: Path, split: str | None = None) -> Listed[Sequence]:
        """There are no splits; a folder within `root` may be named as one."""
        return Stills(Path(root) / (split or ""))


class Stills(Listed[Sequence]):
    """The images below a folder that have a mask, in natural order; nothing is opened before it is used.

    FileNotFoundError where there is none, OSError where a mask might belong to several images.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.pairs = Path(root), paired(Path(root))
        if not self.pairs:
            raise FileNotFoundError(
                f"{root}: no image with a mask; masks are PNGs named like their image, beside it (a JPEG) or in a "
                "folder called masks"
            )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> Sequence:  # type: ignore[override]
        image, mask = self.pairs[number]
        name = os.path.relpath(image, self.root)
        return Sequence(name, [image], LabelFolder(Path(mask).parent, separated, {0: Path(mask)}, shades=True))


def paired(root: Path) -> list[tuple[str, str]]:
    """(image, mask) of every mask below a folder."""
    images: dict[str, list[str]] = {}
    masks: list[str] = []
    for parent, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = any(word in part.lower() for part in Path(parent).relative_to(root).parts for word in MASK_FOLDERS)
        stems = {os.path.splitext(name)[0] for name in files if image_name(name) and not name.lower().endswith(".png")}
        for name in filter(image_name, files):
            stem, suffix = os.path.splitext(name)
            path = os.path.join(parent, name)
            if suffix.lower() == ".png" and (inside or stem in stems):
                masks.append(path)
            elif not inside:
                images.setdefault(stem, []).append(path)
    found = []
    for mask in sorted(masks, key=natural):
        candidates = images.get(Path(mask).stem, [])
        near = max((shared(mask, image) for image in candidates), default=(0, 0))
        nearest = [image for image in candidates if shared(mask, image) == near]
        if len(nearest) > 1:
            raise OSError(f"{mask}: belongs to {nearest[0]} or to {nearest[1]}? Give a folder where names are unique")
        if nearest:
            found.append((nearest[0], mask))
    return found


def shared(one: str, other: str) -> tuple[int, int]:
    """How much two paths have in common: folders from the start, then folders from the end."""
    a, b = Path(one).parent.parts, Path(other).parent.parts
    return common(a, b), common(a[::-1], b[::-1])


def common(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    return next((place for place, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def separated(mask: np.ndarray) -> np.ndarray:
    """A label map in which objects have numbers: masks of one object in grey, 0 to 255, become 0 and 1."""
    if mask.dtype != np.uint8 or mask.max(initial=0) != 255:
        return mask
    two = len(np.flatnonzero(np.bincount(mask.ravel()))) <= 2
    return (mask > 127).astype(np.uint8) if two or shaded(mask) else mask
