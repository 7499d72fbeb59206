"""The CPU twins of attention, plain and with spatial-attention dropout (attention_cpu.cpp).

One kernel goes from query, key and value to the output, and one to the gradients; no matrix of all pairs is stored.
float32 or bfloat16 tensors [B, H, tokens, D] of any strides; sums are float32, and so are products of float32 tensors.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from dropmae.ops.compiler import Library

LANES = 16
"""The kernel pads the keys of a frame to multiples of it."""

_POINTER, _LONG = ctypes.c_void_p, ctypes.c_int64

library = Library(
    "attention_cpu.cpp",
    "attention, with dropout and without, runs in PyTorch's form, whose backward pass is some three times slower",
    (
        ("attention_forward", "pppppplfii"),
        ("attention_backward", "pppppfii"),
        ("random_uniform", "ilp"),
        ("has_threads", ""),
    ),
)


def takes(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the kernels can compute with these tensors; CannotCompile is left to `library`."""
    same = query.dtype == key.dtype == value.dtype and query.device.type == "cpu"
    return same and query.dtype in (torch.float32, torch.bfloat16)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T D**-0.5) V; query [B, H, L, D], key and value [B, H, M, D] -> [B, H, L, D]."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return _forward(query, key, value)[0]
    # PyTorch imports its compiler, more than a second, when an operator that it was told of is first called.
    out = _output(query)
    _run_forward(query, key, value, out, _norms(query), None, None, 0)
    return out


def dropped_attention(query: Tensor, key: Tensor, value: Tensor, count: int, keys: Tensor) -> Tensor:
    """`asad.attention` [B, H, L, D]; `keys` int32 [B, H], one for each head."""
    return _dropping_forward(query, key, value, count, keys)[0]


def dropped_pairs(query: Tensor, key: Tensor, count: int, keys: Tensor) -> Tensor:
    """bool [B, H, L, F]: which pairs `dropped_attention` drops."""
    bits = _dropping_forward(query, key, key, count, keys)[2]
    single = bits[..., None] >> torch.arange(8, dtype=torch.uint8) & 1
    return single.flatten(-2)[..., : query.shape[2] // 2].bool()


def uniform(key: int, count: int) -> Tensor:
    """What `noise.uniform` gives for one key, as the kernel makes it."""
    made = torch.empty(-(-count // LANES) * LANES)
    library().random_uniform(key, count, made.data_ptr())
    return made[:count]


@torch.library.custom_op("dropmae::attention_forward", mutates_args=(), device_types="cpu")
def _forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and log sum exp of each query's logits [B, H, L]."""
    out, norms = _output(query), _norms(query)
    _run_forward(query, key, value, out, norms, None, None, 0)
    return out, norms


@_forward.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    return _output(query), _norms(query)


@torch.library.custom_op("dropmae::dropping_forward", mutates_args=(), device_types="cpu")
def _dropping_forward(
    query: Tensor, key: Tensor, value: Tensor, count: int, keys: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, log sum exp of what is kept, and the dropped pairs as bits, uint8 [B, H, L, padded F / 8]."""
    out, norms, dropped = _output(query), _norms(query), _bits(query)
    _run_forward(query, key, value, out, norms, dropped, keys.contiguous(), count)
    return out, norms, dropped


@_dropping_forward.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, count: int, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _output(query), _norms(query), _bits(query)


@torch.library.custom_op("dropmae::attention_backward", mutates_args=(), device_types="cpu")
def _backward(
    query: Tensor, key: Tensor, value: Tensor, grad: Tensor, norms: Tensor, dropped: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    tensors = [_rows(tensor) for tensor in (query, key, value, grad.to(query.dtype))]
    made = _output(query), _output(key), _output(key)
    library().attention_backward(
        *_views([*tensors, *made]),
        norms.data_ptr(),
        None if dropped is None else dropped.data_ptr(),
        _shape(query, key),
        query.shape[-1] ** -0.5,
        query.dtype is torch.bfloat16,
        torch.get_num_threads(),
    )
    return made


@_backward.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, grad: Tensor, norms: Tensor, dropped: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return _output(query), _output(key), _output(key)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:3], *output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    query, key, value, norms, *dropped = ctx.saved_tensors
    rest = (None, None) if dropped else ()
    if grad is None:
        return None, None, None, *rest
    return *_backward(query, key, value, grad, norms, dropped[0] if dropped else None), *rest


_forward.register_autograd(_differentiate, setup_context=_keep)
_dropping_forward.register_autograd(_differentiate, setup_context=_keep)


def _run_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    norms: Tensor,
    dropped: Tensor | None,
    keys: Tensor | None,
    count: int,
) -> None:
    query, key, value = (_rows(tensor) for tensor in (query, key, value))
    library().attention_forward(
        *_views([query, key, value, out]),
        norms.data_ptr(),
        None if dropped is None else dropped.data_ptr(),
        None if keys is None else keys.data_ptr(),
        _shape(query, key),
        count,
        query.shape[-1] ** -0.5,
        query.dtype is torch.bfloat16,
        torch.get_num_threads(),
    )


def _output(like: Tensor) -> Tensor:
    """[B, H, L, D] that is [B, L, H, D] in memory, so that joining the heads copies nothing."""
    b, heads, length, depth = like.shape
    return like.new_empty(b, length, heads, depth).transpose(1, 2)


def _norms(query: Tensor) -> Tensor:
    return torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)


def _bits(query: Tensor) -> Tensor:
    width = -(-(query.shape[2] // 2) // LANES) * LANES // 8
    return torch.empty(*query.shape[:-1], width, dtype=torch.uint8, device=query.device)


def _rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _shape(query: Tensor, key: Tensor) -> Any:
    b, heads, length, depth = query.shape
    return (_LONG * 5)(b, heads, length, key.shape[2], depth)


def _views(tensors: list[Tensor]) -> tuple[Any, Any]:
    """Pointers and strides as C arrays."""
    strides = [stride for tensor in tensors for stride in tensor.stride()[:3]]
    pointers = [tensor.data_ptr() for tensor in tensors]
    return (_POINTER * len(pointers))(*pointers), (_LONG * len(strides))(*strides)
