"""The tracker's filter on gradients and colours in small cells."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dropmae.tasks.dcf import fine


def test_wanted_is_a_gaussian_around_the_point():
    found = torch.fft.irfft2(fine.wanted(torch.tensor([[10.5, 20.0]]), torch.tensor([2.0]), 32), s=(32, 32))[0]
    places = torch.arange(32) + 0.5
    away = (places[:, None] - 20.0) ** 2 + (places - 10.5) ** 2
    torch.testing.assert_close(found, torch.exp(-away / 8), atol=1e-4, rtol=0)


def test_fine_filter_minimises_its_cost_and_stays_within_its_support():
    torch.manual_seed(0)
    n, sizes = 12, torch.tensor([[4.0, 6.0]])
    cells = torch.randn(1, 3, n, n)
    seen, support = torch.fft.rfft2(cells), fine.supports(sizes, n)
    answer = fine.wanted(torch.tensor([[6.5, 6.5]]), torch.tensor([0.8]), n)
    before = torch.zeros_like(seen)
    found = fine.fit(seen, answer, support, None, 0.0)
    picture = torch.fft.irfft2(found, s=(n, n))[0]
    assert float(picture[:, support[0] > 1].abs().max()) < 1e-4
    target = torch.fft.irfft2(answer, s=(n, n))

    def misses(filters: Tensor) -> float:
        return float((fine.respond(filters, seen) - target).square().sum())

    assert misses(found) < 0.5 * misses(before)
    later = fine.fit(seen, answer, support, found, 1e6)  # held where it was
    torch.testing.assert_close(later, found, atol=1e-2, rtol=1e-2)


def test_peak_is_found_between_cells():
    place = torch.arange(16) + 0.5
    hill = torch.exp(-((place[:, None] - 5.2) ** 2 + (place - 9.8) ** 2) / 4)
    found, height = fine.peak(hill, slice(0, 16), slice(0, 16))
    np.testing.assert_allclose(found * 16, [9.8, 5.2], atol=0.1)
    assert 0.95 < height <= 1
