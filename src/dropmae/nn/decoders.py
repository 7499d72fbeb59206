"""Decoders of vision transformers: pixels of hidden patches from what was encoded of the others, or of another frame.

Shapes: B samples, N patches of a frame (h x w, row-major), L tokens, C width, H heads.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from dropmae.nn import masking
from dropmae.nn.vit import MLP, Attend, Attention, Block, FrameEmbeddings, Linear, Positions, clip_places, initialize
from dropmae.ops.attention import attention


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to the tokens of a context; the rows of `kv` are key, value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        assert width % heads == 0
        self.heads = heads
        self.q = Linear(width, width)
        self.kv = Linear(width, 2 * width)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[B, L, C] attending to [B, M, C] -> [B, L, C]."""
        b, length, width = x.shape
        query = self.q(x).view(b, length, self.heads, -1).transpose(1, 2)
        key, value = self.kv(context).view(b, context.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        out = attention(query, key, value)
        return self.proj(out.transpose(1, 2).reshape(b, length, width))


Step = Literal["cross", "self", "mlp"]


class CrossBlock(nn.Module):
    """A block that also attends to a context; `steps` names its parts in order, any of which may be missing.

    Pre-norm, where the context has a norm of its own, or (`post_norm`) each part's norm comes after its residual sum.
    """

    def __init__(self, width: int, heads: int, steps: tuple[Step, ...], hidden: int, post_norm: bool = False) -> None:
        super().__init__()
        self.steps, self.post_norm = steps, post_norm
        if "cross" in steps:
            self.norm_cross = nn.LayerNorm(width, eps=1e-6)
            self.norm_context = nn.Identity() if post_norm else nn.LayerNorm(width, eps=1e-6)
            self.cross = CrossAttention(width, heads)
        if "self" in steps:
            self.norm1 = nn.LayerNorm(width, eps=1e-6)
            self.attn = Attention(width, heads)
        if "mlp" in steps:
            self.norm2 = nn.LayerNorm(width, eps=1e-6)
            self.mlp = MLP(width, hidden)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """[B, L, C] with a context [B, M, C] -> [B, L, C]; without one that step is left out."""
        for step in self.steps if context is not None else [step for step in self.steps if step != "cross"]:
            if step == "cross":
                norm, part = self.norm_cross, partial(self.cross, context=self.norm_context(context))
            elif step == "self":
                norm, part = self.norm1, self.attn
            else:
                norm, part = self.norm2, self.mlp
            x = norm(x + part(x)) if self.post_norm else x + part(norm(x))
        return x


class Decoder(nn.Module):
    """Light transformer that predicts the pixels of every patch from the encoded visible ones."""

    def __init__(
        self,
        encoder_width: int,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        *,
        frames: int = 1,
        learned_grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.embed = Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.positions = Positions(width, learned_grid)
        self.frame_embed = FrameEmbeddings(width) if frames == 2 else None
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pred = Linear(width, patch * patch * 3)
        initialize(self)

    def places(self, grid: tuple[int, int], frames: int = 1) -> Tensor:
        """[1, frames N, C]: position plus frame identity of every token."""
        position = self.positions(grid, self.mask_token.device)
        if self.frame_embed is None:
            return position if frames == 1 else position.repeat(1, frames, 1)
        return torch.cat([position + self.frame_embed(frame) for frame in range(frames)], dim=1)

    def fill(self, latent: Tensor, mask: masking.Mask) -> Tensor:
        """Tokens [B, L, C'] in their positions: the projected latents [B, K, C], mask tokens elsewhere."""
        seen = self.embed(latent)
        hidden = self.mask_token.to(seen.dtype).expand(len(seen), mask.restore.shape[1] - seen.shape[1], -1)
        return masking.take(torch.cat([seen, hidden], dim=1), mask.restore)

    def decode(self, tokens: Tensor, attends: list[Attend | None] | None = None) -> Tensor:
        """All blocks, norm and pixel prediction, [B, L, C'] -> [B, L, p p 3]; one `attend` per layer if given."""
        for layer, block in enumerate(self.blocks):
            tokens = block(tokens, attends[layer] if attends else None)
        return self.pred(self.norm(tokens))


class CrossDecoder(Decoder):
    """A decoder whose tokens, those of one frame, also attend to a context: the encoded tokens of another frame."""

    def __init__(
        self,
        encoder_width: int,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        *,
        steps: tuple[Step, ...],
        hidden: int,
        post_norm: bool = False,
    ) -> None:
        super().__init__(encoder_width, width, 0, heads, patch)
        self.blocks = nn.ModuleList(CrossBlock(width, heads, steps, hidden, post_norm) for _ in range(depth))
        initialize(self.blocks)

    def decode_beside(self, tokens: Tensor, context: Tensor | None) -> Tensor:
        """All blocks, norm and pixel prediction, [B, L, C'] beside a context [B, M, C'], if any -> [B, L, p p 3]."""
        for block in self.blocks:
            tokens = block(tokens, context)
        return self.pred(self.norm(tokens))


class ClipDecoder(Decoder):
    """A decoder that predicts the pixels of whole tubelets."""

    def __init__(self, encoder_width: int, width: int, depth: int, heads: int, patch: int, tubelet: int) -> None:
        super().__init__(encoder_width, width, depth, heads, patch)
        self.tubelet = tubelet
        self.pred = Linear(width, tubelet * patch * patch * 3)
        initialize(self.pred)

    def places(self, grid: tuple[int, int], frames: int = 1) -> Tensor:
        """[1, slots N, C] for a clip of `frames` frames."""
        return clip_places(self.positions(grid, self.mask_token.device), frames // self.tubelet)
