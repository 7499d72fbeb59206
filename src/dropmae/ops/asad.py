"""Adaptive spatial-attention dropout (ASAD), DropMAE section 3.2.

Two frames of F tokens each are attended jointly, L = 2F. With S the row-softmax of the logits A [L, L],

    f_tem(i) = max over keys j of the other frame of S_ij
    W_ij     = f_tem(i) S_ij / (sum over keys j' != i of the same frame of S_ij')       j of the same frame, j != i

and N_d = int(P (F - 1)) L pairs (i, j), drawn from W without replacement and jointly over all queries of one sample
and head, are removed from the attention. As in the official code 1e-6 is added to f_tem and to every same-frame S_ij.
A query's attention to itself and to the other frame is never dropped, and no gradient flows through the choice.

The draw is an exponential race: the N_d largest of W_ij / E_ij with E_ij ~ Exp(1) have the distribution of
sequential sampling without replacement. E is a hash of the sample's key, the head and the pair (`ops.noise`). Logits
are float32 at least and statistics float32, whatever precision query and key come in.

`attention` is the op. Its forms (`ops.switch`) draw with the same numbers, so they drop the same pairs, but for those
few whose races differ by no more than rounding: "reference" is what stands above; "torch" does less work for the same
result; "fast" is compiled kernels where they can be had (`attention_cpu`, on a GPU `asad_triton`), and "torch"
elsewhere. docs/kernels.md tells how they work.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae.ops import noise, switch

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


def attention(query: Tensor, key: Tensor, value: Tensor, count: int, stream: Tensor) -> Tensor:
    """Softmax attention of which `count` within-frame pairs per sample and head are removed, [B, H, L, D].

    `query`, `key`, `value` [B, H, L, D]: the first L/2 tokens are one frame, the others the other. `stream` int32 [B]:
    the key from which the random numbers of each sample follow. The logits are scaled by D**-0.5. Nothing is rescaled
    for what was dropped. ValueError where L is odd, or `count` more than there are pairs to drop.
    """
    length = query.shape[-2]
    if length % 2:
        raise ValueError(f"{length} tokens are not two frames of equal size (a class token cannot take part)")
    if not 0 <= count <= length * (length // 2 - 1):
        raise ValueError(
            f"cannot drop {count} of the {length * (length // 2 - 1)} within-frame pairs of {length} tokens"
        )
    if count == 0:
        return functional.scaled_dot_product_attention(query, key, value)
    heads = torch.arange(query.shape[1], dtype=torch.int32, device=query.device)
    keys = noise.fold(stream[:, None], heads)
    dtype = query.dtype if query.dtype == key.dtype == value.dtype else None
    form = switch.dropped_attention(query.device.type, dtype, query.shape[-1])
    if form == "reference":
        return _attention(query, key, value, count, keys)
    if form == "cpu":
        from dropmae.ops import attention_cpu

        return attention_cpu.dropped_attention(query, key, value, count, keys)
    if form == "triton":
        from dropmae.ops import asad_triton

        return asad_triton.attention(query, key, value, count, keys)
    return _lean_attention(query, key, value, count, keys)


# The meaning


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
    threshold = torch.topk(race, count, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    return _winners(race, threshold, count).view(weights.shape)


def spread(pairs: Tensor) -> Tensor:
    """bool [..., L, L] over all keys from pairs [..., L, F] over the keys of the query's own frame."""
    first, second = pairs.chunk(2, dim=-2)
    nothing = torch.zeros_like(first)
    return torch.cat([torch.cat([first, nothing], -1), torch.cat([nothing, second], -1)], -2)


def _attention(query: Tensor, key: Tensor, value: Tensor, count: int, keys: Tensor) -> Tensor:
    """`attention`, with the keys int32 [B, H] of each head."""
    logits = _logits(query, key)
    with torch.no_grad():
        dropped = spread(draw_pairs(drop_weights(logits), count, keys))
    share = torch.softmax(logits.masked_fill(dropped, float("-inf")), dim=-1)
    return share.to(value.dtype) @ value


def _logits(query: Tensor, key: Tensor) -> Tensor:
    """Scaled logits [..., L, L] in at least float32, under autocast too."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        return (query.to(dtype) * query.shape[-1] ** -0.5) @ key.to(dtype).transpose(-2, -1)


def _winners(race: Tensor, threshold: Tensor, count: int) -> Tensor:
    """The `count` largest of race [..., n], whose least is `threshold` [..., 1]; of equal ones the first."""
    above, level = race > threshold, race == threshold
    room = count - above.sum(-1, keepdim=True)
    return above | (level & (level.cumsum(-1) <= room))


def _split(share: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Same-frame and other-frame columns [..., L, F] of a matrix [..., L, L]."""
    top, bottom = share[..., :half, :], share[..., half:, :]
    same = torch.cat([top[..., :half], bottom[..., half:]], dim=-2)
    other = torch.cat([top[..., half:], bottom[..., :half]], dim=-2)
    return same, other


def _self_pairs(half: int, device: torch.device) -> Tensor:
    return torch.eye(half, dtype=torch.bool, device=device).repeat(2, 1)


# The same, with less work


def _lean_attention(query: Tensor, key: Tensor, value: Tensor, count: int, keys: Tensor) -> Tensor:
    """`attention` with the pairs drawn a sample at a time, then masked in PyTorch's fused kernel.

    Training on a CPU forms the attention matrix instead: there the fused kernel's backward pass takes twice as long.
    """
    with torch.no_grad():
        kept = torch.stack([_lean_kept(q, k, count, n) for q, k, n in zip(query, key, keys)])
    if query.device.type == "cpu" and torch.is_grad_enabled():
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).masked_fill_(~kept, float("-inf"))
        return torch.softmax(logits, -1).to(value.dtype) @ value
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=kept)


def _lean_kept(query: Tensor, key: Tensor, count: int, keys: Tensor) -> Tensor:
    """bool [H, L, L], False where a pair is dropped, from query and key [H, L, D] of one sample."""
    heads, length, _ = query.shape
    half = length // 2
    # [query's frame, key's frame, H, F, F]; the softmax over both frames is never divided out
    logits = _logits(query, key).float().view(heads, 2, half, 2, half).permute(1, 3, 0, 2, 4)
    race = torch.empty(heads, 2, half, half, device=query.device)
    for frame in range(2):
        same, other = logits[frame, frame], logits[frame, 1 - frame]
        other_peak = other.amax(-1, keepdim=True)
        peak = torch.maximum(other_peak, same.amax(-1, keepdim=True))
        spatial = (same - peak).exp_()
        own = spatial.diagonal(dim1=-2, dim2=-1).clone().unsqueeze(-1)
        spatial.diagonal(dim1=-2, dim2=-1).zero_()
        within = spatial.sum(-1, keepdim=True)
        scale = 1 / (within + own + (other - peak).exp_().sum(-1, keepdim=True))
        temporal = (other_peak - peak).exp() * scale + EPSILON
        factor = temporal / (within * scale + EPSILON * (half - 1))
        torch.add(EPSILON * factor, spatial.mul_(scale * factor), out=race[:, frame])
        race[:, frame].diagonal(dim1=-2, dim2=-1).zero_()
    flat = race.view(heads, -1).div_(noise.exponential(keys, length * half))
    threshold = _at_rank(flat, count)
    drop = flat >= threshold
    if bool((drop.sum(-1) != count).any()):  # equal races at the threshold
        drop = _winners(flat, threshold, count)
    kept = torch.ones(heads, 2, half, 2, half, dtype=torch.bool, device=query.device)
    torch.logical_not(drop.view(heads, 2, half, half), out=kept.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2))
    return kept.view(heads, length, length)


def _at_rank(values: Tensor, count: int) -> Tensor:
    """The `count`-th largest of each row of float32 [n, m], as [n, 1]."""
    if values.device.type != "cpu":
        return torch.topk(values, count, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    place = values.shape[-1] - count
    return torch.from_numpy(np.partition(values.numpy(), place, axis=-1)[:, place, None])  # ten times topk's speed
