"""A correlation filter on gradients and colours of small cells, which finds an object to a pixel or two.

Features: `ops.cells`. Filter: spatial and temporal regularisation (STRCF, arXiv 1803.08679): it is near zero outside
the object, so that it learns from the background without taking it up, and stays near the one before. Both hold for a
filter of all cells at once, in the Fourier domain, by ADMM.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dropmae.ops import cells

INSIDE, OUTSIDE = 1e-3, 1e5
"""Penalty of the filter's values within the object and beyond it."""
SHARPNESS = 1 / 16
"""Deviation of the wanted response, in square roots of the object's area."""
FIRST, LATER = (8, 0.02, 2.0), (2, 0.3, 10.0)
"""Steps of ADMM, the weight of its constraint at first, and its growth a step: of a new filter, and of the next one."""


def spectra(crops: np.ndarray, device: torch.device) -> Tensor:
    """complex64 [B, C, n, n // 2 + 1] of crops uint8 [B, H, H, 3], whose cells count less towards the edge."""
    found = cells.cells(torch.from_numpy(crops).to(device))
    hann = torch.hann_window(found.shape[-1] + 2, periodic=False, device=device)[1:-1]
    return torch.fft.rfft2(found * (hann[:, None] * hann))


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
