"""Pairs with exact flow made from any pictures: those with transparency move over those without.

Every .png, .jpg and the like below a folder serves, and frames of its videos as backgrounds. What a sample shows, and
how it moves, is drawn from the generator that is passed in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as Listed
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from dropmae.contracts import Dataset
from dropmae.opening import open_file, open_image
from dropmae.rendering.layers import MOVES, Moves, levels, render_pair
from dropmae.sequence import Sequence
from dropmae.target import Target
from dropmae.video import Video
from dropmae.video.frames import image_name
from dropmae.video.listing import find

Rng = np.random.Generator
LARGEST, OBJECT = 1024, 320
"""Longest side in pixels to which backgrounds and cut-outs are brought down."""
HELD = 8
"""One in so many pictures, by a hash of its name, belongs to the split `held`."""
MOMENTS = 6
"""Frames of a video that serve as backgrounds."""


@dataclass(kw_only=True)
class Layers(Dataset):
    """Rendered pairs from all pictures below a folder.

    The split `train` leaves out, and `held` consists of, the pictures whose name has a certain hash; without a split
    all of them serve.
    """

    size: tuple[int, int] = (128, 176)
    """Height and width of the frames."""
    objects: tuple[int, int] = (0, 5)
    """Fewest and most cut-outs in a pair."""
    moves: Moves = field(default_factory=lambda: MOVES)
    """How layers move."""

    train_split = "train"

    def sequences(self, root: Path, split: str | None = None) -> Listed[Sequence]:
        if split not in (None, "train", "held"):
            raise ValueError(f"layers has the splits train and held, not {split!r}")
        root = Path(root)
        pictures = [path for path in sorted(root.rglob("*")) if image_name(path.name) and path.is_file()]
        cut = [path for path in pictures if transparent(path)]
        whole = sorted({*pictures} - {*cut}) + sorted(Path(path) for path in find(root) if Path(path).is_file())
        whole, cut = ([p for p in some if split is None or (held(p) == (split == "held"))] for some in (whole, cut))
        if not whole:
            raise FileNotFoundError(
                f"{root}: holds no picture or video for a background{' of that split' * bool(split)}"
            )
        make = {"size": self.size, "objects": self.objects, "moves": self.moves, "things": tuple(cut)}
        return tuple(Ground(str(path.relative_to(root)), path, **make) for path in dict.fromkeys(whole))


def held(path: Path) -> bool:
    """Whether a picture is of the split `held`."""
    return int(hashlib.sha256(path.stem.encode()).hexdigest()[:8], 16) % HELD == 0


def transparent(path: Path) -> bool:
    """Whether a picture is a PNG with an alpha channel; its pixels are not read."""
    with open_file(path) as file:
        start = file.read(26)
    return start[:8] == b"\x89PNG\r\n\x1a\n" and len(start) == 26 and start[25] in (4, 6)


@lru_cache(768)
def loaded(path: str, moment: int, longest: int = LARGEST) -> list[torch.Tensor]:
    """The `levels` of a picture, or of a frame of a video; a process keeps those that it used last."""
    if image_name(path):
        with open_image(path, path) as image:
            image.thumbnail((longest, longest))
            pixels = np.asarray(image.convert("RGBA"))
    else:
        with Video(path) as video:
            frame = video[len(video) * moment // MOMENTS]
        pixels = np.concatenate([frame, np.full_like(frame[..., :1], 255)], -1)
    return levels(torch.from_numpy(pixels.transpose(2, 0, 1).copy()))


@dataclass(eq=False, repr=False, kw_only=True)
class Ground(Sequence):
    """A background of which pairs are made."""

    size: tuple[int, int]
    objects: tuple[int, int]
    moves: Moves
    things: tuple[Path, ...] = ()

    def drawn(self, rng: Rng) -> Sequence:
        """Two frames uint8 [2, H, W, 3] and the first one's flow and occlusion. OSError where a file is unreadable."""
        ground = loaded(str(self.source), int(rng.integers(MOMENTS)) if not image_name(str(self.source)) else 0)
        count = int(rng.integers(self.objects[0], self.objects[1] + 1)) if self.things else 0
        chosen = [loaded(str(self.things[int(rng.integers(len(self.things)))]), 0, OBJECT) for _ in range(count)]
        frames, flow, occluded = render_pair(ground, chosen, self.size, rng, self.moves)
        return Sequence(self.name, frames, {0: Target(ids=np.zeros(0, np.int64), flow=flow, occluded=occluded)})
