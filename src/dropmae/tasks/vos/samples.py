"""Training samples for mask propagation: which frames of a labelled sequence, and how pictures and masks are changed.

As DropSeg and STCN train (Cheng et al., NeurIPS 2021, arXiv 2106.05210): a crop, flip and colours that all frames of a
sample share, then a rotation, shear and slight colours of each frame's own. A sequence of one annotated frame, a still
image, is shown several times under larger changes, which takes the place of motion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Frames
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

from dropmae.data.augment import crop_box, resize
from dropmae.data.clips import Sequence
from dropmae.formats.labels import label_ids
from dropmae.video import DamagedFrame

TRIES = 5
"""Choices of frames and crops tried until the first frame shows an object."""
FILL = (124, 116, 104)
"""Colour beyond the picture: ImageNet's mean."""
SHARED_TONES = (0.1, 0.03, 0.03)
"""Greatest relative change of brightness, contrast and saturation, the same for all frames of a sample."""
OWN_TONES = (0.01, 0.01, 0.01)
"""The same for each frame by itself."""
GRAY = 0.05
"""Probability that a sample loses its colours."""
STILL_TURN, STILL_ZOOM, STILL_SHIFT = 20.0, 0.1, 0.1
"""Still images: degrees, relative change of size, and shift as a share of the side that each showing is changed by."""


class Changes(NamedTuple):
    """How samples are augmented."""

    sides: tuple[int, int]
    """Height and width of the pictures made."""
    scale: tuple[float, float]
    """Area of the shared crop as a share of the frame: least and most."""
    flip: float
    """Probability of a horizontal flip."""
    turn: float
    """Greatest rotation of each frame in degrees."""
    shear: float
    """Greatest shear of each frame in degrees."""


class MaskSample(NamedTuple):
    """Some frames of a video in temporal order or its reverse; the last one is asked for."""

    frames: np.ndarray
    """uint8 [M + 1, 3, h, w]"""
    masks: np.ndarray
    """uint8 [M, K, h, w]: 1 where each object is in each memory frame."""
    label: np.ndarray
    """uint8 [h, w]: in the asked frame, 0 or 1 + the object's number."""
    present: np.ndarray
    """bool [K]: which objects there are; the first one is always there, but may be empty."""


def choose(frames: Frames[int], reach: int, memory: int, reverse: float, rng: np.random.Generator) -> list[int]:
    """`memory` + 1 of the annotated frames [n]: the first, memories towards the last, and the last, which is asked for.

    The first is uniform over all that have a successor, the last uniform over those at most `reach` frames later, the
    next one where none is so near. The second memory is the neighbour of the last frame, the others lie anywhere
    between; where there are too few, the first is repeated. With probability `reverse` time runs backwards.
    """
    if len(frames) == 1:
        return [frames[0]] * (memory + 1)
    start = int(rng.integers(len(frames) - 1))
    last = start + 1
    while last + 1 < len(frames) and frames[last + 1] - frames[start] <= reach:
        last += 1
    way = list(frames[start : int(rng.integers(start + 1, last + 1)) + 1])
    if rng.random() < reverse:
        way.reverse()
    between = way[1:-2]
    picked = sorted(rng.choice(len(between), min(memory - 2, len(between)), replace=False)) if memory > 2 else []
    later = [between[place] for place in picked] + (way[-2:-1] if memory > 1 and len(way) > 2 else [])
    return [way[0]] * (memory - len(later)) + later + [way[-1]]


def mask_sample(
    sequence: Sequence,
    changes: Changes,
    *,
    memory: int,
    objects: int,
    reach: int,
    reverse: float,
    rng: np.random.Generator,
) -> MaskSample:
    """One sample of up to `objects` objects of a sequence; OSError where its frames or masks cannot be used.

    Objects are those of the first frame after augmentation, in random order. Where `TRIES` choices show none, the
    sample is of background alone.
    """
    annotated = sorted(sequence.targets)
    if not annotated:
        raise OSError(f"{sequence.name}: no annotated frame, and masks are learned from annotation")
    for attempt in range(TRIES):
        chosen = choose(annotated, reach, memory, reverse, rng)
        maps = {frame: mask_of(sequence, frame) for frame in dict.fromkeys(chosen)}
        ids = label_ids(maps[chosen[0]])
        ids = ids[(ids != 0) & (ids != 255)][:254]
        if not len(ids) and attempt + 1 < TRIES:
            continue
        numbers = {frame: numbered(labels, ids) for frame, labels in maps.items()}
        read = sequence.video[list(maps)]
        for frame, labels in maps.items():
            if labels.shape != read.shape[1:3]:
                (h, w), (height, width) = labels.shape, read.shape[1:3]
                raise OSError(
                    f"{sequence.name}, frame {frame}: the mask has {w}x{h} pixels, the frame {width}x{height}"
                )
        place = {frame: row for row, frame in enumerate(maps)}
        pictures, masks = augment(
            [read[place[frame]] for frame in chosen],
            [numbers[frame] for frame in chosen],
            changes,
            rng,
            still=len(maps) == 1,
        )
        seen = label_ids(masks[0])
        seen = seen[seen > 0]
        if len(seen) or attempt + 1 == TRIES:
            return slotted(pictures, masks, rng.permutation(seen)[:objects], objects)
    raise AssertionError("the last attempt returns")


def mask_of(sequence: Sequence, frame: int) -> np.ndarray:
    """The label map [H, W] of an annotated frame; DamagedFrame where its annotation has none."""
    mask = sequence.targets[frame].mask
    if mask is None:  # other frames may have one, and made labels may have one the next time
        raise DamagedFrame(f"{sequence.name}, frame {frame}: annotated without a mask")
    return mask


def numbered(mask: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """uint8 [H, W]: the objects `ids` as 1, 2, ..., everything else 0."""
    out = np.zeros(mask.shape, np.uint8)
    for number, object_id in enumerate(ids.tolist(), 1):
        out[mask == object_id] = number
    return out


def slotted(pictures: np.ndarray, masks: np.ndarray, picked: np.ndarray, objects: int) -> MaskSample:
    """The sample of the objects with numbers `picked`, from pictures [T, 3, h, w] and label maps [T, h, w]."""
    slots = np.zeros((len(masks) - 1, objects, *masks.shape[1:]), np.uint8)
    label, present = np.zeros(masks.shape[1:], np.uint8), np.zeros(objects, bool)
    present[0] = True
    for slot, number in enumerate(picked.tolist()):
        slots[:, slot] = masks[:-1] == number
        label[masks[-1] == number] = slot + 1
        present[slot] = True
    return MaskSample(pictures, slots, label, present)


def augment(
    pictures: Frames[np.ndarray],
    masks: Frames[np.ndarray],
    changes: Changes,
    rng: np.random.Generator,
    *,
    still: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [T, 3, h, w] and [T, h, w] of pictures [H, W, 3] and label maps uint8 [H, W] of a video or one still."""
    top, left, height, width = crop_box(pictures[0].shape[0], pictures[0].shape[1], rng, changes.scale)
    flipped, gray = bool(rng.random() < changes.flip), bool(rng.random() < GRAY)
    shared = tones(SHARED_TONES, rng)
    h, w = changes.sides
    made, maps = np.empty((len(pictures), 3, h, w), np.uint8), np.empty((len(pictures), h, w), np.uint8)
    for place, (picture, mask) in enumerate(zip(pictures, masks)):
        inside = slice(top, top + height), slice(left, left + width)
        image = Image.fromarray(resize(picture[inside], changes.sides))
        labels = Image.fromarray(np.ascontiguousarray(mask[inside])).resize((w, h), Image.Resampling.NEAREST)
        if flipped:
            image, labels = (one.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in (image, labels))
        image = retouched(image, shared)
        if gray:
            image = image.convert("L").convert("RGB")
        if still or changes.turn or changes.shear:
            bend = affine(changes, still, rng)
            image = image.transform((w, h), Image.Transform.AFFINE, bend, Image.Resampling.BICUBIC, fillcolor=FILL)
            labels = labels.transform((w, h), Image.Transform.AFFINE, bend, Image.Resampling.NEAREST, fillcolor=0)
        made[place] = np.asarray(retouched(image, tones(OWN_TONES, rng))).transpose(2, 0, 1)
        maps[place] = np.asarray(labels)
    return made, maps


def affine(changes: Changes, still: bool, rng: np.random.Generator) -> tuple[float, ...]:
    """Six numbers by which Pillow finds each pixel's origin: turn, shear and, for stills, more, about the middle."""
    most = STILL_TURN if still else changes.turn
    angle, slant = (math.radians(rng.uniform(-limit, limit)) for limit in (most, changes.shear))
    zoom, shift = 1.0, np.zeros(2)
    if still:
        zoom = 1 / rng.uniform(1 - STILL_ZOOM, 1 + STILL_ZOOM)
        shift = rng.uniform(-STILL_SHIFT, STILL_SHIFT, 2) * changes.sides[::-1]
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = zoom * turn @ np.array([[1, math.tan(slant)], [0, 1]])
    middle = np.array(changes.sides[::-1]) / 2
    offset = middle - matrix @ (middle + shift)
    return (*matrix[0].tolist(), float(offset[0]), *matrix[1].tolist(), float(offset[1]))


def tones(limits: tuple[float, float, float], rng: np.random.Generator) -> list[tuple[int, float]]:
    """Brightness (0), contrast (1) and saturation (2) with their factors, in random order."""
    factors = [rng.uniform(1 - limit, 1 + limit) for limit in limits]
    return [(kind, factors[kind]) for kind in rng.permutation(3).tolist()]


def retouched(image: Image.Image, changes: list[tuple[int, float]]) -> Image.Image:
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for kind, factor in changes:
        image = kinds[kind](image).enhance(factor)
    return image
