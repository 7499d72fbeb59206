"""Between frames and masks as people have them and as a network sees them: sizes, prompts, decisions."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae.target import Target, mask_boxes
from dropmae.tasks.vos.pyramid import aggregate


class Canvas(NamedTuple):
    """How frames are brought to a network: scaled where they are too large, then padded to whole patches."""

    size: tuple[int, int]
    """Height and width of the video."""
    sides: tuple[int, int]
    """Height and width that it is scaled to."""
    pad: tuple[int, int, int, int]
    """Pixels added left, right, above and below: half on each side, an odd one right and below."""

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of what the network sees."""
        left, right, above, below = self.pad
        return self.sides[0] + above + below, self.sides[1] + left + right

    def grid(self, patch: int) -> tuple[int, int]:
        return self.padded[0] // patch, self.padded[1] // patch

    def fit(self, picture: Tensor) -> Tensor:
        """[C, h, w] of a normalised picture [C, H, W]; zeros, the mean colour, around it."""
        if self.sides != self.size:
            picture = functional.interpolate(
                picture[None], self.sides, mode="bilinear", align_corners=False, antialias=True
            )[0]
        return functional.pad(picture, self.pad)

    def fit_labels(self, masks: Tensor) -> Tensor:
        """float32 [K, h, w] of masks [K, H, W]: the nearest pixel of each."""
        masks = masks.float()
        if self.sides != self.size:
            masks = functional.interpolate(masks[None], self.sides, mode="nearest-exact")[0]
        return functional.pad(masks, self.pad)

    def cut(self, maps: Tensor) -> Tensor:
        """Maps [K, h, w] without the padding."""
        left, _, above, _ = self.pad
        return maps[:, above : above + self.sides[0], left : left + self.sides[1]]


def canvas(size: tuple[int, int], patch: int, most: int = 0, short_side: int = 0) -> Canvas:
    """The canvas of frames of this height and width: of at most `most` patches, the shorter side at most `short_side`.

    0 sets no limit; nothing is enlarged.
    """
    shrink = min(1.0, short_side / min(size)) if short_side else 1.0
    sides = scaled(size, shrink)
    while most and patches(sides, patch) > most:
        shrink *= min(0.99, math.sqrt(most / patches(sides, patch)))
        sides = scaled(size, shrink)
    across, down = -sides[1] % patch, -sides[0] % patch
    return Canvas(size, sides, (across // 2, across - across // 2, down // 2, down - down // 2))


def scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def patches(sides: tuple[int, int], patch: int) -> int:
    """Patches that it takes to cover a picture."""
    return -(-sides[0] // patch) * -(-sides[1] // patch)


def prompt_labels(target: Target, size: tuple[int, int], where: str) -> tuple[list[int], np.ndarray, bool]:
    """Ids of the objects that a target shows, their label map int32 [H, W], and whether it is made of boxes.

    255 in a uint8 map is void, and background here, unless `target.ids` name it. Of boxes the smaller one lies on top.
    ValueError where the map differs in size from the frame.
    """
    if target.mask is not None:
        if target.mask.shape != size:
            (h, w), (height, width) = target.mask.shape, size
            raise ValueError(f"{where}: the mask has {w}x{h} pixels, the frame {width}x{height}; resize it (nearest)")
        labels = target.mask.astype(np.int32)
        if target.mask.dtype == np.uint8 and 255 not in target.ids:
            labels[labels == 255] = 0
        if labels.min(initial=0) < 0:
            raise ValueError(f"{where}: object ids must be positive, but the mask holds {labels.min()}")
        return mask_boxes(labels)[0].tolist(), labels, False
    labels = np.zeros(size, np.int32)
    ids: list[int] = []
    if target.boxes is not None:
        order = np.argsort(-target.boxes[:, 2] * target.boxes[:, 3], kind="stable")  # NaN comes last
        for row in order.tolist():
            x, y, w, h = target.boxes[row].tolist()
            if not math.isfinite(x + y + w + h):
                continue
            left, top, right, bottom = (round(v) for v in (x, y, x + w, y + h))
            inside = labels[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
            if w <= 0 or h <= 0 or not inside.size:
                raise ValueError(f"{where}: box x {x:g}, y {y:g}, w {w:g}, h {h:g} covers nothing of the frame")
            inside[...] = target.ids[row]
            ids.append(int(target.ids[row]))
    return sorted(ids), labels, bool(ids)


def decide(logits: Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Label map int64 [H, W] (0 background, 1 + row of the object) and confidences float64 [K] from logits [K, h, w].

    Objects compete by soft aggregation; where the frame is larger, their shares are enlarged before the decision. The
    confidence of an object is the mean of its share where it wins, 0 where it wins nowhere.
    """
    shares = aggregate(torch.sigmoid(logits.float())[None]).softmax(1)
    if tuple(shares.shape[2:]) != size:
        shares = functional.interpolate(shares, size, mode="bilinear", align_corners=False)
    best, labels = shares[0].max(0)
    count = len(logits) + 1
    pixels = torch.bincount(labels.flatten(), minlength=count)
    total = torch.bincount(labels.flatten(), weights=best.flatten().double(), minlength=count)
    scores = (total / pixels.clamp(min=1))[1:]
    return labels.cpu().numpy(), scores.cpu().numpy()
