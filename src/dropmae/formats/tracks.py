"""Tracks: the boxes of one object through a video, as data sets publish them and as trackers report them.

The arrays here keep the numbers of the files, in the data set's own coordinates: nothing is shifted or rounded, so an
official evaluator and this project compare the same floats. `Truth` and `boxes_of` are the border to Targets, whose
boxes are 0-based.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dropmae.target import Target


@dataclass(kw_only=True, eq=False)
class Track:
    """Ground truth of one object in one video; rows are frames."""

    boxes: np.ndarray
    """float64 [T, 4]: x, y, w, h in the data set's own coordinates, as published."""
    absent: np.ndarray | None = None
    """bool [T]: frames in which the object is not to be seen; None where the data set does not say."""
    cover: np.ndarray | None = None
    """int64 [T]: visible share in eighths (GOT-10k)."""
    size: tuple[int, int] | None = None
    """Width and height of the frames in pixels, where the data set says so."""
    attributes: tuple[str, ...] = ()
    """The data set's names for what is hard about this sequence."""


@dataclass(kw_only=True, eq=False)
class Result:
    """What a tracker reported for one sequence, in the data set's own coordinates."""

    runs: list[np.ndarray]
    """float64 [T, 4] per repetition; most trackers are run once."""
    seconds: np.ndarray | None = None
    """float64: seconds per frame, of all runs, where they were kept."""


class Truth(Mapping[int, Target]):
    """A Track as {frame: Target} in the project's coordinates; it is read when first asked for.

    `origin` is what the data set calls the first pixel (1 for MATLAB's), and is taken off x and y. A box is NaN where
    the object is absent or the box has no area; `scores` is the visible share where the data set knows it.
    """

    def __init__(self, load: Callable[[], Track], origin: float = 0.0) -> None:
        self.load, self.origin = load, origin

    @cached_property
    def track(self) -> Track:
        return self.load()

    @cached_property
    def boxes(self) -> np.ndarray:
        """float64 [T, 4], 0-based; NaN where the object is not there."""
        boxes = self.track.boxes - [self.origin, self.origin, 0, 0]
        with np.errstate(invalid="ignore"):
            boxes[~(boxes[:, 2:] > 0).all(1)] = np.nan
        if self.track.absent is not None:
            boxes[: len(self.track.absent)][self.track.absent[: len(boxes)]] = np.nan
        return boxes

    def __getitem__(self, frame: int) -> Target:
        if not 0 <= frame < len(self.boxes):
            raise KeyError(frame)
        cover = self.track.cover
        scores = None if cover is None else cover[frame : frame + 1] / 8
        return Target(ids=np.ones(1, np.int64), boxes=self.boxes[frame : frame + 1], scores=scores)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.boxes)))

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def file(self) -> Path | None:
        """Where it is read from: the path that `load` was made for."""
        return next((given for given in getattr(self.load, "args", ()) if isinstance(given, Path)), None)

    @property
    def extent(self) -> int | None:
        """How many frames are annotated; None where only the first is, and the others have boxes nobody may see."""
        return len(self) if len(self) > 1 else None

    def __repr__(self) -> str:
        return f"Truth({self.load!r}, origin={self.origin})"


class Clip(NamedTuple):
    """A sequence of a data set before anything of it is opened."""

    name: str
    source: Any
    """What `Video` takes: a file, a folder of images or a list of images."""
    truth: Truth


def numbered_images(folder: Path, first: int, last: int) -> list[Path] | Path:
    """The images whose file names number from `first` to `last`, both included; the folder itself where it is missing.

    (A data set can be scored without its images; opening them then says what is missing.)
    """
    if not folder.is_dir():
        return folder
    numbered = {int(path.stem): path for path in folder.iterdir() if path.stem.isdecimal()}
    chosen: list[Path] = [numbered[number] for number in sorted(numbered) if first <= number <= last]
    if not chosen:
        raise FileNotFoundError(f"{folder}: no images numbered {first} to {last}")
    return chosen


def boxes_of(targets: Mapping[int, Target], name: str, origin: float = 0.0) -> np.ndarray:
    """float64 [T, 4]: predicted boxes of frames 0 to the last one, in a data set whose first pixel is `origin`.

    A frame without a box (the tracker says that the object is gone) gets the one before, since no result file knows
    absence. ValueError where frame 0 has none.
    """
    boxes = np.full((max(targets, default=-1) + 1, 4), np.nan)
    for frame, target in targets.items():
        boxes[frame] = target.box()
    known = np.isfinite(boxes.sum(1))
    if not len(boxes) or not known[0]:
        raise ValueError(f"{name}: no box in frame 0, where a one-pass result begins")
    rows = np.maximum.accumulate(np.where(known, np.arange(len(boxes)), 0))
    return boxes[rows] + [origin, origin, 0, 0]
