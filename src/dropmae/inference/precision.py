"""The precision in which a trained task is used."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import torch
from torch import nn

from dropmae.nn.int8 import to_int8
from dropmae.training.distributed import supports_bf16

Precision = Literal["auto", "bf16", "fp32", "int8"]
"""auto: bf16 where the hardware multiplies it, else fp32; int8: the transformer's linear layers in 8 bits, on a CPU."""


def settle(task: nn.Module, precision: Precision, device: torch.device) -> bool:
    """Prepares a task on `device` to be used in this precision, in place; whether it then runs `within` bfloat16.

    ValueError for int8 elsewhere than on a CPU, or of a task without a transformer of ours.
    """
    if precision == "int8":
        if device.type != "cpu":
            raise ValueError(f"int8 is for CPUs; on {device.type} take bf16")
        if not to_int8(task):
            raise ValueError(f"{type(task).__name__.lower()} has no transformer whose layers could be int8")
    half = precision == "bf16" or (precision != "fp32" and supports_bf16(device))
    if half:  # else autocast would convert the matrices anew for every frame
        for part in task.modules():
            if isinstance(part, (nn.Linear, nn.Conv2d)):
                part.to(torch.bfloat16)
    return half


def within(half: bool, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast to bfloat16, if `half`."""
    return torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext()
