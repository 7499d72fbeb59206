"""A plain vision transformer: pre-norm blocks, sin-cos positions, frames or clips (arXiv 2010.11929, 2111.06377).

Shapes: B samples, N patches of a frame (h x w, row-major), L tokens, C width, H heads. Decoders are in `decoders`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dropmae.nn import masking
from dropmae.ops import noise
from dropmae.ops.attention import attention
from dropmae.ops.linear import gelu_linear, linear

Size = Literal["tiny", "small", "base", "large", "huge"]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention of one layer: query, key, value [B, H, L, C/H] -> [B, H, L, C/H]."""


class Shape(NamedTuple):
    """Width, depth and heads of an encoder and its decoder, and the patch side."""

    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    patch: int = 16


SIZES: dict[str, Shape] = {
    "tiny": Shape(192, 12, 3, 192, 4, 6),
    "small": Shape(384, 12, 6, 256, 8, 8),
    "base": Shape(768, 12, 12, 512, 8, 16),
    "large": Shape(1024, 24, 16, 512, 8, 16),
    "huge": Shape(1280, 32, 16, 512, 8, 16, patch=14),
}


class Form(NamedTuple):
    """What public encoders do otherwise than the plain ViT."""

    epsilon: float = 1e-6
    """Of the norms."""
    pre_norm: bool = False
    """Whether a norm stands before the first block, and the patch embedding has no bias (CLIP)."""
    quick: bool = False
    """Whether the activation is x sigmoid(1.702 x) instead of the exact GELU (OpenAI's CLIP)."""
    relative: bool = False
    """Whether each block's attention has a bias by relative position, for one grid and a class token (BEiT)."""


FORMS: dict[str, Form] = {
    "plain": Form(),
    "transformers": Form(1e-12),
    "clip": Form(1e-5, pre_norm=True, quick=True),
    "openclip": Form(1e-5, pre_norm=True),
    "beit": Form(relative=True),
}
"""By what a field or a public layout calls it."""
PLAIN = FORMS["plain"]


@cache
def sincos_table(height: int, width: int, channels: int) -> np.ndarray:
    """Fixed 2-D sin-cos positions float32 [height width, channels]: first half the column, second half the row.

    Each half is [sin, cos] of position / 10000**(k / (channels / 4)), k = 0 .. channels / 4 - 1, in float64.
    """
    if channels % 4:
        raise ValueError(f"sin-cos positions need a width that is a multiple of 4, not {channels}")
    quarter = channels // 4
    omega = 10000.0 ** (-np.arange(quarter, dtype=np.float64) / quarter)
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    angles = [position.reshape(-1, 1) * omega for position in (columns, rows)]
    return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)


class Positions(nn.Module):
    """Position embeddings for any grid: fixed sin-cos, computed for the grid at hand, or a learned table, resized.

    A learned table (its grid given) is resized by bicubic interpolation without aligned corners, as ViT code does.
    `resized` so is the sin-cos table of `home`, the grid of the training pictures, where that is known. `excess` is
    what a script adds to the new grid before it computes the scale (see `resize_positions`).
    """

    def __init__(self, channels: int, learned_grid: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.learned_grid = learned_grid
        self.table: nn.Parameter | None = None
        if learned_grid is not None:
            self.table = nn.Parameter(torch.zeros(1, learned_grid[0] * learned_grid[1], channels))
            nn.init.trunc_normal_(self.table, std=0.02)
        self.home: tuple[int, int] | None = None
        self._cache: dict[tuple[tuple[int, int], tuple[int, int], float, torch.device], Tensor] = {}

    def forward(
        self, grid: tuple[int, int], device: torch.device, *, resized: bool = False, excess: float = 0.0
    ) -> Tensor:
        """float32 [1, h w, C]; `resized`: other grids than `home` have its sin-cos positions, not ones of their own."""
        if self.table is None:
            source = self.home if resized and self.home else grid
            found = self._cache.get((source, grid, excess, device))
            if found is None:
                found = torch.from_numpy(sincos_table(*source, self.channels)).to(device)[None]
                found = found if source == grid else resize_positions(found, source, grid, excess)
                self._cache[(source, grid, excess, device)] = found
            return found
        if grid == self.learned_grid:
            return self.table
        assert self.learned_grid is not None
        return resize_positions(self.table, self.learned_grid, grid, excess)


def resize_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int], excess: float = 0.0) -> Tensor:
    """Position table [1, h' w', C] on grid `new` from [1, h w, C] on grid `old`, bicubic, corners not aligned.

    With `excess` by a scale of (new + excess) / old along each side instead of new / old: DINO's code adds 0.1 so that
    rounding does not lose a row, and all that descends from it has positions that are a little closer together.
    """
    picture = table.transpose(1, 2).unflatten(2, old).float()
    scale = tuple((n + excess) / m for n, m in zip(new, old)) if excess else None
    size = None if scale else new
    picture = functional.interpolate(picture, size, scale, mode="bicubic", align_corners=False)
    assert picture.shape[2:] == new
    return picture.flatten(2).transpose(1, 2)


class Linear(nn.Linear):
    """PyTorch's, multiplied as `ops.linear` does it."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection whose rows are query, key, value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        assert width % heads == 0
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, attend: Attend | None = None) -> Tensor:
        """[B, L, C] -> [B, L, C]; `attend` replaces plain softmax attention."""
        b, length, width = x.shape
        packed = self.qkv(x).view(b, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = packed.unbind(0)
        out = (attend or attention)(query, key, value)
        return self.proj(out.transpose(1, 2).reshape(b, length, width))


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them, or the quick one."""

    def __init__(self, width: int, hidden: int, quick: bool = False) -> None:
        super().__init__()
        self.quick = quick
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.quick:
            x = self.fc1(x)
            return self.fc2(x * torch.sigmoid(1.702 * x))
        return self.fc2(gelu_linear(x, self.fc1.weight, self.fc1.bias))


class Block(nn.Module):
    """Pre-norm transformer block, MLP ratio 4."""

    def __init__(self, width: int, heads: int, form: Form = PLAIN) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=form.epsilon)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=form.epsilon)
        self.mlp = MLP(width, 4 * width, form.quick)

    def forward(self, x: Tensor, attend: Attend | None = None, drop: Tensor | None = None) -> Tensor:
        """[B, L, C] -> [B, L, C]; `drop` [2, B] scales what attention and MLP add (`drop_path`)."""
        if drop is None:
            x = x + self.attn(self.norm1(x), attend)
            return x + self.mlp(self.norm2(x))
        x = x + self.attn(self.norm1(x), attend) * drop[0, :, None, None]
        return x + self.mlp(self.norm2(x)) * drop[1, :, None, None]


def drop_path(key: Tensor, depth: int, most: float) -> Tensor:
    """float32 [depth, 2, R]: scales of what each block adds to the rows with keys int32 [R].

    Block i of `depth` is left out with probability most * i / (depth - 1), attention and MLP apart, and what stays is
    scaled so that its expectation is kept (Huang et al., ECCV 2016, arXiv 1603.09382).
    """
    rates = torch.linspace(0, most, depth, device=key.device)[:, None, None]
    dice = noise.uniform(noise.fold(key, noise.DROP_PATH), 2 * depth).T.reshape(depth, 2, -1)
    return (dice >= rates) / (1 - rates)


class FrameEmbeddings(nn.Module):
    """DropMAE's frame identity: one learned vector for frame x (the earlier one) and one for frame z."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.randn(1, 1, width))
        self.z = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, frame: int) -> Tensor:
        return self.z if frame else self.x


class RelativePositions(nn.Module):
    """BEiT's bias of attention by where tokens stand to each other (arXiv 2106.08254): for one grid and a class token.

    A layer's table [(2 h - 1)(2 w - 1) + 3, heads] has a row for each offset, then one each for class token to patch,
    patch to class token and class token to itself.
    """

    def __init__(self, grid: tuple[int, int], depth: int, heads: int) -> None:
        super().__init__()
        self.grid = grid
        rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
        down, across = (axis[:, None] - axis + size - 1 for axis, size in zip((rows, columns), grid))
        offsets = (2 * grid[0] - 1) * (2 * grid[1] - 1)
        index = np.full((len(rows) + 1, len(rows) + 1), offsets + 1)
        index[0] = offsets
        index[0, 0] = offsets + 2
        index[1:, 1:] = down * (2 * grid[1] - 1) + across
        self.index = torch.from_numpy(index)
        self.tables = nn.ParameterList(torch.zeros(offsets + 3, heads) for _ in range(depth))

    def attends(self, count: int) -> list[Attend]:
        """Attention of each layer over `count` tokens; ValueError where these are not all tokens of the grid."""
        if count != len(self.index):
            raise ValueError(
                f"this encoder knows positions by their relation on a {self.grid[0]}x{self.grid[1]} grid: pictures "
                f"must have that grid and no token be hidden, and there are {count - 1} tokens"
            )
        return [partial(self._attend, table) for table in self.tables]

    def _attend(self, table: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        bias = table[self.index.to(query.device)].permute(2, 0, 1)[None]
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))


class Encoder(nn.Module):
    """ViT encoder of one frame, or of two frames jointly.

    `frames` 2 adds the frame identity embeddings; `cls` puts a class token first; `learned_grid` replaces the sin-cos
    positions by a learned table; `form` is what else a public encoder does in its own way. Initialised as MAE and
    DropMAE are: Xavier-uniform linear layers with zero bias.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        *,
        frames: int = 1,
        cls: bool = False,
        learned_grid: tuple[int, int] | None = None,
        form: Form = PLAIN,
    ) -> None:
        super().__init__()
        self.width, self.patch = width, patch
        self.patch_embed: nn.Conv2d | nn.Conv3d = nn.Conv2d(3, width, patch, patch)
        self.positions = Positions(width, learned_grid)
        self.frame_embed = FrameEmbeddings(width) if frames == 2 else None
        self.cls_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02)) if cls else None
        self.cls_position = nn.Parameter(torch.zeros(1, 1, width)) if cls and learned_grid else None
        self.norm_pre = nn.LayerNorm(width, eps=form.epsilon) if form.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(width, heads, form) for _ in range(depth))
        self.norm: nn.LayerNorm | nn.Identity = nn.LayerNorm(width, eps=form.epsilon)
        self.relative: RelativePositions | None = None
        if form.relative:
            if learned_grid is None or not cls or frames > 1:
                raise ValueError("positions by relative place need one grid (learned positions) and a class token")
            self.relative = RelativePositions(learned_grid, depth, heads)
        initialize(self)

    def embed(self, patches: Tensor) -> Tensor:
        """Tokens [B, K, C] of pixel patches [B, K, p p 3] in `masking.patchify` order, without positions."""
        weight = self.patch_embed.weight.permute(0, 2, 3, 1).flatten(1)
        return functional.linear(patches, weight, self.patch_embed.bias)

    def places(self, grid: tuple[int, int], frames: int = 1) -> Tensor:
        """[1, frames N, C]: position plus frame identity of every token; frame 0 is x, frame 1 is z."""
        position = self.positions(grid, self.patch_embed.weight.device)
        if self.frame_embed is None:
            return position if frames == 1 else position.repeat(1, frames, 1)
        return torch.cat([position + self.frame_embed(frame) for frame in range(frames)], dim=1)

    def encode(self, tokens: Tensor, drop: Tensor | None = None) -> Tensor:
        """All blocks and the final norm over tokens [B, L, C]; a class token, if any, is put first and kept.

        `drop` [depth, 2, B] is that of `drop_path`.
        """
        *_, (_, last) = self.through(tokens, len(self.blocks), drop)
        return self.norm(last)

    def through(self, tokens: Tensor, until: int, drop: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        """(number from 1, tokens [B, (1 +) L, C] after it) of each of the first `until` blocks, class token first."""
        if self.cls_token is not None:
            start = self.cls_token if self.cls_position is None else self.cls_token + self.cls_position
            tokens = torch.cat([start.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
        attends = self.relative.attends(tokens.shape[1]) if self.relative else [None] * until
        tokens = self.norm_pre(tokens)
        for number, (block, attend) in enumerate(zip(self.blocks[:until], attends), 1):
            tokens = block(tokens, attend, None if drop is None else drop[number - 1])
            yield number, tokens

    def features(
        self, frames: Tensor | np.ndarray, frame: int = 0, *, resized: bool = False, excess: float = 0.0
    ) -> Tensor:
        """Dense features [B, C, h, w] of frames [B, 3, H, W], uint8 RGB or ImageNet-normalised float.

        Or of pictures as `Video` gives them, an array uint8 [H, W, 3] or [B, H, W, 3].
        `frame` is the identity embedding that is added, 0 for x (the default) or 1 for z, where the encoder has them.
        `resized`: sin-cos positions are those of the training pictures' grid, resized, not ones of the grid at hand;
        `excess` is that of `Positions`.
        """
        return self.layers(frames, (len(self.blocks),), frame, resized=resized, excess=excess)

    def layers(
        self,
        frames: Tensor | np.ndarray,
        layers: tuple[int, ...],
        frame: int = 0,
        *,
        resized: bool = False,
        excess: float = 0.0,
    ) -> Tensor:
        """As `features`, after each of the given blocks, from 1, with the final norm: [B, len(layers) C, h, w]."""
        frames = masking.as_frames(frames, self.patch_embed.weight.device)
        found = dict(self.through(self.placed(frames, frame, resized, excess), max(layers)))
        skipped = 0 if self.cls_token is None else 1
        tokens = torch.cat([self.norm(found[layer])[:, skipped:] for layer in layers], -1)
        return tokens.transpose(1, 2).unflatten(2, masking.grid_of(frames, self.patch))

    def placed(self, frames: Tensor, frame: int, resized: bool, excess: float) -> Tensor:
        """Tokens [B, N, C] of frames [B, 3, H, W] with their positions."""
        patches = masking.patchify(masking.normalize(frames), self.patch)
        place = self.positions(masking.grid_of(frames, self.patch), frames.device, resized=resized, excess=excess)
        return self.embed(patches) + (place if self.frame_embed is None else place + self.frame_embed(frame))


@cache
def sincos_line(length: int, channels: int) -> np.ndarray:
    """Fixed 1-D sin-cos positions float32 [length, channels]: [sin, cos] of t / 10000**(k / (channels / 2))."""
    half = channels // 2
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(half, dtype=np.float64) / half)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def clip_places(position: Tensor, slots: int) -> Tensor:
    """[1, slots N, C]: every place [1, N, C] of a frame in each temporal slot, plus the slot's 1-D sin-cos."""
    time = torch.from_numpy(sincos_line(slots, position.shape[-1])).to(position.device)
    return (position + time[:, None]).flatten(0, 1)[None]


class ClipEncoder(Encoder):
    """ViT encoder of clips: a token is a tubelet of `tubelet` frames by one patch (VideoMAE, arXiv 2203.12602)."""

    def __init__(self, width: int, depth: int, heads: int, patch: int, tubelet: int, *, cls: bool = False) -> None:
        super().__init__(width, depth, heads, patch, cls=cls)
        self.tubelet = tubelet
        self.patch_embed = nn.Conv3d(3, width, (tubelet, patch, patch), (tubelet, patch, patch))
        initialize(self.patch_embed)

    def embed(self, patches: Tensor) -> Tensor:
        """Tokens [B, K, C] of tubelets [B, K, t p p 3], frame after frame in `masking.patchify` order."""
        weight = self.patch_embed.weight.permute(0, 2, 3, 4, 1).flatten(1)
        return functional.linear(patches, weight, self.patch_embed.bias)

    def places(self, grid: tuple[int, int], frames: int = 1, *, resized: bool = False, excess: float = 0.0) -> Tensor:
        """[1, slots N, C] for a clip of `frames` frames."""
        position = self.positions(grid, self.patch_embed.weight.device, resized=resized, excess=excess)
        return clip_places(position, frames // self.tubelet)

    def placed(self, frames: Tensor, frame: int, resized: bool, excess: float) -> Tensor:
        """Tokens [B, N, C] of frames [B, 3, H, W], each repeated to fill its tubelet, in temporal slot `frame`."""
        still = masking.patchify(masking.normalize(frames), self.patch).repeat(1, 1, self.tubelet)
        grid = masking.grid_of(frames, self.patch)
        places = self.places(grid, (frame + 1) * self.tubelet, resized=resized, excess=excess)
        return self.embed(still) + places.unflatten(1, (frame + 1, -1))[:, frame]


def initialize(module: nn.Module) -> None:
    """MAE's initialisation: Xavier-uniform weights (the patch convolution as a matrix), zero linear biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            assert part.bias is not None
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Conv2d | nn.Conv3d):
            nn.init.xavier_uniform_(part.weight.data.view(part.weight.shape[0], -1))
