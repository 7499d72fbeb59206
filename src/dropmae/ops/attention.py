"""Softmax attention, in the form that is fastest where it runs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dropmae.ops import attention_cpu, compiler, switch

EXPLICIT_TOKENS = 256
"""Longest sequence for which training in bfloat16 on a CPU forms the attention matrix."""
BLOCK = 256
"""Queries whose logits are formed together where nothing is trained."""


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T D**-0.5) V, softmax in float32; query [B, H, L, D], key and value [B, H, M, D] -> [B, H, L, D].

    PyTorch's fused kernel, but for training on a CPU, where its backward pass takes two to ten times as long as the
    others (measured with torch 2.13 on AVX512-BF16): there bfloat16 forms the attention matrix up to a few hundred
    tokens, and all else goes through the compiled kernel of `attention_cpu`. And but for bfloat16 without gradient,
    which it multiplies no faster than float32: `in_blocks` takes 0.4 of its time at 3,240 tokens, with the logits in
    bfloat16.
    """
    if query.device.type == "cpu" and torch.is_grad_enabled():
        form = _form(query.dtype, key.shape[-2])
        if form == "explicit":
            logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
            return torch.softmax(logits.float(), dim=-1).to(value.dtype) @ value
        if form == "compiled" and attention_cpu.takes(query, key, value):
            return attention_cpu.attention(query, key, value)
    if _blocks(query, key):
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


def _blocks(query: Tensor, key: Tensor) -> bool:
    """Whether queries go block by block: without gradient, in bfloat16 on a CPU, in long sequences."""
    long = query.dtype == torch.bfloat16 and key.shape[-2] > EXPLICIT_TOKENS
    plain = query.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return long and plain and switch.form() != "reference"


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
