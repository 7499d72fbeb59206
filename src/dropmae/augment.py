"""Crops and flips of frames for training; every random choice comes from the generator that is passed in."""

from __future__ import annotations

import math
from collections.abc import Sequence as Frames

import numpy as np
from PIL import Image

ASPECT = (3 / 4, 4 / 3)


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
    """uint8 [h, w, 3] resampled by antialiased bicubic interpolation from a frame uint8 [H, W, 3]."""
    if frame.shape[:2] == sides:
        return frame
    picture = Image.fromarray(np.ascontiguousarray(frame))
    return np.asarray(picture.resize((sides[1], sides[0]), Image.Resampling.BICUBIC))


def crop_frames(
    frames: Frames[np.ndarray],
    rng: np.random.Generator,
    sides: tuple[int, int],
    scale: tuple[float, float],
    *,
    flip: float,
    shared: bool,
) -> np.ndarray:
    """uint8 [T, 3, h, w]: a random resized crop and flip of each frame [H, W, 3], its own or a shared one."""
    out = np.empty((len(frames), 3, *sides), np.uint8)
    box, flipped = (0, 0, 0, 0), False
    for position, frame in enumerate(frames):
        if position == 0 or not shared:
            box, flipped = crop_box(*frame.shape[:2], rng, scale), bool(rng.random() < flip)
        top, left, height, width = box
        cut = resize(frame[top : top + height, left : left + width], sides)
        out[position] = (cut[:, ::-1] if flipped else cut).transpose(2, 0, 1)
    return out
