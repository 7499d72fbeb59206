"""Parameter groups: factors on learning rate and weight decay."""

from __future__ import annotations

from typing import Any

from torch import nn


def decay_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Two groups {"names", "lr", "decay"}: no weight decay for vectors and biases, full decay for all else.

    MAE's rule: mask token and frame identity embeddings are three-dimensional and therefore decay.
    """
    plain, decayed = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (plain if parameter.ndim <= 1 or name.endswith(".bias") else decayed).append(name)
    return [{"names": plain, "lr": 1.0, "decay": 0.0}, {"names": decayed, "lr": 1.0, "decay": 1.0}]
