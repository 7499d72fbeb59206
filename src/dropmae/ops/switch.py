"""Which form of an op runs: its plain PyTorch meaning, or the fastest one that is at hand; decided here for all.

The environment variable DROPMAE_OPS holds one of FORMS for a whole program, `use("reference")` for a block of code.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch
from torch import Tensor

from dropmae.ops.compiler import Library

FORMS = ("fast", "torch", "reference")
"""fast: the best of all; torch: nothing but PyTorch, arranged for speed; reference: the meaning, literally."""

EXPLICIT_TOKENS = 128
"""Longest sequence for which training in bfloat16 on a CPU forms the attention matrix."""
SHORT_TOKENS = 256
"""Longest sequence that PyTorch's kernel takes on a CPU in float32 where nothing is trained."""

_chosen: ContextVar[str | None] = ContextVar("form", default=None)


def form() -> str:
    """The form asked for: by the innermost `use`, else by DROPMAE_OPS, else "fast"."""
    return _chosen.get() or _known(os.environ.get("DROPMAE_OPS") or "fast")


@contextmanager
def use(name: str) -> Iterator[None]:
    """Runs the block, in this thread alone, with the op form `name`; ValueError if it is none of FORMS."""
    before = _chosen.set(_known(name))
    try:
        yield
    finally:
        _chosen.reset(before)


@cache
def note(fallback: str) -> None:
    """Warns, once in a program, that a slower form with the same result is taken, and why."""
    warnings.warn(fallback, RuntimeWarning, stacklevel=3)


def _known(name: str) -> str:
    if name not in FORMS:
        raise ValueError(f"DROPMAE_OPS must be one of {', '.join(FORMS)}, not {name!r}")
    return name


# ---------------------------------------------------------------- each op's


def compiled(library: Library) -> bool:
    """Whether its kernels can be had; where not, that and the reason are said, once."""
    if (obstacle := library.obstacle) is not None:
        note(obstacle)
    elif ("has_threads", "") in library.functions and not library().has_threads():
        note("attention on this CPU uses one thread: the C++ compiler has no OpenMP")
    return obstacle is None


def constant(function: Callable[..., str]) -> Callable[..., str]:
    """As torch.compiler.assume_constant_result, without the seconds that it takes to import the compiler."""
    vars(function)["_dynamo_marked_constant"] = True
    return function


@constant
def attention(device: str, dtype: torch.dtype, tokens: int, trains: bool) -> str:
    """Of attention to so many keys: "explicit", "compiled", "blocks", or "fused", which is also the reference form."""
    half = dtype == torch.bfloat16
    if device != "cpu" or form() == "reference":
        return "fused"
    if trains and half and tokens <= EXPLICIT_TOKENS:
        return "explicit"
    if not trains and not half and tokens <= SHORT_TOKENS:
        return "fused"
    from dropmae.ops import attention_cpu

    measured = form() == "fast" and not torch.cpu._is_amx_tile_supported()
    if measured and compiled(attention_cpu.library):
        return "compiled"
    return "blocks" if half and not trains and tokens > SHORT_TOKENS else "fused"


@constant
def dropped_attention(device: str, dtype: torch.dtype | None, depth: int) -> str:
    """Of attention dropout in heads of `depth` channels: what "fast" comes to, "cpu", "triton" or "torch", or the form.

    dtype None stands for query, key and value that differ in it.
    """
    chosen = form()
    if chosen != "fast":
        return chosen
    if device == "cuda":
        reason = _triton_obstacle(dtype, depth)
        if reason is None:
            return "triton"
        note(f"attention dropout on this GPU runs in plain PyTorch and forms the matrix of all pairs: {reason}")
    elif device == "cpu" and dtype in (torch.float32, torch.bfloat16):
        from dropmae.ops import attention_cpu

        if compiled(attention_cpu.library):
            return "cpu"
    else:
        note(f"attention dropout runs in plain PyTorch: no kernel takes {dtype or 'mixed types'} on {device}")
    return "torch"


def _triton_obstacle(dtype: torch.dtype | None, depth: int) -> str | None:
    """Why the Triton kernels cannot serve here, or None."""
    try:
        from dropmae.ops import asad_triton
    except ImportError as error:
        return f"Triton cannot be imported ({error}); pip install 'dropmae[kernels]' brings it"
    return asad_triton.obstacle(dtype, depth)


def linear(x: Tensor, weight: Tensor) -> bool:
    """Of linear layers: whether they are bfloat16 on a CPU and PyTorch's own compiler does not look after them."""
    if x.device.type != "cpu" or torch.compiler.is_compiling() or form() != "fast":
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") is torch.bfloat16
    return x.dtype is torch.bfloat16 and weight.dtype is torch.bfloat16
