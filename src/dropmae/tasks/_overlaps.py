"""How far boxes overlap, as losses need it: with gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def overlaps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al., CVPR 2019), each [B], of boxes x0 y0 x1 y1 [B, 4]."""
    area = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(1) for box in (first, second)]
    inner = torch.minimum(first[:, 2:], second[:, 2:]) - torch.maximum(first[:, :2], second[:, :2])
    outer = torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])
    shared, hull = inner.clamp(min=0).prod(1), outer.clamp(min=0).prod(1).clamp(min=1e-12)
    union = (area[0] + area[1] - shared).clamp(min=1e-12)
    iou = shared / union
    return iou, iou - (hull - union) / hull
