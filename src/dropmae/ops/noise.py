"""Counter-based random numbers: every number is a hash of where it is used.

A number depends on (seed, sample index, stream, position) alone, so it does not change with the device, the batch
split, the number of ranks or workers, or the kernel that makes it. The hash is a 32-bit integer finaliser of the
xor-shift-multiply kind (two multiplications), whose bits pass the usual avalanche tests; it is no cipher.
"""

from __future__ import annotations

import torch
from torch import Tensor

MASK, ASAD, DROP_PATH = 1, 2, 3
"""Streams: what a number is for. A model folds one of them, and its layer, into its keys."""

GOLDEN = 0x9E3779B9 - (1 << 32)
FIRST = 0x7FEB352D
SECOND = 0x846CA68B - (1 << 32)


def mix(x: Tensor) -> Tensor:
    """A bijection of int32 onto itself in which every input bit flips each output bit with probability near 1/2."""
    x = x ^ (x >> 16).bitwise_and_(0xFFFF)  # the shift of an int32 copies the sign; the mask makes it a logical one
    x.mul_(FIRST)
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF))
    x.mul_(SECOND)
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))


def fold(key: Tensor, part: Tensor | int) -> Tensor:
    """int32 key of a sub-stream: `key` [...] joined with integers `part` that broadcast against it."""
    if not isinstance(part, Tensor):
        part = torch.tensor(_int32(part), dtype=torch.int32, device=key.device)
    return mix(mix(key) ^ (part.to(torch.int32) * GOLDEN + 1))


def keys(seed: int, index: Tensor) -> Tensor:
    """int32 [B]: one key for each global sample number `index` (int64 [B])."""
    high, low = index >> 32, index & 0xFFFFFFFF
    start = torch.full_like(index, _int32(seed ^ (seed >> 32)), dtype=torch.int32)
    return fold(fold(start, _wrap(high)), _wrap(low))


def bits(key: Tensor, count: int) -> Tensor:
    """int32 [..., count]: 32 random bits for each position 0..count-1 of each key [...]."""
    position = torch.arange(count, dtype=torch.int32, device=key.device) * GOLDEN
    return mix(key.unsqueeze(-1) ^ position)


def uniform(key: Tensor, count: int) -> Tensor:
    """float32 [..., count], uniform on the 2**23 midpoints of (0, 1), each exact in float32: never 0, never 1."""
    return (bits(key, count) >> 9).bitwise_and_(0x7FFFFF).float().add_(0.5).mul_(2.0**-23)


def exponential(key: Tensor, count: int) -> Tensor:
    """float32 [..., count], exponential with mean 1, always positive."""
    return uniform(key, count).log_().neg_()


def _int32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def _wrap(value: Tensor) -> Tensor:
    value = value & 0xFFFFFFFF
    return torch.where(value >= 1 << 31, value - (1 << 32), value).to(torch.int32)
