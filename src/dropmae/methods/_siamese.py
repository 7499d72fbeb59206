"""What SiamMAE, CropMAE and ToBo share: two views, one encoder, and a decoder that looks from one into the other.

SiamMAE's paper has no public code. The order of the decoder's parts, where its norms stand, whether the past keeps its
positions, and the number of its heads are not settled by it; these are options, and `preset` names what public code
does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from dropmae.contracts import PRESET, settle
from dropmae.data.augment import crop_frames
from dropmae.data.clips import Sequence
from dropmae.methods._masked_autoencoder import PairAutoencoder
from dropmae.nn import masking
from dropmae.nn.decoders import CrossDecoder, Decoder, Step
from dropmae.nn.vit import SIZES, Attend, Encoder, Shape
from dropmae.ops import noise

Order = Literal["cross-self-mlp", "cross-mlp-self", "self-cross-mlp"]
ORDERS: dict[str, tuple[Step, ...]] = {
    "cross-self-mlp": ("cross", "self", "mlp"),
    "cross-mlp-self": ("cross", "mlp", "self"),
    "self-cross-mlp": ("self", "cross", "mlp"),
}

PRESETS: dict[str, dict[str, Any]] = {
    "siammae": {"order": "cross-self-mlp", "norm": "pre", "past_positions": True, "hidden": 4.0, "decoder": None},
    "cropmae": {"order": "cross-mlp-self", "norm": "post", "past_positions": False, "hidden": 2048, "decoder": None},
    "rsp": {"order": "cross-self-mlp", "norm": "pre", "past_positions": True, "hidden": 4.0, "decoder": (512, 8, 16)},
    "croco": {"order": "self-cross-mlp", "norm": "pre", "past_positions": True, "hidden": 4.0, "decoder": (512, 8, 16)},
}
"""Decoders of public code. CropMAE's trainer for SiamMAE, RSP (arXiv 2406.07398, also ToBo's), CroCo (2210.10716).

`hidden` is the MLP's width, as a multiple of the decoder's where it is a float; `decoder` is width, depth and heads,
None for those of the size.
"""
DECODERS = {name: shape[3:6] for name, shape in SIZES.items()} | {"small": (256, 4, 8)}
"""Width, depth and heads of the decoder; that of ViT-S is what CropMAE and CatMAE take the paper's to be."""


def spaced_pair(length: int, gap: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Two frame indices, the gap between them uniform in `gap` as far as `length` frames allow, then the start.

    OSError for a video of one frame: it is bad input for a pair.
    """
    if length < 2:
        raise OSError("the video has one frame, and a pair needs two")
    step = int(rng.integers(min(gap[0], length - 1), min(gap[1], length - 1) + 1))
    start = int(rng.integers(length - step))
    return start, start + step


@dataclass(kw_only=True, eq=False, repr=False)
class Siamese(PairAutoencoder):
    """What is hidden of the second frame is predicted with the help of the first, which is given whole.

    The dropout of 0.1 in CropMAE's decoder is left out.
    """

    judged: ClassVar[int] = 1

    # Objective
    mask_ratio: float = 0.95
    """Share of the future frame's tokens that is hidden; the past frame is never masked."""
    # Training samples
    gap: tuple[int, int] = (4, 48)
    """Least and most frames from past to future, uniform, as far as the video is long enough."""
    crop: Literal["independent", "shared"] = "shared"
    """Whether both frames share one crop and flip, or each has its own."""
    scale: tuple[float, float] = (0.5, 1.0)
    """Area of the random crop as a share of the frame: least and most."""
    # Model
    cls: bool = True
    """Whether each frame has a class token."""
    encoding: Literal["siamese", "joint"] = "siamese"
    """Frames encoded one by one with the same weights, or (an ablation of the paper) both at once."""
    # Decoder
    decoding: Literal["cross-self", "cross", "joint"] = "cross-self"
    """Future tokens attend to the past and to themselves, to the past alone, or one decoder attends to all tokens."""
    preset: Literal["siammae", "cropmae", "rsp", "croco"] = "siammae"
    """Whose decoder: sets the options below that are not given."""
    order: Order = PRESET
    """Order of the parts of a decoder block."""
    norm: Literal["pre", "post"] = PRESET
    """Whether a decoder block normalises what goes into its parts, or the sums after them."""
    past_positions: bool = PRESET
    """Whether the decoder adds its positions to the past frame's tokens too."""
    decoder_width: int = 0
    """Width of the decoder; 0 takes that of the preset and size."""
    decoder_depth: int = 0
    """Blocks of the decoder; 0 takes that of the preset and size."""
    decoder_heads: int = 0
    """Attention heads of the decoder; 0 takes that of the preset and size."""
    decoder_hidden: int = 0
    """Hidden width of the decoder's MLPs; 0 takes that of the preset (4 times the width; 2048 in cropmae)."""

    def build(self, shape: Shape, learned: tuple[int, int] | None) -> None:
        """Fills in the preset and makes encoder and decoder."""
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {self.preset!r}")
        chosen = PRESETS[self.preset]
        settle(self, {name: chosen[name] for name in ("order", "norm", "past_positions")})
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, not {self.order!r}")
        width, depth, heads = chosen["decoder"] or DECODERS[self.size]
        self.decoder_width = self.decoder_width or width
        self.decoder_depth = self.decoder_depth or depth
        self.decoder_heads = self.decoder_heads or heads
        hidden = chosen["hidden"]
        times = int(hidden * self.decoder_width) if isinstance(hidden, float) else hidden
        self.decoder_hidden = self.decoder_hidden or times
        if self.decoder_width % self.decoder_heads:
            raise ValueError(f"{self.decoder_heads} heads do not divide the decoder's width {self.decoder_width}")
        self.encoder = Encoder(
            shape.width,
            shape.depth,
            shape.heads,
            self.patch,
            frames=2 if self.encoding == "joint" else 1,
            cls=self.cls,
            learned_grid=learned,
        )
        sizes = (shape.width, self.decoder_width, self.decoder_depth, self.decoder_heads, self.patch)
        if self.decoding == "joint":
            self.decoder = Decoder(*sizes, frames=2)
            return
        steps = tuple(step for step in ORDERS[self.order] if step != "self" or self.decoding == "cross-self")
        self.decoder = CrossDecoder(*sizes, steps=steps, hidden=self.decoder_hidden, post_norm=self.norm == "post")

    def sample(self, sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
        """One pair: `frames` uint8 [2, 3, H, W], the past first."""
        pair = sequence.video[list(spaced_pair(len(sequence.video), self.gap, rng))]
        shared = self.crop == "shared"
        return {"frames": crop_frames(list(pair), rng, self.sides, self.scale, flip=self.flip, shared=shared)}

    def hide(self, key: Tensor, grid: tuple[int, int]) -> masking.Mask:
        """The whole past frame is kept, and a random few tokens of the future one."""
        count = grid[0] * grid[1]
        order = noise.uniform(noise.fold(key, noise.MASK), count)
        future = masking.random_mask(order, masking.kept_count(count, self.mask_ratio))
        past = torch.arange(count, device=key.device).expand(len(key), -1)
        return masking.Mask(
            torch.cat([past, future.keep + count], 1),
            torch.cat([past, future.restore + count], 1),
            torch.cat([torch.zeros_like(future.masked), future.masked], 1),
        )

    def encode(self, frames: Tensor, mask: masking.Mask, grid: tuple[int, int]) -> Tensor:
        """Latents of the past, then of the future's kept tokens; siamese encoding gives each a class token first."""
        if self.encoding == "joint":
            return super().encode(frames, mask, grid)
        past, future = self.patches(frames).chunk(2, dim=1)
        keep = mask.keep[:, past.shape[1] :] - past.shape[1]
        places = self.encoder.places(grid)
        seen = self.encoder.embed(masking.take(future, keep)) + masking.take(places.expand(len(keep), -1, -1), keep)
        return torch.cat([self.encoder.encode(self.encoder.embed(past) + places), self.encoder.encode(seen)], dim=1)

    def decode(
        self, latent: Tensor, mask: masking.Mask, grid: tuple[int, int], attends: list[Attend | None] | None
    ) -> Tensor:
        """Predicted patches [B, 2 N, p p 3]; the past frame's, which nothing is asked about, are zero."""
        count, extra = grid[0] * grid[1], int(self.cls)
        if not isinstance(self.decoder, CrossDecoder):
            past, future = self.halves(latent, count)
            return super().decode(torch.cat([past, future[:, extra:]], dim=1), mask, grid, attends)
        prediction = self.decoder.decode_beside(*self.queries(latent, mask, grid))[:, extra:]
        return torch.cat([torch.zeros_like(prediction), prediction], dim=1)

    def halves(self, latent: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Latents of the past and of the future, each with its class token, where there are such."""
        extra = int(self.cls)
        past, future = latent[:, : extra + count], latent[:, extra + count :]
        if self.encoding == "joint":  # one class token, which both frames then share
            future = torch.cat([latent[:, :extra], future], dim=1)
        return past, future

    def queries(self, latent: Tensor, mask: masking.Mask, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The decoder's tokens of the future [B, (1 +) N, C'], mask tokens filled in, and their context, the past's."""
        count, extra, decoder = grid[0] * grid[1], int(self.cls), self.decoder
        past, future = self.halves(latent, count)
        own = masking.Mask(mask.keep[:, count:] - count, mask.restore[:, count:] - count, mask.masked[:, count:])
        places = decoder.places(grid)
        tokens = decoder.fill(future[:, extra:], own) + places
        context = decoder.embed(past)
        if extra:
            tokens = torch.cat([decoder.embed(future[:, :1]), tokens], dim=1)
        if self.past_positions:
            context = torch.cat([context[:, :extra], context[:, extra:] + places], dim=1)
        return tokens, context
