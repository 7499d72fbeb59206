"""Clips made of photographs, video and cut-outs that move over each other, with the exact path of every point.

The folder's pictures with alpha are cut-outs, its other pictures and its videos are grounds. A fifth of them, by a hash
of their names, is kept apart: what is evaluated shows those alone, bent and covered in ways that no training clip has.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Listed
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dropmae.benchmarks.folder import Folder
from dropmae.opening import open_image
from dropmae.sequence import Sequence
from dropmae.target import Target

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
VIDEOS = (".mp4", ".mkv", ".mov", ".avi", ".webm")
HELD = 5
"""One of so many files is for evaluation."""
LONGEST = 480
"""Pixels of the longer side to which pictures are brought down at once."""
FILMED = 48
"""Frames of a video that are kept in memory."""


@dataclass(kw_only=True)
class Collage(Folder):
    """Points on rendered clips of photographs and cut-outs, scored as a folder is; its train split is endless."""

    train_split = "train"

    clips: int = 40
    """How many clips are evaluated."""
    frames: int = 24
    """Frames of each."""
    size: tuple[int, int] = (256, 256)
    """Height and width in pixels."""
    points: int = 64
    """Points followed in each."""
    seed: int = 1_000_003
    """Another seed is another benchmark."""

    def sequences(  # pyrefly: ignore
        self, root: Path, split: str | None = None
    ) -> Listed[Sequence]:
        """Rendered clips, "train" for endless ones of the files to learn from; FileNotFoundError without any."""
        if split not in (None, "train"):
            raise ValueError(f"collage has the split train beside the clips that are evaluated, not {split!r}")
        files = Files.below(Path(root), "held" if split is None else "train")
        if split == "train":
            return tuple(Endless(ground.name, None, files=files, ground=ground) for ground in files.grounds)
        return [self.clip(files, number) for number in range(self.clips)]

    def annotations(self, root: Path, split: str | None = None) -> dict[str, Mapping[int, Target]]:
        return {one.name: one.targets for one in self.sequences(root, split)}

    def clip(self, files: Files, number: int) -> Sequence:
        made = Clip(files, self.seed, number, self.frames, self.size, self.points)
        return Lazy(f"{number:04d}", None, targets=Truth(made), clip=made)


@dataclass(frozen=True)
class Files:
    """Where pictures come from."""

    grounds: tuple[Path, ...]
    cutouts: tuple[Path, ...]
    kind: Literal["train", "held"]

    @classmethod
    def below(cls, root: Path, kind: Literal["train", "held"]) -> Files:
        """The files of a folder that are to learn from, or to evaluate on."""
        there = sorted(path for path in root.rglob("*") if path.suffix.lower() in PICTURES + VIDEOS)
        mine = [path for path in there if (zlib.crc32(path.name.encode()) % HELD == 0) == (kind == "held")]
        cutouts = tuple(path for path in mine if path.suffix.lower() in PICTURES and has_alpha(path))
        grounds = tuple(path for path in mine if path not in set(cutouts))
        if not grounds or not cutouts:
            raise FileNotFoundError(
                f"{root}: {len(grounds)} photographs or videos and {len(cutouts)} pictures with alpha "
                f"{'to learn from' if kind == 'train' else 'that are kept apart'}; at least one of each is needed"
            )
        return cls(grounds, cutouts, kind)


@lru_cache(4096)
def has_alpha(path: Path) -> bool:
    with open_image(path, path) as picture:
        return picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info


@lru_cache(512)
def loaded(path: Path) -> np.ndarray:
    """uint8 [F, C, h, w] of a picture (F is 1) or of the beginning of a video, at most `LONGEST` pixels long."""
    if path.suffix.lower() in VIDEOS:
        from dropmae.video import Video

        with Video(path, short_side=LONGEST // 2) as video:
            return np.stack([frame for frame, _ in zip(video, range(FILMED))]).transpose(0, 3, 1, 2).copy()
    with open_image(path, path) as picture:
        form = picture.convert("RGBA" if has_alpha(path) else "RGB")
        form.thumbnail((LONGEST, LONGEST))
        return np.asarray(form).transpose(2, 0, 1)[None].copy()


def made(
    files: Files, ground: Path, rng: np.random.Generator, frames: int, size: tuple[int, int], points: int
) -> tuple[np.ndarray, dict[int, Target]]:
    """A clip uint8 [T, H, W, 3] over a ground, with the Targets of its frames."""
    import torch

    from dropmae.rendering import collage

    def floats(values: np.ndarray) -> Any:
        return torch.from_numpy(values).float() / 255

    below = loaded(ground)
    if len(below) >= frames and rng.random() < 0.6:
        first = int(rng.integers(len(below) - frames + 1))
        below = below[first : first + frames]
    else:
        below = below[rng.integers(len(below))][None]
    cuts = []
    for _ in range(int(rng.integers(2, 6))):
        if rng.random() < 0.75:
            cuts.append(floats(loaded(files.cutouts[int(rng.integers(len(files.cutouts)))])))
            continue
        piece = loaded(files.grounds[int(rng.integers(len(files.grounds)))])
        piece = floats(piece[int(rng.integers(len(piece)))])
        height, width = (int(side * rng.uniform(0.3, 0.8)) for side in piece.shape[1:])
        y, x = (int(rng.integers(side - part + 1)) for side, part in zip(piece.shape[1:], (height, width)))
        piece = piece[:, y : y + height, x : x + width]
        cuts.append(torch.cat([piece, collage.blob(rng, height, width)[None]])[None])
    layers = collage.scene(floats(below), cuts, rng, frames, size, files.kind)
    places, starts = collage.chosen(layers, rng, points, frames, size)
    tracks = collage.tracked(layers, places, starts, frames, size)
    pictures = collage.filmed(layers, rng, frames, size)
    nobody = np.zeros(0, np.int64)
    found = zip(tracks.places.double().numpy(), tracks.visible.numpy())
    return pictures, {t: Target(ids=nobody, points=place, visible=seen) for t, (place, seen) in enumerate(found)}


@dataclass(eq=False, repr=False)
class Endless(Sequence):
    """A ground over which a new clip is made each time."""

    files: Files = field(kw_only=True)
    ground: Path = field(kw_only=True)
    frames: int = 6
    size: tuple[int, int] = (96, 96)
    points: int = 64

    def drawn(self, rng: np.random.Generator) -> Sequence:
        """A clip uint8 [T, H, W, 3] with points; OSError where a picture cannot be read."""
        frames, targets = made(self.files, self.ground, rng, self.frames, self.size, self.points)
        return Sequence(self.name, frames, targets)


@dataclass(frozen=True)
class Clip:
    """Which clip it is; it is rendered when it is asked for."""

    files: Files
    seed: int
    number: int
    frames: int
    size: tuple[int, int]
    points: int


@lru_cache(2)
def rendered(clip: Clip) -> tuple[np.ndarray, dict[int, Target]]:
    rng = np.random.default_rng([clip.seed, clip.number])
    ground = clip.files.grounds[clip.number % len(clip.files.grounds)]
    return made(clip.files, ground, rng, clip.frames, clip.size, clip.points)


@dataclass(eq=False)
class Truth(Mapping[int, Target]):
    """The Targets of a clip."""

    clip: Clip

    def __getitem__(self, frame: int) -> Target:
        return rendered(self.clip)[1][frame]

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.clip.frames))

    def __len__(self) -> int:
        return self.clip.frames


@dataclass(eq=False, repr=False)
class Lazy(Sequence):
    """A clip that is rendered when its frames are asked for."""

    clip: Clip = field(kw_only=True)

    def __getattribute__(self, name: str) -> Any:
        if name == "source" and "clip" in super().__getattribute__("__dict__"):
            return rendered(super().__getattribute__("clip"))[0]
        return super().__getattribute__(name)
