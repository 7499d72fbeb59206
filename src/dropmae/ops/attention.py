"""Softmax attention, fused where that is faster."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

EXPLICIT_TOKENS = 256
"""Longest sequence for which training in bfloat16 on a CPU forms the attention matrix."""


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T D**-0.5) V for [B, H, L, D], softmax in float32.

    The fused kernel, but for training in bfloat16 on a CPU: there its backward pass takes three to ten times as long
    as the explicit form up to a few hundred tokens (measured with torch 2.13 on AVX512-BF16).
    """
    if (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and torch.is_grad_enabled()
        and key.shape[-2] <= EXPLICIT_TOKENS
    ):
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        return torch.softmax(logits.float(), dim=-1).to(value.dtype) @ value
    return functional.scaled_dot_product_attention(query, key, value)
