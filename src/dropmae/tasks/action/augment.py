"""Augmentation of clips for classification: RandAugment, random erasing, mixup and cutmix, as VideoMAE trains.

Whatever is drawn is drawn once for all frames of a clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageChops, ImageEnhance, ImageOps
from torch import Tensor
from torch.nn import functional

from dropmae.nn.masking import DEVIATION, MEAN

Rng = np.random.Generator
Picture = Image.Image
LAYERS, LEVEL, SPREAD, CHANCE = 4, 7.0, 0.5, 0.5
"""rand-m7-n4-mstd0.5: operations drawn, their mean level of 0 to 10, its deviation, and the chance of each."""
GREY = (128, 128, 128)


def affine(picture: Picture, a: float, b: float, c: float, d: float, e: float, f: float) -> Picture:
    values = (a, b, c, d, e, f)
    return picture.transform(picture.size, Image.Transform.AFFINE, values, Image.Resampling.BICUBIC, fillcolor=GREY)


def table(picture: Picture, levels: np.ndarray) -> Picture:
    return picture.point(levels.clip(0, 255).astype(np.uint8).tolist() * 3)


def enhanced(kind: Callable[[Picture], ImageEnhance._Enhance]) -> Callable[[Picture, float, int], Picture]:
    """An operation that moves a picture towards or away from its plain form."""
    return lambda picture, level, sign: kind(picture).enhance(1 + sign * 0.09 * level)


STEPS = np.arange(256)
OPERATIONS: tuple[Callable[[Picture, float, int], Picture], ...] = (
    lambda picture, level, sign: ImageOps.autocontrast(picture),
    lambda picture, level, sign: ImageOps.equalize(picture),
    lambda picture, level, sign: ImageChops.invert(picture),
    lambda picture, level, sign: picture.rotate(sign * 3 * level, Image.Resampling.BICUBIC, fillcolor=GREY),
    lambda picture, level, sign: table(picture, STEPS & -(1 << (4 + int(0.4 * level)))),
    lambda picture, level, sign: table(picture, np.where(256 - int(25.6 * level) > STEPS, STEPS, 255 - STEPS)),
    lambda picture, level, sign: table(picture, STEPS + (STEPS < 128) * int(11 * level)),
    enhanced(ImageEnhance.Color),
    enhanced(ImageEnhance.Contrast),
    enhanced(ImageEnhance.Brightness),
    enhanced(ImageEnhance.Sharpness),
    lambda picture, level, sign: affine(picture, 1, sign * 0.03 * level, 0, 0, 1, 0),
    lambda picture, level, sign: affine(picture, 1, 0, 0, sign * 0.03 * level, 1, 0),
    lambda picture, level, sign: affine(picture, 1, 0, sign * 0.045 * level * picture.width, 0, 1, 0),
    lambda picture, level, sign: affine(picture, 1, 0, 0, 0, 1, sign * 0.045 * level * picture.height),
)
"""Functions of a picture, a level from 0 to 10 and a sign; what they do grows with the level (RandAugment's inc1)."""


def rand_augment(frames: list[np.ndarray], rng: Rng) -> list[np.ndarray]:
    """Frames uint8 [H, W, 3] after four operations drawn with replacement, the same for all of them."""
    pictures = [Image.fromarray(frame) for frame in frames]
    for number in rng.integers(len(OPERATIONS), size=LAYERS).tolist():
        level, sign = float(np.clip(rng.normal(LEVEL, SPREAD), 0, 10)), int(rng.choice((-1, 1)))
        if rng.random() < CHANCE:
            pictures = [OPERATIONS[number](picture, level, sign) for picture in pictures]
    return [np.asarray(picture) for picture in pictures]


def erase(clip: np.ndarray, rng: Rng) -> None:
    """Fills a rectangle of a clip uint8 [T, 3, H, W] with noise, in place: .02 to 1/3 of the area, the same in all
    frames, new noise in each. The noise is that of normalised pictures, in 8 bits."""
    height, width = clip.shape[2:]
    for _ in range(100):
        area = rng.uniform(0.02, 1 / 3) * height * width
        ratio = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < height and w < width:
            y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            noise = rng.standard_normal((len(clip), h, w, 3)) * DEVIATION + MEAN
            clip[:, :, y : y + h, x : x + w] = (noise * 255).clip(0, 255).transpose(0, 3, 1, 2)
            return


def soft_targets(label: Tensor, classes: int, smoothing: float, share: float = 1.0) -> Tensor:
    """float32 [B, classes]: one-hots smoothed, mixed with those of the batch in reverse at `share` of their own."""
    one = functional.one_hot(label, classes) * (1 - smoothing) + smoothing / classes
    return share * one + (1 - share) * one.flip(0)


def mixed(clips: Tensor, mixup: float, cutmix: float, rng: Rng) -> tuple[Tensor, float]:
    """Clips [B, T, 3, H, W], each mixed with its partner in the batch in reverse, and the share that is its own.

    mixup (arXiv 1710.09412) adds them up, cutmix (1905.04899) puts a rectangle of the partner into all frames; the
    arguments are the alphas of the Beta distributions of the share, and where both are given a coin decides.
    """
    if not mixup and not cutmix:
        return clips, 1.0
    cut = bool(cutmix) and (not mixup or rng.random() < 0.5)
    share = float(rng.beta(cutmix, cutmix) if cut else rng.beta(mixup, mixup))
    if not cut:
        return share * clips + (1 - share) * clips.flip(0), share
    height, width = clips.shape[-2:]
    h, w = (int(side * math.sqrt(1 - share)) for side in (height, width))
    y, x = int(rng.integers(height)), int(rng.integers(width))
    rows, columns = (slice(max(0, at - part // 2), at + part // 2) for at, part in ((y, h), (x, w)))
    made = clips.clone()
    made[..., rows, columns] = clips.flip(0)[..., rows, columns]
    area = len(range(*rows.indices(height))) * len(range(*columns.indices(width)))
    return made, 1 - area / (height * width)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of the cross entropy with soft targets [B, classes]."""
    return -(target * torch.log_softmax(logits.float(), -1)).sum(-1).mean()
