"""The counter-based hash: exact against plain integers, uniform, and free of overlap between streams."""

from __future__ import annotations

import numpy as np
import torch

from dropmae.ops import noise


def plain_mix(x: int) -> int:
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


def test_mix_is_the_integer_hash() -> None:
    values = torch.randint(-(2**31), 2**31, (2000,), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    expected = [plain_mix(int(value) & 0xFFFFFFFF) for value in values]
    assert [int(value) & 0xFFFFFFFF for value in noise.mix(values)] == expected


def test_every_input_bit_flips_each_output_bit_half_of_the_time() -> None:
    values = torch.randint(-(2**31), 2**31, (20_000,), generator=torch.Generator().manual_seed(1)).to(torch.int32)
    for bit in range(32):
        flip = torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)
        changed = noise.mix(values) ^ noise.mix(values ^ flip)
        for out in range(32):
            share = float(((changed >> out) & 1).float().mean())
            assert abs(share - 0.5) < 0.06, (bit, out, share)


def test_uniform_is_uniform_and_open() -> None:
    draws = noise.uniform(noise.keys(3, torch.arange(200)), 5000)
    counts = np.histogram(draws.numpy(), bins=100, range=(0, 1))[0]
    expected = draws.numel() / 100
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 150  # 99 degrees of freedom: mean 99, deviation 14
    assert draws.min() > 0
    assert draws.max() < 1
    assert abs(float(noise.exponential(noise.keys(0, torch.arange(50)), 5000).mean()) - 1) < 0.01


def test_a_number_depends_on_its_place_only() -> None:
    whole = noise.uniform(noise.keys(7, torch.arange(6)), 40)
    part = noise.uniform(noise.keys(7, torch.tensor([4])), 25)
    assert torch.equal(whole[4, :25], part[0])


def test_seeds_samples_and_streams_differ() -> None:
    index = torch.arange(3000)
    found = torch.cat([noise.fold(noise.keys(seed, index), stream) for seed in (0, 1, 2**40) for stream in (1, 2, 3)])
    assert len(found.unique()) > 0.9999 * len(found)
    far = noise.keys(0, torch.tensor([5, 5 + 2**32, 5 + 2**40]))
    assert len(far.unique()) == 3


def test_streams_are_uncorrelated() -> None:
    draws = noise.uniform(noise.keys(0, torch.arange(300)), 300) - 0.5
    neighbours = float((draws[:-1] * draws[1:]).mean() / draws.var())
    lagged = float((draws[:, :-1] * draws[:, 1:]).mean() / draws.var())
    assert abs(neighbours) < 0.015
    assert abs(lagged) < 0.015
