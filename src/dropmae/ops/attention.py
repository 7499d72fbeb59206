"""Softmax attention, in the form that is fastest where it runs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dropmae.ops import attention_cpu, compiler, switch

EXPLICIT_TOKENS = 256
"""Longest sequence for which training in bfloat16 on a CPU forms the attention matrix."""


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T D**-0.5) V, softmax in float32; query [B, H, L, D], key and value [B, H, M, D] -> [B, H, L, D].

    PyTorch's fused kernel, but for training on a CPU, where its backward pass takes two to ten times as long as the
    others (measured with torch 2.13 on AVX512-BF16): there bfloat16 forms the attention matrix up to a few hundred
    tokens, and all else goes through the compiled kernel of `attention_cpu`.
    """
    if query.device.type == "cpu" and torch.is_grad_enabled():
        form = _form(query.dtype, key.shape[-2])
        if form == "explicit":
            logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
            return torch.softmax(logits.float(), dim=-1).to(value.dtype) @ value
        if form == "compiled" and attention_cpu.takes(query, key, value):
            return attention_cpu.attention(query, key, value)
    return functional.scaled_dot_product_attention(query, key, value)


@torch.compiler.assume_constant_result
def _form(dtype: torch.dtype, tokens: int) -> str:
    """How to train on a CPU: "explicit", "compiled", or "fused", which is also what the reference form says."""
    if switch.form() == "reference":
        return "fused"
    if dtype == torch.bfloat16 and tokens <= EXPLICIT_TOKENS:
        return "explicit"
    if switch.form() == "torch" or torch.cpu._is_amx_tile_supported():  # not measured against AMX
        return "fused"
    try:
        attention_cpu.library()
    except compiler.CannotCompile as reason:
        switch.note(f"attention runs in PyTorch's kernel, whose backward pass is some three times slower: {reason}")
        return "fused"
    return "compiled"
