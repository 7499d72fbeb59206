"""One process or many: what torchrun sets is used, and without it everything is rank 0 of 1."""

from __future__ import annotations

import os
from typing import Any

import torch


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    return rank() == 0


def pick_device(name: str = "auto") -> torch.device:
    """The device this process computes on; "auto" takes its own GPU where there is one."""
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    kind, colon, index = str(name).partition(":")
    if kind not in there or (colon and not index.isdecimal()):
        raise ValueError(f"--device {name}: no such kind of device; say auto, cpu, cuda, cuda:N or mps")
    if not there[kind]:
        raise ValueError(f"--device {name}: this machine has no {kind.upper()} device that torch can use")
    if kind != "cuda":
        return torch.device(kind)
    number = int(index or os.environ.get("LOCAL_RANK", "0"))
    if number >= there[kind]:
        raise ValueError(f"--device {name}: GPUs are numbered from 0, and this machine has {there[kind]}")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def start(device: torch.device) -> None:
    """Joins the process group that torchrun describes (NCCL on GPUs, gloo on CPUs), if there is one."""
    if world() > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")


def stop() -> None:
    """Leaves the process group."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def gather(value: Any) -> list[Any]:
    """`value` of every rank, in rank order, on every rank."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    torch.distributed.all_gather_object(values, value)
    return values


def first(value: int) -> int:
    """`value` of rank 0, on every rank."""
    if world() > 1:
        values = [value]
        torch.distributed.broadcast_object_list(values)
        value = values[0]
    return value


def mean(value: torch.Tensor) -> torch.Tensor:
    """The mean of a scalar tensor over ranks, on every rank."""
    if world() > 1:
        value = value.detach().clone()
        torch.distributed.all_reduce(value)
        value /= world()
    return value


def barrier() -> None:
    if world() > 1:
        torch.distributed.barrier()


def supports_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 natively: GPUs from Ampere on, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False
