"""The warping refiner: where it looks, and that its alignment step finds what moved before anything is learned."""

import pytest
import torch
from torch.nn import functional

from dropmae.nn.refine import Refiner, alike, centres, convex_upsample, correlation, sample


def smooth(channels: int, side: int) -> torch.Tensor:
    torch.manual_seed(1)
    return functional.interpolate(torch.randn(1, channels, side // 4, side // 4), (side, side), mode="bicubic")


def test_windows_and_shifts_see_the_same() -> None:
    other, own, places = smooth(5, 24), smooth(5, 24), centres(24, 24)
    warped = sample(other, places)
    torch.testing.assert_close(warped, other)
    by_window = alike(own[:, None], other, places, 2)[:, 0]
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(by_window[inner], correlation(own, warped, 2)[inner], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shift", [(0.3, -0.6), (-1.2, 0.7)])
def test_untrained_it_aligns(shift: tuple[float, float]) -> None:
    moved, places = smooth(8, 48), centres(48, 48)
    own = sample(moved, places + torch.tensor(shift)[None, :, None, None])  # what is at x is at x + shift in the other
    refiner, hidden = Refiner(8, 16, radius=1), torch.zeros(1, 16, 48, 48)
    for _ in range(8):
        places, hidden = refiner(own, moved, places, hidden)
    found = (places - centres(48, 48))[0, :, 6:-6, 6:-6]
    assert (found - torch.tensor(shift)[:, None, None]).norm(dim=0).mean() < 0.05


def test_points_do_not_see_each_other() -> None:
    refiner, other = Refiner(8, 16, radius=2, kernel=1), smooth(8, 32)
    torch.nn.init.normal_(refiner.move.weight)
    own, places, hidden = torch.randn(1, 8, 5, 1), torch.rand(1, 2, 5, 1) * 32, torch.randn(1, 16, 5, 1)
    every, _ = refiner(own, other, places, hidden)
    alone, _ = refiner(own[:, :, 3:4], other, places[:, :, 3:4], hidden[:, :, 3:4])
    torch.testing.assert_close(every[:, :, 3:4], alone)
    assert not torch.allclose(every, places)


def test_convex_upsampling() -> None:
    coarse = torch.arange(12.0).view(1, 1, 3, 4)
    middle = torch.full((1, 9, 2, 2, 3, 4), -50.0)
    middle[:, 4] = 0  # all weight on the cell itself
    fine = convex_upsample(coarse, middle.flatten(1, 3), 2)
    torch.testing.assert_close(fine, coarse.repeat_interleave(2, 2).repeat_interleave(2, 3))
    middle[:, 5, 1, 0] = 50  # the lower left of each cell takes the right neighbour
    fine = convex_upsample(coarse, middle.flatten(1, 3), 2)
    torch.testing.assert_close(fine[0, 0, 1::2, 0::2], coarse[0, 0][:, [1, 2, 3, 3]])
