"""A network's linear layers in 8-bit integers, for use on a CPU: twice bfloat16's rate at half its memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dropmae.nn.vit import MLP, Linear
from dropmae.ops import int8
from dropmae.ops.int8 import Int8


class Int8Linear(nn.Module):
    """A trained linear layer whose weight, and whose input as it comes, are int8 (`ops.int8`); without gradients.

    Its output is bfloat16 under such an autocast, else of the input's dtype.
    """

    values: Tensor
    scales: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        values, scales = int8.quantize(layer.weight.detach().float())
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", layer.bias.detach().float())

    @property
    def weight(self) -> Int8:
        """[N, K]."""
        return Int8(self.values, self.scales)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        rows = int8.quantize(x.flatten(0, -2))
        return int8.linear(rows, self.weight, self.bias, _dtype(x)).unflatten(0, x.shape[:-1])


class Int8MLP(nn.Module):
    """A trained MLP, likewise; what is between its layers is int8 too."""

    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        self.fc1, self.fc2 = Int8Linear(mlp.fc1), Int8Linear(mlp.fc2)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        rows = int8.quantize(x.flatten(0, -2))
        hidden = int8.gelu_linear(rows, self.fc1.weight, self.fc1.bias)
        return int8.linear(hidden, self.fc2.weight, self.fc2.bias, _dtype(x)).unflatten(0, x.shape[:-1])


def to_int8(network: nn.Module) -> int:
    """Puts the transformer's linear layers in 8 bits, in place; how many layers that were."""
    count = 0
    for module in list(network.modules()):
        for name, part in list(module.named_children()):
            if isinstance(part, MLP):
                setattr(module, name, Int8MLP(part))
                count += 2
            elif isinstance(part, Linear) and not isinstance(module, MLP):
                setattr(module, name, Int8Linear(part))
                count += 1
    return count


def layers_in_int8(network: nn.Module) -> int:
    """How many of its layers are in 8 bits."""
    return sum(isinstance(module, Int8Linear) for module in network.modules())


def _dtype(x: Tensor) -> torch.dtype:
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
    return torch.bfloat16 if half else x.dtype
