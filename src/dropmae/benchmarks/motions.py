"""Rendered clips whose class is how a texture moves: left, right, up, down, or not at all.

No single frame tells the class, so that only an encoder that sees time can learn it. Nothing is read from disk.
"""

from __future__ import annotations

from collections.abc import Sequence as Listed
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dropmae.benchmarks._actions import ClassLabels, VideoClasses, labelled
from dropmae.sequence import Sequence

WAYS = {"down": (1, 0), "left": (0, -1), "right": (0, 1), "still": (0, 0), "up": (-1, 0)}
"""Rows and columns that the texture goes for each pixel of speed."""
SPEED = (1.0, 2.5)
"""Pixels a frame: least and most."""
Order = Literal["forward", "first", "shuffled"]


def rendered(way: str, rng: np.random.Generator, frames: int, side: int, order: Order = "forward") -> np.ndarray:
    """uint8 [T, side, side, 3]: a random texture that moves; or its first frame alone, or frames in any order."""
    room = int(np.ceil(SPEED[1] * frames)) + 2
    size = side + 2 * room
    picture = np.zeros((size, size, 3))
    for cell in (2, 4, 8):
        coarse = rng.random((size // cell + 2, size // cell + 2, 3))
        picture += coarse.repeat(cell, 0).repeat(cell, 1)[:size, :size] / 3
    speed = rng.uniform(*SPEED)
    made = []
    for frame in range(frames):
        # What goes right is seen through a window that goes left.
        top, left = (room - speed * frame * step for step in WAYS[way])
        y, x = int(top), int(left)
        fall, share = top - y, left - x
        cut = picture[y : y + side + 1, x : x + side + 1]
        cut = cut[:-1] * (1 - fall) + cut[1:] * fall
        made.append(cut[:, :-1] * (1 - share) + cut[:, 1:] * share)
    clip = (np.stack(made) * 255).round().astype(np.uint8)
    if order == "first":
        return clip[:1].repeat(frames, 0)
    return clip if order == "forward" else clip[rng.permutation(frames)]


@dataclass(kw_only=True)
class Motions(VideoClasses):
    """Classes of motion on rendered clips; its train split is endless."""

    clips: int = 500
    """How many clips are evaluated."""
    frames: int = 8
    """Frames of each."""
    side: int = 32
    """Their height and width in pixels."""
    order: Order = "forward"
    """forward; or, as controls, the first frame alone, repeated, or the frames in random order."""
    seed: int = 1_000_003
    """Another seed is another benchmark."""

    def prepare(self, root: Path) -> None:
        """There is nothing to make ready."""

    def listed(self, root: Path, split: str | None = None) -> tuple[tuple[str, ...], list[tuple[str, Any, str]]]:
        """Names, numbers and classes of the clips that are evaluated."""
        ways = tuple(WAYS)
        return ways, [(f"{number:04d}", number, ways[number % len(ways)]) for number in range(self.clips)]

    def sequences(self, root: Path, split: str | None = None) -> Listed[Sequence]:
        """The clips; "train" for endless ones, a sequence of each class."""
        if split not in (None, "train"):
            raise ValueError(f"motions has the split train beside the clips that are evaluated, not {split!r}")
        if split == "train":
            return tuple(Endless(way, None, labelled(way), benchmark=self) for way in WAYS)
        return [Rendered(name, None, labelled(way), benchmark=self, n=n) for name, n, way in self.listed(root)[1]]

    def annotations(self, root: Path, split: str | None = None) -> ClassLabels:
        return ClassLabels(*self.listed(root))


@dataclass(eq=False, repr=False)
class Endless(Sequence):
    """A class of motion; a new clip is made each time."""

    benchmark: Motions = field(kw_only=True)

    def drawn(self, rng: np.random.Generator) -> Sequence:
        clip = rendered(self.name, rng, self.benchmark.frames, self.benchmark.side, self.benchmark.order)
        return Sequence(self.name, clip, self.targets)


@dataclass(eq=False, repr=False)
class Rendered(Sequence):
    """A clip that is rendered when its frames are asked for."""

    benchmark: Motions = field(kw_only=True)
    n: int = field(kw_only=True)

    def __getattribute__(self, name: str) -> Any:
        if name == "source" and "n" in super().__getattribute__("__dict__"):
            return clip_of(
                self.benchmark.seed, self.n, self.benchmark.frames, self.benchmark.side, self.benchmark.order
            )
        return super().__getattribute__(name)


@lru_cache(2)
def clip_of(seed: int, number: int, frames: int, side: int, order: Order) -> np.ndarray:
    way = tuple(WAYS)[number % len(WAYS)]
    return rendered(way, np.random.default_rng([seed, number]), frames, side, order)
