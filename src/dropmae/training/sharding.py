"""Fully sharded training (FSDP2; Zhao et al., arXiv 2304.11277): each process keeps a share of weights and moments.

What the blocks hold in matrices is gathered while it is used and sharded again; norms, tokens and projections around
the blocks are few and stay in float32 from the forward to the backward pass, so that bfloat16 rounds exactly what
autocast rounds, and the losses are those of DistributedDataParallel.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from dropmae.nn.decoders import CrossBlock
from dropmae.nn.vit import Block
from dropmae.training import distributed


def shard(module: nn.Module, device: torch.device, bf16: bool) -> nn.Module:
    """Shards `module` in place over all processes and moves it to `device`; needs a process group.

    The attention and MLP of a block are one group, whichever code calls them: trackers do not go through the block.
    Gradients are averaged in float32, also where `bf16` gathers weights in bfloat16.
    """
    # A block's own sums are out of place, which is what this warning asks for.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    mesh = init_device_mesh(device.type, (distributed.world(),))
    half = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in [part for part in module.modules() if isinstance(part, (Block, CrossBlock))]:
        fully_shard([part for part in block.children() if _has_matrices(part)], mesh=mesh, mp_policy=half)
    fully_shard(module, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
    return module


def _has_matrices(part: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in part.parameters())


def hold(parameter: nn.Parameter) -> nn.Parameter:
    """What an optimizer works on: the parameter, or this process's share of it, which is the same memory."""
    return nn.Parameter(parameter.detach().to_local()) if isinstance(parameter, DTensor) else parameter


def share(tensor: Tensor) -> Tensor:
    """This process's share of a sharded tensor; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def spread_as(own: Tensor, parameter: Tensor) -> Tensor:
    """The sharded tensor of which `own` is this process's share, laid out as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return own
    shape, stride = parameter.shape, parameter.stride()
    return DTensor.from_local(own, parameter.device_mesh, parameter.placements, shape=shape, stride=stride)


def total_norm(shares: list[Tensor]) -> Tensor:
    """The 2-norm over the shares of all processes, on each of them; summed in double precision."""
    squares = torch.nn.utils.get_total_norm(shares).double().square()
    torch.distributed.all_reduce(squares)
    return squares.sqrt().float()


@torch.no_grad()
def collect(source: nn.Module, target: nn.Module) -> None:
    """Fills `target` on the first process with the whole of the sharded `source`; every process takes part."""
    own = target.state_dict()
    for name, tensor in source.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor  # one at a time, to save memory
        if distributed.is_main():
            own[name].copy_(whole)


@torch.no_grad()
def settle(module: nn.Module) -> None:
    """Gives every process the buffers of the first, such as running statistics, as DistributedDataParallel does."""
    for buffer in module.buffers():
        torch.distributed.broadcast(buffer, 0)
