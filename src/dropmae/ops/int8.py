"""Linear layers in 8-bit integers, for use, not for training, on a CPU.

A weight has one scale for each output, found once; an activation one for each row (token), found as it comes: "dynamic
quantization". Both are symmetric, scale = largest / 127. Sums are exact 32-bit integers. A processor with VNNI
multiplies int8 twice as fast as bfloat16. What surrounds the product is one compiled pass each (int8_cpu.cpp), or
PyTorch's operators where there is no compiler; between an MLP's two layers nothing wider than int8 is written.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dropmae.ops import switch
from dropmae.ops.compiler import Library


class Int8(NamedTuple):
    """A matrix in 8 bits: values * scales[:, None]."""

    values: Tensor
    """int8 [rows, K]."""
    scales: Tensor
    """float32 [rows]."""


def quantize(x: Tensor) -> Int8:
    """float32 or bfloat16 [rows, K] to int8, rounded to the nearest; a row of zeros has scale 0."""
    if not switch.compiled(library):
        wide = x.float()
        scales = wide.abs().amax(1) / 127
        return Int8(torch.nan_to_num(wide / scales[:, None]).round().to(torch.int8), scales)
    x = x.contiguous()
    made = Int8(torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x)))
    library().int8_quantize(*_pointers(x, *made), *x.shape, x.dtype is torch.bfloat16, torch.get_num_threads())
    return made


def fast() -> bool:
    """Whether this CPU multiplies 8-bit integers faster than other numbers, and the passes around them are compiled."""
    return torch.cpu._is_vnni_supported() and switch.form() == "fast" and library.obstacle is None


@cache
def _sums_exactly() -> bool:
    """Whether PyTorch's product keeps its promise here: kernels for CPUs without VNNI may add pairs in 16 bits."""
    largest = torch.full((32, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(largest, -largest.T.contiguous()) == -64 * 127**2).all())


def _product(a: Tensor, b: Tensor) -> Tensor:
    """int32 [rows, N]: the exact product of int8 [rows, K] and [K, N]."""
    return torch._int_mm(a, b) if _sums_exactly() else (a.double() @ b.double()).int()


def linear(x: Int8, weight: Int8, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """x W^T + b: x [rows, K], weight [N, K], bias float32 [N] -> `dtype` (float32 or bfloat16) [rows, N]."""
    sums = _product(x.values, weight.values.T)
    if not switch.compiled(library):
        return _widened(sums, x, weight, bias).to(dtype)
    out = torch.empty(sums.shape, dtype=dtype)
    pointers = _pointers(sums, x.scales, weight.scales, bias, out)
    library().int8_dequantize(*pointers, *sums.shape, dtype is torch.bfloat16, torch.get_num_threads())
    return out


def gelu_linear(x: Int8, weight: Int8, bias: Tensor) -> Int8:
    """gelu(x W^T + b), quantised anew: x [rows, K], weight [N, K], bias float32 [N] -> [rows, N]."""
    sums = _product(x.values, weight.values.T)
    if not switch.compiled(library):
        return quantize(functional.gelu(_widened(sums, x, weight, bias)))
    made = Int8(torch.empty(sums.shape, dtype=torch.int8), torch.empty(len(sums)))
    library().int8_gelu(*_pointers(sums, x.scales, weight.scales, bias, *made), *sums.shape, torch.get_num_threads())
    return made


def _widened(sums: Tensor, x: Int8, weight: Int8, bias: Tensor) -> Tensor:
    return sums * (x.scales[:, None] * weight.scales) + bias


def _pointers(*tensors: Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


library = Library(
    "int8_cpu.cpp",
    "int8 on this CPU in PyTorch's form",
    (("int8_quantize", "pppllii"), ("int8_dequantize", "pppppllii"), ("int8_gelu", "pppppplli")),
)
