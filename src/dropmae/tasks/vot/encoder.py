"""The one-stream encoder: a template and a search region are encoded together, and attend to each other in every block.

As in OSTrack (Ye et al., ECCV 2022, arXiv 2203.11991), with the frame identity embeddings of DropTrack (Wu et al.,
CVPR 2023, arXiv 2304.00571): the template is frame z and comes first, the search region is frame x.

B samples, M template tokens, N = h w search tokens, C width, H heads.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dropmae.nn import masking
from dropmae.nn.vit import Encoder, Positions
from dropmae.ops.attention import attention

TemplateRange = Literal["point", "square", "all", "box"]
"""Which template tokens decide on elimination: the middle one, the middle four, all, those in the object's box."""
PRETRAINED_ROWS = 197
"""Rows of the position table, that of the class token included, that official tracker files carry along."""


class DecidingTokens(NamedTuple):
    """The template tokens whose attention decides which search tokens are kept (OSTrack, section 3.2)."""

    rows: Tensor
    """int64 [R]: template tokens."""
    weights: Tensor
    """float32 [B or 1, R]: how much each counts; they add up to 1."""


class Joint(NamedTuple):
    """What a template and a search region come to."""

    template: Tensor
    """[B, M, C]."""
    search: Tensor
    """[B, C, h, w]; zero where a token was eliminated."""
    removed: list[Tensor]
    """int64 [B, R] per stage that eliminated any: which search tokens."""


class OneStreamEncoder(Encoder):
    """A ViT over template and search region with a learned position table for each.

    `features` of single frames are those of a search region: its positions (resized where the grid is another) and
    identity embedding. With `keep_unused` it carries the two tensors of official files that no computation uses, so
    that such a file can be written again as it was.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        *,
        search_grid: tuple[int, int],
        template_grid: tuple[int, int],
        identity: bool,
        keep_unused: bool = False,
    ) -> None:
        super().__init__(width, depth, heads, patch, frames=2 if identity else 1, learned_grid=search_grid)
        self.template_positions = Positions(width, template_grid)
        if keep_unused:
            self.register_buffer("relic_token", torch.zeros(1, 1, width))
            self.register_buffer("relic_positions", torch.zeros(1, PRETRAINED_ROWS, width))

    def tokens(self, frames: Tensor, frame: int) -> Tensor:
        """[B, h w, C]: search regions (`frame` 0) or templates (1), [B, 3, H, W] uint8 or normalised, with places."""
        grid = masking.grid_of(frames, self.patch)
        positions = self.template_positions if frame else self.positions
        place = positions(grid, frames.device)
        if self.frame_embed is not None:
            place = place + self.frame_embed(frame)
        return self.embed(masking.patchify(masking.normalize(frames), self.patch)) + place

    def joint(
        self,
        template: Tensor,
        search: Tensor,
        grid: tuple[int, int],
        *,
        stages: tuple[int, ...] = (),
        keep: float = 1.0,
        deciding: DecidingTokens | None = None,
        drop: Tensor | None = None,
    ) -> Joint:
        """Encodes template tokens [B, M, C] and search tokens [B, N, C] together.

        In the blocks `stages`, between attention and MLP, only the share `keep` of the search tokens that are left
        stays: those to which the template's tokens `deciding` attend most, averaged over the heads (section 3.2).
        `drop` [depth, 2, B] scales what attention and MLP of each block add (drop path); None leaves it.
        """
        first = template.shape[1]
        tokens = torch.cat([template, search], dim=1)
        place = torch.arange(search.shape[1], device=search.device).expand(search.shape[0], -1)
        removed: list[Tensor] = []
        blocks: list[Any] = list(self.blocks)
        for number, block in enumerate(blocks):
            left = place.shape[1]
            kept = math.ceil(keep * left)
            seen = None
            if deciding is not None and number in stages and kept < left:
                seen = ScoringAttention(deciding, first)
            added = block.attn(block.norm1(tokens), seen)
            tokens = tokens + (added if drop is None else added * drop[number, 0, :, None, None])
            if seen is not None:
                order = seen.score.topk(left, dim=1).indices  # descending, as the official code leaves them
                removed.append(place.gather(1, order[:, kept:]))
                place = place.gather(1, order[:, :kept])
                tokens = torch.cat([tokens[:, :first], masking.take(tokens[:, first:], order[:, :kept])], dim=1)
            added = block.mlp(block.norm2(tokens))
            tokens = tokens + (added if drop is None else added * drop[number, 1, :, None, None])
        tokens = self.norm(tokens)
        found = tokens[:, first:]
        if removed:
            empty = found.new_zeros(found.shape[0], search.shape[1], found.shape[2])
            found = empty.scatter(1, place.unsqueeze(-1).expand_as(found), found)
        return Joint(tokens[:, :first], found.transpose(1, 2).unflatten(2, grid), removed)


class ScoringAttention:
    """Attention that also notes how much the template looks at every search token.

    Only the rows of the attention matrix that are asked for are formed; the rest goes through the fused kernel.
    """

    def __init__(self, deciding: DecidingTokens, first: int) -> None:
        self.deciding, self.first = deciding, first
        self.score = torch.empty(0)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[B, H, L, D] each -> [B, H, L, D]; `score` becomes float32 [B, N]."""
        rows = query.detach()[:, :, self.deciding.rows]  # [B, H, R, D]
        logits = (rows @ key.detach().transpose(-2, -1)).float() * query.shape[-1] ** -0.5
        share = torch.softmax(logits, dim=-1)[..., self.first :]
        self.score = (share * self.deciding.weights[:, None, :, None]).sum(2).mean(1)
        return attention(query, key, value)


def deciding_tokens(which: TemplateRange, grid: tuple[int, int]) -> list[int]:
    """Template tokens that may decide: the middle one, that and three beside it, or all.

    The middle is row and column (side - 1) // 2.
    """
    if which not in ("point", "square"):
        return list(range(grid[0] * grid[1]))
    top, left = ((side - 1) // 2 for side in grid)
    rows, columns = (range(min(1 if which == "point" else 2, side)) for side in grid)
    return [(top + down) * grid[1] + left + right for down in rows for right in columns]


def inside_shares(boxes: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """float32 [B, h w]: equal shares for the tokens within boxes x y w h [B, 4], which are in shares of a template.

    Those in which a bilinear reduction of the box's mask, `side` pixels wide, is positive; the middle where none is.
    """
    pixels = torch.arange(side, device=boxes.device)
    low, high = (boxes[:, :2] * side).round(), ((boxes[:, :2] + boxes[:, 2:]) * side).round()
    inside = (pixels >= low[..., None]) & (pixels < high[..., None])  # [B, 2, side]: x, y
    mask = (inside[:, 1, :, None] & inside[:, 0, None]).float()[:, None]
    cells = functional.interpolate(mask, grid, mode="bilinear", align_corners=False)
    chosen = (cells.flatten(1) > 0).float()
    chosen[chosen.sum(1) == 0, deciding_tokens("point", grid)[0]] = 1
    return chosen / chosen.sum(1, keepdim=True)


def keep_rate(progress: float, start: float, warm: float, least: float) -> float:
    """Share of search tokens kept in training: 1 up to `start`, then down half a cosine to `least` over `warm`."""
    if progress < start:
        return 1.0
    if progress >= start + warm:
        return least
    return least + (1 - least) * (math.cos(math.pi * (progress - start) / warm) + 1) / 2
