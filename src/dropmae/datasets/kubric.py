"""Kubric's rendered clips with points, as CoTracker3 gives them away (Karaev et al., 2024; Greff et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Listed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dropmae.contracts import Dataset
from dropmae.formats.pickled import read_pickled
from dropmae.sequence import Sequence
from dropmae.target import Target


@dataclass(kw_only=True)
class Kubric(Dataset):
    """MOVi clips in the layout of CoTracker3_Kubric: <root>/<clip>/<clip>.npy beside <root>/<clip>/frames.

    The .npy holds a pickled dictionary, `coords` [N, T, 2] (x, y in pixels) and `visibility` [N, T], which in these
    files is true where a point is hidden. It is read as data, and what it would run is refused. Panning MOVi-E and
    MOVi-F as TensorFlow's records are not read: their tracks are made from depth maps as they are loaded.
    """

    def sequences(self, root: Path, split: str | None = None) -> Listed[Sequence]:
        if split is not None:
            raise ValueError(f"kubric has no split {split!r}; give a folder with some of its clips as root")
        files = sorted(file for file in Path(root).glob("*/*.npy") if file.stem == file.parent.name)
        if not files:
            raise FileNotFoundError(f"{root}: holds no <clip>/<clip>.npy of Kubric")
        return tuple(Sequence(file.stem, file.parent / "frames", Points(file)) for file in files)


@dataclass(eq=False)
class Points(Mapping[int, Target]):
    """The points of a clip, read when they are asked for."""

    file: Path

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Places float64 [T, N, 2] and bool [T, N] where they are visible; OSError where the file holds none."""
        held = read_pickled(self.file)
        places, hidden = (held.get(name) if isinstance(held, dict) else None for name in ("coords", "visibility"))
        if not isinstance(places, np.ndarray) or not isinstance(hidden, np.ndarray) or places.ndim != 3:
            raise OSError(f"{self.file}: holds no coords and visibility")
        if places.shape != (*hidden.shape[:2], 2):
            raise OSError(f"{self.file}: coords {list(places.shape)} do not go with visibility {list(hidden.shape)}")
        return np.asarray(places, np.float64).swapaxes(0, 1), ~np.asarray(hidden, bool).T

    def __getitem__(self, frame: int) -> Target:
        places, visible = self.arrays
        if not 0 <= frame < len(places):
            raise KeyError(frame)
        return Target(ids=np.zeros(0, np.int64), points=places[frame], visible=visible[frame].copy())

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.arrays[0])))

    def __len__(self) -> int:
        return len(self.arrays[0])
