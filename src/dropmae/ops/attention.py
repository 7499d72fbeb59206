"""Softmax attention, in the form that is fastest where it runs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dropmae.ops import attention_cpu, switch

BLOCK = 256
"""Queries whose logits are formed together where nothing is trained."""


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T D**-0.5) V, softmax in float32; query [B, H, L, D], key and value [B, H, M, D] -> [B, H, L, D].

    On a CPU through the compiled kernel of `attention_cpu`, by what was measured with torch 2.13 and AVX512-BF16: its
    backward pass takes a half to a tenth of PyTorch's time, its forward pass 0.4 to 0.7. Not for float32 sequences of a
    few hundred tokens without gradient, nor for short ones trained in bfloat16, which form the attention matrix. Where
    it cannot be compiled, long sequences in bfloat16 without gradient go `in_blocks`; else PyTorch's fused kernel.
    """
    traced = torch.compiler.is_compiling() and not torch.is_grad_enabled()  # an exported graph has PyTorch's operators
    form = (
        "fused" if traced else switch.attention(query.device.type, query.dtype, key.shape[-2], torch.is_grad_enabled())
    )
    if form == "explicit":
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        return torch.softmax(logits.float(), dim=-1).to(value.dtype) @ value
    if form == "compiled" and attention_cpu.takes(query, key, value):
        return attention_cpu.attention(query, key, value)
    if form == "blocks":
        return in_blocks(query, key, value)
    return functional.scaled_dot_product_attention(query, key, value)


def in_blocks(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of a few queries at a time, so that their logits stay in the processor's cache; has no gradient."""
    scaled = (query * query.shape[-1] ** -0.5).flatten(0, 1)
    keys, values = key.transpose(-2, -1).flatten(0, 1).contiguous(), value.flatten(0, 1).contiguous()
    out = torch.empty_like(scaled)
    with torch.autocast(query.device.type, enabled=False):  # softmax reads and writes bfloat16, and adds in float32
        for head in range(len(scaled)):
            for start in range(0, scaled.shape[1], BLOCK):
                rows = slice(start, start + BLOCK)
                share = torch.softmax(scaled[head, rows] @ keys[head], dim=-1)
                torch.mm(share, values[head], out=out[head, rows])
    return out.unflatten(0, query.shape[:2])
