"""Run lengths of masks as text: the compressed form of COCO's tools, and CVAT's within a box."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

import numpy as np

FIRST = 48
"""The letter that stands for 0: each carries five bits and one that says whether more follow."""


def squeeze(counts: Iterable[int]) -> str:
    """COCO's compressed run lengths: from the fourth on each is told by its difference to the one two before.

    Numbers are split into five bits a letter, the lowest first, until the rest is the sign alone.
    """
    runs, letters = list(counts), list[str]()
    for place, run in enumerate(runs):
        value, more = run - (runs[place - 2] if place > 2 else 0), True
        while more:
            low = value & 31
            value >>= 5
            more = value != (-1 if low & 16 else 0)
            letters.append(chr(FIRST + low + 32 * more))
    return "".join(letters)


def expand(text: str) -> list[int]:
    """Run lengths from `squeeze`'s text; ValueError where it is none."""
    runs, value, shift = list[int](), 0, 0
    for letter in text:
        bits = ord(letter) - FIRST
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"{text[:20]!r} is no text of run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift or min(runs, default=0) < 0:
        raise ValueError("the text of run lengths is cut short or has a negative one")
    return runs


def crop_runs(mask: np.ndarray) -> tuple[list[int], tuple[int, int, int, int]]:
    """Run lengths of a mask [H, W] within its box, row by row and zeros first; and the box, left, top, width, height.

    A mask of nothing has no runs and a box of no size.
    """
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(ys):
        return [], (0, 0, 0, 0)
    left, top, right, bottom = int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1
    flat = mask[top:bottom, left:right].ravel()
    bounds = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    runs = np.diff(bounds).tolist()
    return ([0, *runs] if flat[0] else runs), (left, top, right - left, bottom - top)


def crop_mask(runs: list[int], box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """bool [H, W] of `size` from `crop_runs`; ValueError where runs and box do not fit together, or not the frame."""
    left, top, width, height = box
    if min(box) < 0 or min(runs, default=0) < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError(f"a mask at {left},{top} of {width}x{height} pixels is not within {size[1]}x{size[0]}")
    if sum(runs) != width * height:
        raise ValueError(f"run lengths add up to {sum(runs)}, not to {width}x{height} pixels")
    mask = np.zeros(size, bool)
    inside = np.zeros(width * height, bool)
    for place, (end, run) in enumerate(zip(accumulate(runs), runs)):
        inside[end - run : end] = place % 2
    mask[top : top + height, left : left + width] = inside.reshape(height, width)
    return mask
