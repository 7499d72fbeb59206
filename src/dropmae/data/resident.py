"""All frames of a data set in memory, read once: nothing waits for decoding, and on a GPU not for the host either.

On a CPU the videos become arrays, and samples are made as ever. On a GPU the pixels lie there, samples only say which
regions of which frames they want, and a batch is gathered, resized and flipped in one go (`resample`). The numbers are
the loader's, bit for bit, since the same code draws the same frames, crops and flips.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dropmae.data.clips import Clips, Sequence
from dropmae.progress import Progress
from dropmae.video import Video

SPARE = 0.8
"""Share of the free memory that frames may take."""


class Region(NamedTuple):
    """A part of a frame in a pool: where its first pixel is, how far rows lie apart, and its shape."""

    start: int
    stride: int
    shape: tuple[int, int, int]


class Frame(NamedTuple):
    """A whole frame in a pool, of which parts can be named as those of an array."""

    start: int
    shape: tuple[int, int, int]

    def __getitem__(self, part: Any) -> Any:
        rows, columns = part
        top, bottom, _ = rows.indices(self.shape[0])
        left, right, _ = columns.indices(self.shape[1])
        width = self.shape[1]
        return Region(self.start + top * width + left, width, (bottom - top, right - left, 3))


class Held(Video):
    """A video whose frames lie in a pool, from pixel number `first` on; it gives their places instead of pixels."""

    def __init__(self, source: str, first: int, shape: tuple[int, int, int, int]):
        self.source, self.first, self.extent = source, first, shape

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.extent

    def __len__(self) -> int:
        return self.extent[0]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, (int, np.integer)):
            length, height, width, _ = self.extent
            return Frame(self.first + range(length)[index] * height * width, (height, width, 3))
        return [self[int(one)] for one in index]

    def read(self, indices: Any, motion: bool = False) -> Any:
        if motion:
            raise ValueError("frames that lie on a GPU have no motion vectors: leave --resident out")
        return self[list(indices)]


@dataclass(eq=False)
class Pool:
    """The pixels of all frames on a device, uint8 [P, 3]."""

    pixels: Tensor

    def gather(self, regions: list[list[Region]]) -> tuple[Tensor, Tensor]:
        """Regions [B][T] as uint8 [B, T, H, W, 3], each in the upper left corner, and their sizes int64 [B, T, 2]."""
        flat = [region for sample in regions for region in sample]
        table = torch.tensor([(r.start, r.stride, *r.shape[:2]) for r in flat]).to(
            self.pixels.device, non_blocking=True
        )
        height, width = max(r.shape[0] for r in flat), max(r.shape[1] for r in flat)
        rows = torch.arange(height, device=table.device)[:, None]
        columns = torch.arange(width, device=table.device)
        start, stride, high, wide = (table[:, place, None, None] for place in range(4))
        inside = (rows < high) & (columns < wide)
        places = start + torch.where(inside, rows * stride + columns, 0)
        found = torch.where(inside[..., None], self.pixels[places], 0)
        return found.unflatten(0, (len(regions), -1)), table[:, 2:].unflatten(0, (len(regions), -1))


def reside(clips: Clips, device: torch.device, pooled: bool | None = None) -> Clips:
    """`clips` with all frames in memory, on `device`; videos that cannot be read stay as they are, to be named.

    `pooled` says whether they are one pool of pixels, as on a GPU, or arrays. ValueError where memory is too small.
    """
    pooled = device.type != "cpu" if pooled is None else pooled
    shapes = [shape_of(sequence) for sequence in clips.sequences]
    needed = sum(int(np.prod(shape)) for shape in shapes if shape)
    if (room := free(device)) is not None and needed > SPARE * room:
        raise ValueError(
            f"--resident needs {needed / 1e9:.1f} GB for the frames, and {room / 1e9:.1f} GB are free on {device}: "
            "prepare them smaller (--short-side), or leave it out"
        )
    progress, held, first = Progress(len(shapes)), list[Sequence](), 0
    pixels = torch.empty((needed // 3 if pooled else 0, 3), dtype=torch.uint8, device=device)
    for number, (sequence, shape) in enumerate(zip(clips.sequences, shapes), 1):
        source: Any = sequence.source
        try:
            if shape is not None:
                frames = read_all(sequence)
                source = frames
                if pooled:
                    end = first + len(frames) * shape[1] * shape[2]
                    pixels[first:end] = torch.from_numpy(frames).view(-1, 3).to(device)
                    source = Held(sequence.name, first, (len(frames), *shape[1:]))
                    first = end
        except OSError:
            source = sequence.source  # training names it
        kept = source is sequence.source
        held.append(replace(sequence, source=source, short_side=sequence.short_side if kept else None))
        progress.show(number, {})
    progress.close()
    pool = Pool(pixels) if pooled else None
    return replace(clips, sequences=held, pool=pool, resize_on="device" if pool else clips.resize_on)


def read_all(sequence: Sequence) -> np.ndarray:
    """uint8 [T, H, W, 3] of a sequence, its video closed again."""
    fresh = replace(sequence)
    with fresh.video as video:
        return np.ascontiguousarray(video.read(range(len(video))))


def shape_of(sequence: Sequence) -> tuple[int, int, int, int] | None:
    """(T, H, W, 3) of a sequence; None where it cannot be read."""
    try:
        with replace(sequence).video as video:
            return video.shape
    except OSError:
        return None


def free(device: torch.device) -> int | None:
    """Bytes of memory that are free; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
