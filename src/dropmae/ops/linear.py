"""Linear layers of a transformer, and the MLP's first with its GELU, as fast as a CPU in bfloat16 allows.

The meaning is PyTorch's: `functional.linear`, and `functional.gelu` (exact, not the tanh form) of it. Its CPU form in
bfloat16 writes the bias out before it multiplies, and spends about as long on bias and GELU of a wide layer as on the
product. In the fast form oneDNN adds the bias within the product, and a compiled kernel (gelu_cpu.cpp) makes the
activation, and in the backward pass its gradient and the bias's, in one pass over memory. Matrix products are the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dropmae.ops import switch
from dropmae.ops.compiler import Library


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b: x [..., K], weight [N, K], bias [N] -> [..., N]."""
    if not switch.linear(x, weight):
        return functional.linear(x, weight, bias)
    with torch.autocast("cpu", enabled=False):
        return _Linear.apply(*(tensor.bfloat16() for tensor in (x, weight, bias)))


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """gelu(x W^T + b): x [..., K], weight [N, K], bias [N] -> [..., N]."""
    if not switch.linear(x, weight) or not switch.compiled(library):
        return functional.gelu(functional.linear(x, weight, bias))
    with torch.autocast("cpu", enabled=False):
        return _GeluLinear.apply(x.bfloat16(), weight.bfloat16(), bias.bfloat16().float())


library = Library(
    "gelu_cpu.cpp",
    "GELU on this CPU in PyTorch's form",
    (("gelu_forward", "ppplli"), ("gelu_backward", "ppppplli"), ("gelu_rows", "")),
)


@cache
def _has_onednn() -> bool:
    able = torch.backends.mkldnn.is_available()
    return able and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # it refuses where a CPU has no AVX512


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        if not _has_onednn():
            return functional.linear(x.float(), weight.float(), bias.float()).bfloat16()
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        above = grads[0].flatten(0, -2)
        return *_products(ctx, above, x, weight), above.sum(0) if ctx.needs_input_grad[2] else None


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        raw = _product(x.flatten(0, -2), weight.T)
        ctx.save_for_backward(x, weight, bias, raw)
        out = torch.empty_like(raw)
        library().gelu_forward(raw.data_ptr(), bias.data_ptr(), out.data_ptr(), *raw.shape, torch.get_num_threads())
        return out.view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, raw = ctx.saved_tensors
        grad = grads[0].flatten(0, -2).contiguous()
        above = torch.empty_like(raw)
        sums = torch.empty(-(-len(raw) // library().gelu_rows()), raw.shape[1])
        library().gelu_backward(
            *(tensor.data_ptr() for tensor in (raw, bias, grad, above, sums)), *raw.shape, torch.get_num_threads()
        )
        return *_products(ctx, above, x, weight), sums.sum(0)


def _products(ctx: Any, above: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and weight, where they are asked for, from that of the product [rows, N]."""
    wanted = ctx.needs_input_grad
    back = _product(above, weight).view(x.shape) if wanted[0] else None
    return back, _product(above.T, x.flatten(0, -2)) if wanted[1] else None


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b of bfloat16 matrices; without hardware for it float32 is many times faster, and only rounds once too."""
    return a @ b if _has_onednn() else (a.float() @ b.float()).bfloat16()
