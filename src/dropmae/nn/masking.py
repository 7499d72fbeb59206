"""Patches, masks and the masked-reconstruction loss (MAE, arXiv 2111.06377, as DropMAE uses them).

Shapes: B samples, T frames, N patches of one frame (h x w, row-major), L = T N, p pixels a patch side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


def as_frames(frames: Tensor | np.ndarray, device: torch.device) -> Tensor:
    """Frames [B, 3, H, W]: a tensor as it is; pictures uint8 [H, W, 3] or [B, H, W, 3] as `Video` gives them.

    ValueError for any other array.
    """
    if isinstance(frames, Tensor):
        return frames
    pictures = np.asarray(frames)
    if pictures.dtype != np.uint8 or pictures.ndim not in (3, 4) or pictures.shape[-1] != 3 or not pictures.size:
        raise ValueError(
            "an array of frames is uint8 [H, W, 3] or [B, H, W, 3], a tensor [B, 3, H, W]; this one is "
            f"{pictures.dtype} {list(pictures.shape)}"
        )
    batch = torch.from_numpy(np.ascontiguousarray(pictures.reshape(-1, *pictures.shape[-3:])))
    return batch.permute(0, 3, 1, 2).to(device)


def normalize(frames: Tensor) -> Tensor:
    """float32 frames [..., 3, H, W], ImageNet-normalised, from uint8 RGB; floating frames pass as they are."""
    if frames.is_floating_point():
        return frames
    mean = torch.tensor(MEAN, device=frames.device).view(3, 1, 1) * 255
    scale = 1 / (torch.tensor(DEVIATION, device=frames.device).view(3, 1, 1) * 255)
    return (frames.float() - mean) * scale


def denormalize(frames: Tensor) -> Tensor:
    """RGB frames [..., 3, H, W] in [0, 1] (clamped) from ImageNet-normalised ones."""
    mean = torch.tensor(MEAN, device=frames.device).view(3, 1, 1)
    deviation = torch.tensor(DEVIATION, device=frames.device).view(3, 1, 1)
    return (frames * deviation + mean).clamp(0, 1)


def grid_of(frames: Tensor, patch: int) -> tuple[int, int]:
    """(h, w) in patches of frames [..., H, W]; ValueError where a side is not a multiple of the patch."""
    height, width = frames.shape[-2:]
    if height % patch or width % patch or not height or not width:
        raise ValueError(f"a {height}x{width} picture cannot be cut into {patch}x{patch} patches: use multiples")
    return height // patch, width // patch


def patchify(frames: Tensor, patch: int) -> Tensor:
    """Patches [..., N, p p 3] of frames [..., 3, H, W]; within a patch row, column, channel, the channel fastest."""
    h, w = grid_of(frames, patch)
    cells = frames.unflatten(-1, (w, patch)).unflatten(-3, (h, patch))  # [..., 3, h, p, w, p]
    lead = frames.dim() - 3
    order = [*range(lead), *(lead + axis for axis in (1, 3, 2, 4, 0))]  # [..., h, w, p, p, 3]
    return cells.permute(order).flatten(-3).flatten(-3, -2)


def tubelets(frames: Tensor, patch: int, length: int) -> Tensor:
    """Tubelets [B, S N, t p p 3] of frames [B, T, 3, H, W], slot after slot; within one, frame after frame."""
    cut = patchify(frames, patch).unflatten(1, (-1, length))  # [B, S, t, N, p p 3]
    return cut.transpose(2, 3).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Frames [..., 3, H, W] from patches [..., N, p p 3] of one frame each: the inverse of `patchify`."""
    h, w = grid
    cells = patches.unflatten(-1, (patch, patch, 3)).unflatten(-4, (h, w))  # [..., h, w, p, p, 3]
    lead = patches.dim() - 2
    order = [*range(lead), *(lead + axis for axis in (4, 0, 2, 1, 3))]  # [..., 3, h, p, w, p]
    return cells.permute(order).flatten(-2).flatten(-3, -2)


class Mask(NamedTuple):
    """Which tokens of each sample an encoder sees."""

    keep: Tensor
    """int64 [B, K]: kept positions, in the order of the noise that chose them."""
    restore: Tensor
    """int64 [B, L]: for each position, its place in [kept, then masked] order."""
    masked: Tensor
    """bool [B, L]: True where the token is hidden and must be reconstructed."""


def kept_count(total: int, ratio: float) -> int:
    """Tokens kept of `total` at masking ratio `ratio`: int(total (1 - ratio)), at least one."""
    if not 0 <= ratio < 1:
        raise ValueError(f"the mask ratio must be in [0, 1), not {ratio}")
    return max(1, int(total * (1 - ratio)))


def random_mask(noise: Tensor, keep: int) -> Mask:
    """Keeps the `keep` positions of smallest noise [B, L]; the lower position wins a tie."""
    order = torch.argsort(noise, dim=1, stable=True)
    restore = torch.argsort(order, dim=1, stable=True)
    return Mask(order[:, :keep], restore, restore >= keep)


def slot_mask(noise: Tensor, keep: int) -> Mask:
    """A mask over S slots of N tokens that keeps the `keep` positions of smallest noise [B, S, N] in every slot."""
    slots, count = noise.shape[1:]
    order = torch.argsort(noise, dim=2, stable=True)
    rank = torch.argsort(order, dim=2, stable=True)
    slot = torch.arange(slots, device=noise.device)[:, None]
    restore = torch.where(rank < keep, slot * keep + rank, slots * keep + slot * (count - keep) + rank - keep)
    chosen = (order[:, :, :keep] + slot * count).flatten(1)
    return Mask(chosen, restore.flatten(1), (rank >= keep).flatten(1))


def keep_all(mask: Mask) -> Mask:
    """A mask over the same tokens that hides none of them and keeps them in their order."""
    order = torch.arange(mask.masked.shape[1], device=mask.masked.device).expand_as(mask.masked)
    return Mask(order, order, torch.zeros_like(mask.masked))


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, K] of tokens [B, L, D]."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def patch_target(patches: Tensor, norm_pix: bool) -> Tensor:
    """What is to be predicted for patches [..., D]: themselves, or each with its own mean and deviation removed.

    The variance is the unbiased one, plus 1e-6 under the root, as in MAE's code.
    """
    if not norm_pix:
        return patches
    mean = patches.mean(-1, keepdim=True)
    variance = patches.var(-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def patch_pixels(prediction: Tensor, patches: Tensor, norm_pix: bool) -> Tensor:
    """Pixel patches [..., D] from a prediction of `patch_target(patches, norm_pix)`: its inverse, for pictures.

    Where patches were normalised the network says nothing about their mean and deviation, so those of the true
    `patches` are put back, as is customary.
    """
    if not norm_pix:
        return prediction
    return prediction * (patches.var(-1, keepdim=True) + 1e-6).sqrt() + patches.mean(-1, keepdim=True)


def masked_loss(prediction: Tensor, target: Tensor, masked: Tensor) -> Tensor:
    """Mean over the masked patches of the batch of the mean squared error per patch.

    `prediction`, `target` [B, L, D]; `masked` bool [B, L], with at least one True.
    """
    error = (prediction.float() - target.float()).square().mean(-1)
    return (error * masked).sum() / masked.sum()
