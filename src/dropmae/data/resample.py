"""Crops that a batch brings along are resized and flipped where the batch is: on the device, all at once.

A batch with Crops holds their regions padded to one size, their sizes and flips instead of pixels. What is made of them
is what the host makes, bit for bit: Pillow's antialiased bicubic interpolation, across and then down, with levels in
between, in its fixed point of 22 bits. Weights are split into two parts so small that float32, and TF32, is exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from dropmae.data.augment import Crops

PIXELS, SIZES, FLIPS, CANVAS = ":pixels", ":sizes", ":flips", ":canvas"
"""Suffixes of the tensors that stand for Crops in a batch."""
BITS, COARSE = 22, 10
"""Of Pillow's weights after the binary point, and of the first part that they are split into."""
CHUNK = 2**26
"""Numbers that are worked on at once, which bounds the memory it takes."""


def pack(name: str, samples: list[Crops], pool: Any = None) -> dict[str, Tensor]:
    """The Crops of a batch as tensors: regions uint8 [B, T, H, W, 3] in the upper left corner, sizes, flips.

    The regions are pixels, or places in the frames that a `pool` holds on a device (`resident.Pool`).
    """
    pixels, sizes = stacked(samples) if pool is None else pool.gather([crops.regions for crops in samples])
    return {
        name + PIXELS: pixels,
        name + SIZES: sizes,
        name + FLIPS: torch.tensor([crops.flips for crops in samples]).to(pixels.device),
        name + CANVAS: torch.empty((*samples[0].sides, 0)),  # its shape tells the sides without a word to the device
    }


def stacked(samples: list[Crops]) -> tuple[Tensor, Tensor]:
    """Regions of pixels as one tensor [B, T, H, W, 3], and their sizes [B, T, 2]."""
    sizes = np.array([[region.shape[:2] for region in crops.regions] for crops in samples])
    height, width = sizes.max((0, 1))
    padded = []
    for crops in samples:
        pixels = np.zeros((len(crops.regions), height, width, 3), np.uint8)
        for place, region in zip(pixels, crops.regions):
            place[: region.shape[0], : region.shape[1]] = region
        padded.append(torch.from_numpy(pixels))
    return default_collate(padded), torch.from_numpy(sizes)  # in a data process it stacks right into shared memory


def unpack(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with pixels uint8 [B, T, 3, h, w] in place of crops; one without crops as it is."""
    names = [key.removesuffix(PIXELS) for key in batch if key.endswith(PIXELS)]
    made = {key: value for key, value in batch.items() if not key.endswith((PIXELS, SIZES, FLIPS, CANVAS))}
    for name in names:
        pixels, sizes, flips = (batch[name + suffix] for suffix in (PIXELS, SIZES, FLIPS))
        made[name] = resample(pixels, sizes, flips, tuple(batch[name + CANVAS].shape[:2]))
    return made


@torch.no_grad()
def resample(pixels: Tensor, sizes: Tensor, flips: Tensor, sides: tuple[int, ...]) -> Tensor:
    """uint8 [B, T, 3, h, w] from regions uint8 [B, T, H, W, 3], their sizes int64 [B, T, 2] and flips bool [B, T].

    The host's levels for regions up to 8 times as long as `sides`; beyond, sums that float32 does not hold are possible
    and one of 256 levels may be missed.
    """
    batch, frames, height, width = pixels.shape[:4]
    flat, sizes, flips = pixels.flatten(0, 1), sizes.flatten(0, 1), flips.flatten()
    out = torch.empty((len(flat), 3, *sides), dtype=torch.uint8, device=pixels.device)
    step = max(1, CHUNK // (3 * height * width))
    with torch.autocast(pixels.device.type, enabled=False):  # bfloat16 cannot tell 256 levels apart
        for part in (slice(start, start + step) for start in range(0, len(flat), step)):
            rows = weights(sizes[part, 0], height, sides[0])
            columns = weights(sizes[part, 1], width, sides[1])
            columns = torch.where(flips[part, None, None], columns.flip(1), columns).mT
            image = flat[part].permute(0, 3, 1, 2).float()
            coarse, fine = split(columns[:, None])
            image = levels(image @ coarse, image @ fine)
            coarse, fine = split(rows[:, None])
            out[part] = levels(coarse @ image, fine @ image).to(torch.uint8)
    return out.unflatten(0, (batch, frames))


def weights(sizes: Tensor, longest: int, side: int) -> Tensor:
    """float32 [N, side, longest]: what every pixel of an axis of `sizes` [N] gives to each of `side` pixels.

    The cubic kernel with a = -0.5, stretched where the axis shrinks, in multiples of 2**-BITS.
    """
    scale = sizes.double()[:, None, None] / side
    stretch = scale.clamp(min=1)
    centre = (torch.arange(side, device=sizes.device)[:, None] + 0.5) * scale  # [N, side, 1]
    first = (centre - 2 * stretch + 0.5).floor().clamp(min=0)
    last = torch.minimum((centre + 2 * stretch + 0.5).floor(), sizes.double()[:, None, None])
    place = torch.arange(longest, device=sizes.device)
    x = ((place + 0.5 - centre) / stretch).abs()
    inner, outer = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    kernel = torch.where(x < 1, inner, torch.where(x < 2, outer, 0)) * ((place >= first) & (place < last))
    kernel = kernel / kernel.sum(-1, keepdim=True) * 2**BITS
    return ((kernel + kernel.sign() / 2).trunc() / 2**BITS).float()


def split(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Integers of eleven bits: `weights` are the first by 2**-COARSE plus the second by 2**-BITS."""
    coarse = (weights * 2**COARSE).round()
    return coarse, weights * 2**BITS - coarse * 2 ** (BITS - COARSE)


def levels(coarse: Tensor, fine: Tensor) -> Tensor:
    """The nearest of 256 levels, halves up, of sums by the two parts of weights; every number here is exact."""
    carried = coarse.add_(fine.mul_(2.0 ** (COARSE - BITS)).floor_())
    return carried.add_(2 ** (COARSE - 1)).mul_(2.0**-COARSE).floor_().clamp_(0, 255)
