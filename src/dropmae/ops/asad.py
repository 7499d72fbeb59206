"""Adaptive spatial-attention dropout (ASAD), DropMAE section 3.2.

Two frames of F tokens each are attended jointly, L = 2F. With S the row-softmax of the logits A [L, L],

    f_tem(i) = max over keys j of the other frame of S_ij
    W_ij     = f_tem(i) S_ij / (sum over keys j' != i of the same frame of S_ij')       j of the same frame, j != i

and N_d = int(P (F - 1)) L pairs (i, j), drawn from W without replacement and jointly over all queries of one sample
and head, are removed from the attention. As in the official code 1e-6 is added to f_tem and to every same-frame S_ij.
A query's attention to itself and to the other frame is never dropped, and no gradient flows through the choice.

The draw is an exponential race: the N_d largest of W_ij / E_ij with E_ij ~ Exp(1) have the distribution of
sequential sampling without replacement. E is a hash of the sample's key, the head and the pair (`ops.noise`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dropmae.ops import noise

EPSILON = 1e-6


def drop_count(ratio: float, frame_tokens: int) -> int:
    """N_d per sample and head for dropout ratio P and F tokens per frame; the product is floored before times L.

    ValueError where P is out of [0, 1], or positive and so small that nothing would be dropped.
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"the spatial-attention dropout ratio P must be in [0, 1], not {ratio}")
    per_query = int(ratio * (frame_tokens - 1))
    if ratio > 0 and per_query == 0:
        raise ValueError(
            f"P = {ratio} would drop nothing: with {frame_tokens} tokens a frame it must be at least "
            f"{1 / max(frame_tokens - 1, 1):.4f} (P = 0 is TwinMAE)"
        )
    return per_query * 2 * frame_tokens


def drop_weights(logits: Tensor) -> Tensor:
    """W [..., L, F] in float32 from logits [..., L, L]; column j of row i is key j of i's own frame."""
    half = logits.shape[-1] // 2
    share = torch.softmax(logits.float(), dim=-1)
    same, other = _split(share, half)
    temporal = other.amax(-1, keepdim=True) + EPSILON
    spatial = (same + EPSILON).masked_fill(_self_pairs(half, logits.device), 0.0)
    return temporal * spatial / spatial.sum(-1, keepdim=True)


def draw_pairs(weights: Tensor, count: int, key: Tensor) -> Tensor:
    """bool [..., L, F], exactly `count` True per leading index: pairs drawn from W without replacement.

    `weights` [..., L, F], non-negative; `key` int32 [...], one per sample and head.
    """
    flat = weights.flatten(-2)
    race = flat / noise.exponential(key, flat.shape[-1])
    chosen = torch.topk(race, count, dim=-1, sorted=False).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(-1, chosen, True).view(weights.shape)


def spread(pairs: Tensor) -> Tensor:
    """bool [..., L, L] over all keys from pairs [..., L, F] over the keys of the query's own frame."""
    first, second = pairs.chunk(2, dim=-2)
    nothing = torch.zeros_like(first)
    return torch.cat([torch.cat([first, nothing], -1), torch.cat([nothing, second], -1)], -2)


def attention(query: Tensor, key: Tensor, value: Tensor, count: int, stream: Tensor) -> Tensor:
    """Softmax attention of which `count` within-frame pairs per sample and head are removed, [B, H, L, D].

    `query`, `key`, `value` [B, H, L, D]: the first L/2 tokens are one frame, the others the other. `stream` int32 [B]:
    the key from which the random numbers of each sample follow. The logits are scaled by D**-0.5. Nothing is rescaled
    for what was dropped.
    """
    heads = torch.arange(query.shape[1], dtype=torch.int32, device=query.device)
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    with torch.no_grad():
        pairs = draw_pairs(drop_weights(logits), count, noise.fold(stream[:, None], heads))
        dropped = spread(pairs)
    share = torch.softmax(logits.float().masked_fill(dropped, float("-inf")), dim=-1)
    return share.to(value.dtype) @ value


def _split(share: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Same-frame and other-frame columns [..., L, F] of a matrix [..., L, L]."""
    top, bottom = share[..., :half, :], share[..., half:, :]
    same = torch.cat([top[..., :half], bottom[..., half:]], dim=-2)
    other = torch.cat([top[..., half:], bottom[..., :half]], dim=-2)
    return same, other


def _self_pairs(half: int, device: torch.device) -> Tensor:
    return torch.eye(half, dtype=torch.bool, device=device).repeat(2, 1)
