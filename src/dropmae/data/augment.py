"""Crops and flips of frames for training; every random choice comes from the generator that is passed in."""

from __future__ import annotations

import math
from collections.abc import Sequence as Frames
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

ASPECT = (3 / 4, 4 / 3)


@dataclass
class Crops:
    """Regions uint8 [H, W, 3] of frames, which are still to be resized to `sides` and some of them flipped.

    As an array it is what comes of it: uint8 [T, 3, h, w]. That is done where samples are made, or for a whole batch on
    the device (resample.py).
    """

    regions: list[np.ndarray]
    flips: list[bool]
    sides: tuple[int, int]

    def add(self, frame: np.ndarray, box: tuple[int, int, int, int], flip: bool) -> None:
        top, left, height, width = box
        self.regions.append(frame[top : top + height, left : left + width])
        self.flips.append(flip)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        out = np.empty((len(self.regions), 3, *self.sides), np.uint8)
        for made, region, flip in zip(out, self.regions, self.flips):
            cut = resize(region, self.sides)
            made[:] = (cut[:, ::-1] if flip else cut).transpose(2, 0, 1)
        return out


def resized(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample with arrays in place of Crops."""
    return {name: np.asarray(value) if isinstance(value, Crops) else value for name, value in sample.items()}


def crop_box(
    height: int, width: int, rng: np.random.Generator, scale: tuple[float, float], aspect: tuple[float, float] = ASPECT
) -> tuple[int, int, int, int]:
    """Top, left, height, width of a random crop: area a uniform share of the frame, aspect log-uniform.

    The rule of the usual "random resized crop": ten tries, then the largest central crop of an allowed aspect.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    ratio = min(max(width / height, aspect[0]), aspect[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (height - h) // 2, (width - w) // 2, h, w


def resize(frame: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w, 3] resampled by antialiased bicubic interpolation from a frame uint8 [H, W, 3].

    Across, then down. Which goes first changes levels where edges overshoot, and left to itself Pillow from version 13
    on decides that by the shape.
    """
    if frame.shape[:2] == sides:
        return frame
    picture = Image.fromarray(np.ascontiguousarray(frame))
    for size in ((sides[1], frame.shape[0]), (sides[1], sides[0])):
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(picture)


def crop_frames(
    frames: Frames[np.ndarray],
    rng: np.random.Generator,
    sides: tuple[int, int],
    scale: tuple[float, float],
    *,
    flip: float,
    shared: bool,
) -> Crops:
    """uint8 [T, 3, h, w]: a random resized crop and flip of each frame [H, W, 3], its own or a shared one."""
    crops = Crops([], [], sides)
    box, flipped = (0, 0, 0, 0), False
    for position, frame in enumerate(frames):
        if position == 0 or not shared:
            box, flipped = crop_box(frame.shape[0], frame.shape[1], rng, scale), bool(rng.random() < flip)
        crops.add(frame, box, flipped)
    return crops


def crop_clip(
    frames: Frames[np.ndarray],
    motion: np.ndarray,
    block: int,
    rng: np.random.Generator,
    sides: tuple[int, int],
    grid: tuple[int, int],
    scale: tuple[float, float],
    *,
    flip: float,
) -> tuple[Crops, np.ndarray]:
    """One random resized crop and flip of a clip and of its motion.

    Frames uint8 [T, 3, h, w] from frames [H, W, 3], and motion float32 [T, *grid, 2] in pixels of the crop, from
    vectors [T, H / block, W / block, 2] of `block`-pixel blocks, NaN where there is none.
    """
    box, flipped = crop_box(frames[0].shape[0], frames[0].shape[1], rng, scale), bool(rng.random() < flip)
    height, width = box[2:]
    crops = Crops([], [], sides)
    for frame in frames:
        crops.add(frame, box, flipped)
    zoom = np.array([sides[1] / width, sides[0] / height], np.float32)
    moved = crop_motion(motion, block, box, grid) * zoom
    if flipped:
        moved = moved[:, :, ::-1] * np.array([-1, 1], np.float32)
    return crops, np.ascontiguousarray(moved)


def crop_motion(motion: np.ndarray, block: int, box: tuple[int, int, int, int], grid: tuple[int, int]) -> np.ndarray:
    """float32 [T, *grid, 2]: vectors [T, h, w, 2] of blocks, averaged by area over the cells of a crop.

    `box` is top, left, height, width in pixels. A cell of which no part has a vector is NaN.
    """
    rows = _overlap(box[0], box[2], grid[0], block, motion.shape[1])
    columns = _overlap(box[1], box[3], grid[1], block, motion.shape[2])
    known = np.isfinite(motion).all(axis=-1, keepdims=True)
    values = np.where(known, motion, 0)
    area = np.einsum("ih,thwc,jw->tijc", rows, known.astype(np.float32), columns)
    total = np.einsum("ih,thwc,jw->tijc", rows, values, columns)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(area > 0, total / area, np.nan).astype(np.float32)


def _overlap(start: int, length: int, cells: int, block: int, blocks: int) -> np.ndarray:
    """float32 [cells, blocks]: how many pixels each cell of an interval shares with each block of an axis."""
    edges = start + length * np.arange(cells + 1) / cells
    low = np.maximum(edges[:-1, None], block * np.arange(blocks))
    high = np.minimum(edges[1:, None], block * np.arange(1, blocks + 1))
    return np.clip(high - low, 0, None).astype(np.float32)
