"""The memory encoder: frames whose masks are known, and the frame whose masks are asked for, are encoded together.

As DropSeg has it (Wu et al., CVPR 2023, arXiv 2304.00571, section 3.4; its published code): a memory frame's tokens are
patches of its picture plus patches of one object's mask; they are frame z, the asked frame is frame x, and all tokens
attend to all others. Objects are told apart by nothing but their masks, so each is a row of its own. Every row attends
jointly, therefore nothing can be shared between rows but the embedded pictures.

R rows (one object of one video each), M memory frames, N = h w tokens of a frame, C width, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dropmae.nn import masking
from dropmae.nn.vit import Block, Encoder, resize_positions, sincos_table
from dropmae.ops.attention import attention

Grid = tuple[int, int]


class MemoryEncoder(Encoder):
    """A ViT over memory frames with a mask and one frame without, memory first.

    `table` is the grid of a fixed position table, the same for all frames, stretched by bicubic interpolation to the
    grid at hand; None computes sin-cos positions for that grid. With `later`, memory frames after the first carry an
    embedding of their own, by which they are told apart from it; it begins at zero.
    """

    def __init__(
        self, width: int, depth: int, heads: int, patch: int, *, table: Grid | None, later: bool = False
    ) -> None:
        super().__init__(width, depth, heads, patch, frames=2, learned_grid=table)
        self.mask_embed = nn.Conv2d(1, width, patch, patch)
        self.later = nn.Parameter(torch.zeros(width)) if later else None
        if self.positions.table is not None:
            self.positions.table.requires_grad_(False)

    @torch.no_grad()
    def stretch(self, source: Tensor, grid: Grid) -> None:
        """Takes over the position table [1, h w, C] of an encoder that was trained on `grid`."""
        if self.positions.table is not None:
            assert self.positions.learned_grid is not None
            own = self.positions.learned_grid
            self.positions.table.copy_(source if grid == own else resize_positions(source, grid, own))

    def embed_frames(self, frames: Tensor) -> Tensor:
        """Tokens [..., N, C] of frames [..., 3, H, W], uint8 RGB or normalised, without places."""
        return self.embed(masking.patchify(masking.normalize(frames), self.patch))

    def mask_tokens(self, masks: Tensor) -> Tensor:
        """What masks [..., H, W], 1 in the object and 0 elsewhere, add to a memory frame's tokens: [..., N, C]."""
        patches = masking.patchify(masks.unsqueeze(-3).float(), self.patch)
        return functional.linear(patches, self.mask_embed.weight.flatten(1), self.mask_embed.bias)

    def place(self, grid: Grid, memory: bool, later: bool = False) -> Tensor:
        """[1, N, C]: position and identity of the tokens of a memory frame (first or later) or the asked one."""
        assert self.frame_embed is not None
        place = self.positions(grid, self.patch_embed.weight.device) + self.frame_embed(int(memory))
        return place if self.later is None or not later else place + self.later

    def read_memory(self, memory: Tensor, query: Tensor, grid: Grid, drop: Tensor | None = None) -> Tensor:
        """Features [R, C, h, w] of the asked frames from memory tokens [R, M N, C] and theirs [R, N, C], with places.

        `drop` [depth, 2, R] scales what attention and MLP of each block add; None leaves it. Of the last block only
        the asked frame's tokens are computed, since nothing else is looked at.
        """
        tokens = torch.cat([memory, query], dim=1)
        count = query.shape[1]
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            scales = (None, None) if drop is None else drop[number, :, :, None, None].unbind(0)
            added = attend(block, tokens, count if number == len(self.blocks) - 1 else tokens.shape[1])
            tokens = tokens[:, -added.shape[1] :]
            tokens = tokens + (added if scales[0] is None else added * scales[0])
            added = block.mlp(block.norm2(tokens))
            tokens = tokens + (added if scales[1] is None else added * scales[1])
        return self.norm(tokens).transpose(1, 2).unflatten(2, grid)


def attend(block: Block, tokens: Tensor, count: int) -> Tensor:
    """What a block's attention adds to the last `count` of tokens [R, L, C], which attend to all of them."""
    rows, length, width = tokens.shape
    part = block.attn
    packed = part.qkv(block.norm1(tokens)).view(rows, length, 3, part.heads, width // part.heads)
    query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
    out = attention(query[:, :, length - count :], key, value)
    return part.proj(out.transpose(1, 2).reshape(rows, count, width))


def sincos(grid: Grid, width: int) -> Tensor:
    """The fixed position table float32 [1, h w, C] of a grid."""
    return torch.from_numpy(sincos_table(*grid, width))[None]
