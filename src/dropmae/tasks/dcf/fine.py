"""A correlation filter on gradients and colours of small cells, which finds an object to a pixel or two.

Features: histograms of oriented gradients (Felzenszwalb et al., PAMI 2010, equations 3 to 6, with bins that overlap as
the cube of a cosine), and how much of each cell has one of eleven colours. Filter: spatial and temporal regularisation
(STRCF, arXiv 1803.08679): it is near zero outside the object, so that it learns from the background without taking it
up, and stays near the one before. Both hold for a filter of all cells at once, in the Fourier domain, by ADMM.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

CELL = 4
"""Side of a cell in pixels."""
BINS = 9
"""Orientations of gradients, without sign."""
CLIP = 0.2
"""Largest share of one bin in the gradients around a cell."""
COLOURS = (
    (0, 0, 0), (128, 128, 128), (255, 255, 255), (220, 40, 40), (240, 140, 40), (240, 220, 60), (60, 160, 60),
    (60, 170, 220), (40, 60, 180), (140, 60, 160), (120, 80, 50),
)  # fmt: skip
"""The colours that are told apart, in sRGB."""
LEVELS = 32
"""Steps of each primary in the table of colours."""
SPREAD = 18.0
"""Deviation of a colour in CIELAB."""
CHANNELS = 3 * BINS + 4 + len(COLOURS) + 1
INSIDE, OUTSIDE = 1e-3, 1e5
"""Penalty of the filter's values within the object and beyond it."""
SHARPNESS = 1 / 16
"""Deviation of the wanted response, in square roots of the object's area."""
FIRST, LATER = (8, 0.02, 2.0), (2, 0.3, 10.0)
"""Steps of ADMM, the weight of its constraint at first, and its growth a step: of a new filter, and of the next one."""


def gradients(pictures: Tensor) -> Tensor:
    """[B, 31, n, n]: histograms of gradients of pictures float [B, 3, H, W] of 0 to 255."""
    padded = functional.pad(pictures, (1, 1, 1, 1), mode="replicate")
    x = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    y = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    strongest = (x * x + y * y).argmax(1, keepdim=True)
    both = torch.cat([x.gather(1, strongest), y.gather(1, strongest)], 1)
    length = both.square().sum(1, keepdim=True).sqrt() + 1e-3
    angles = torch.arange(BINS, device=pictures.device) * math.pi / BINS
    along = torch.einsum("kc,bchw->bkhw", torch.stack([angles.cos(), angles.sin()], 1), both)
    along = along * (along / length) ** 2
    signed = torch.cat([along.clamp_min(0), (-along).clamp_min(0)], 1)
    signed = functional.avg_pool2d(signed, 2 * CELL, CELL, CELL // 2, count_include_pad=False)
    plain = signed[:, :BINS] + signed[:, BINS:]
    energy = functional.pad(plain.square().sum(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    blocks = (4 * functional.avg_pool2d(energy, 2, 1) + 1).rsqrt()
    n, m = plain.shape[2:]
    around = [blocks[:, :, i : i + n, j : j + m] for i in (0, 1) for j in (0, 1)]
    first = torch.stack([(signed * scale).clamp_max(CLIP) for scale in around], 1)
    second = torch.stack([(plain * scale).clamp_max(CLIP) for scale in around], 1)
    return torch.cat([first.sum(1) / 2, second.sum(1) / 2, first.sum(2) / math.sqrt(2 * BINS)], 1)


def lab(colours: Tensor) -> Tensor:
    """CIELAB [..., 3] of sRGB [..., 3] of 0 to 255."""
    shares = colours / 255
    linear = torch.where(shares > 0.04045, ((shares + 0.055) / 1.055) ** 2.4, shares / 12.92)
    matrix = torch.tensor([[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0177, 0.1095, 0.8728]])
    tones = linear @ matrix.T
    roots = torch.where(tones > 0.008856, tones.clamp_min(1e-6) ** (1 / 3), 7.787 * tones + 16 / 116)
    x, y, z = roots.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


@cache
def memberships() -> Tensor:
    """float32 [LEVELS^3, 11]: how much a colour belongs to each of `COLOURS`, less the mean."""
    steps = (torch.arange(LEVELS) + 0.5) * 256 / LEVELS
    places = lab(torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1)).view(-1, 1, 3)
    distance = (places - lab(torch.tensor(COLOURS, dtype=torch.float32))).square().sum(-1)
    return torch.softmax(-distance / (2 * SPREAD**2), -1) - 1 / len(COLOURS)


def colours(pictures: Tensor) -> Tensor:
    """[B, 11, n, n]: shares of colours in the cells of pictures float [B, 3, H, W] of 0 to 255."""
    level = (functional.avg_pool2d(pictures, CELL // 2) * (LEVELS / 256)).long().clamp_(0, LEVELS - 1)
    red, green, blue = level.unbind(1)
    found = memberships().to(pictures.device)[(red * LEVELS + green) * LEVELS + blue]
    return functional.avg_pool2d(found.permute(0, 3, 1, 2), 2)


def spectra(crops: np.ndarray, device: torch.device) -> Tensor:
    """complex64 [B, CHANNELS, n, n // 2 + 1] of crops uint8 [B, H, H, 3], whose cells count less towards the edge."""
    pictures = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float()
    grey = functional.avg_pool2d(pictures.mean(1, keepdim=True), CELL) / 255 - 0.5
    cells = torch.cat([gradients(pictures), colours(pictures), grey], 1)
    hann = torch.hann_window(cells.shape[-1] + 2, periodic=False, device=device)[1:-1]
    return torch.fft.rfft2(cells * (hann[:, None] * hann))


def wanted(centres: Tensor, deviations: Tensor, n: int) -> Tensor:
    """complex [B, n, n // 2 + 1]: Gaussians around points x, y [B, 2] with deviations [B], in cells."""
    rate = torch.fft.fftfreq(n, device=centres.device)[:, None], torch.fft.rfftfreq(n, device=centres.device)[None]
    spread = deviations[:, None, None] * math.tau
    height = torch.exp(-0.5 * spread**2 * (rate[0] ** 2 + rate[1] ** 2)) * spread**2 / math.tau
    x, y = ((centres[:, axis] - 0.5)[:, None, None] for axis in (0, 1))
    return torch.polar(height, -math.tau * (rate[0] * y + rate[1] * x))


def supports(sizes: Tensor, n: int) -> Tensor:
    """float32 [B, n, n]: squared penalties of a filter around the origin, for objects of sizes w, h [B, 2] in cells."""
    away = torch.fft.fftfreq(n, 1 / n, device=sizes.device).abs()
    half = (sizes / 2).round().clamp_min(1)
    inside = (away <= half[:, 1, None])[:, :, None] & (away <= half[:, 0, None])[:, None]
    return torch.where(inside, INSIDE, OUTSIDE) ** 2


def fit(seen: Tensor, answer: Tensor, penalty: Tensor, before: Tensor | None, steady: float) -> Tensor:
    """The filters [B, C, n, m] whose response to `seen` [B, C, n, m] is near `answer` [B, n, m].

    `steady` is the weight of the distance to the filters `before` (equation 5 of the paper). Sums are over cells.
    """
    n = seen.shape[-2]
    steady = 0.0 if before is None else steady
    old = torch.zeros_like(seen) if before is None else before
    energy = seen.abs().square().sum(1) / n**2
    pull = seen * answer.conj()[:, None] / n**2 + steady * old
    passes, stiff, growth = FIRST if before is None else LATER
    narrow, dual = old, torch.zeros_like(seen)
    for _ in range(passes):
        total = steady + stiff
        right = pull + stiff * (narrow - dual)
        along = (seen.conj() * right).sum(1) / n**2 / (total + energy)
        wide = (right - seen * along[:, None]) / total
        picture = torch.fft.irfft2(wide + dual, s=(n, n)) * (stiff / (penalty + stiff))[:, None]
        narrow = torch.fft.rfft2(picture)
        dual = dual + wide - narrow
        stiff *= growth
    return narrow


def respond(filters: Tensor, seen: Tensor) -> Tensor:
    """float32 [B, n, n]: near 1 where the object's centre is."""
    n = seen.shape[-2]
    return torch.fft.irfft2((filters.conj() * seen).sum(1), s=(n, n))


def peak(response: Tensor, rows: slice, columns: slice) -> tuple[np.ndarray, float]:
    """The highest point x, y within some cells of a response [n, n], in shares of its side, and its height.

    Between cells by a parabola along each axis.
    """
    n, part = len(response), response[rows, columns]
    at = int(part.argmax())
    row, column = rows.start + at // part.shape[1], columns.start + at % part.shape[1]
    found = []
    for line, place in ((response[row], column), (response[:, column], row)):
        low, mid, high = (float(line[(place + d) % n]) for d in (-1, 0, 1))
        bend = low - 2 * mid + high
        found.append((place + 0.5 + (min(max(0.5 * (low - high) / bend, -0.5), 0.5) if bend < 0 else 0.0)) / n)
    return np.array(found), float(part.max())
