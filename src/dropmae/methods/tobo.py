"""ToBo (NeurIPS 2025, arXiv 2507.06543): the future frame a second time, from the past's class token alone.

Two passes through one decoder predict what is hidden of the future frame: beside all tokens of the past, as SiamMAE
does, and with the class token of the past in place of its own and nothing else of it. The class token so becomes a
bottleneck that has to say what the scene is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dropmae.data.augment import crop_frames
from dropmae.data.clips import Sequence
from dropmae.methods._siamese import Siamese
from dropmae.nn import masking
from dropmae.nn.decoders import CrossDecoder
from dropmae.ops import noise


@dataclass(kw_only=True, eq=False, repr=False)
class ToBo(Siamese):
    """Siamese masked autoencoder with a token bottleneck; frame 0 is the past, frame 1 the future."""

    # Objective
    mask_ratio: float = 0.9
    """Share of the future frame's tokens that is hidden; the past frame is never masked."""
    # Training samples
    gap: tuple[int, int] = (1, 96)
    """Least and most frames from past to future; a shorter video has any that it allows."""
    # Decoder
    preset: Literal["siammae", "cropmae", "rsp", "croco"] = "rsp"
    """Whose decoder: sets the options below that are not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cls or not isinstance(self.decoder, CrossDecoder) or self.encoding == "joint":
            raise ValueError("tobo needs cls, encoding siamese and decoding cross-self: the past is told by its token")

    def sample(self, sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
        """One pair: `frames` uint8 [2, 3, H, W], the past first."""
        length, (least, most) = len(sequence.video), self.gap
        if length < 2:
            raise OSError("the video has one frame, and a pair needs two")
        fits = length > most
        step = int(rng.integers(least, most + 1) if fits else rng.integers(1, length))
        start = int(rng.integers(length - most if fits else length - step))
        pair = sequence.video[[start, start + step]]
        shared = self.crop == "shared"
        return {"frames": crop_frames(list(pair), rng, self.sides, self.scale, flip=self.flip, shared=shared)}

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """{"loss", "loss_context", "loss_bottleneck"}: the sum, and each pass by itself."""
        frames = masking.normalize(batch["frames"])
        return self.losses(frames, noise.keys(batch["seed"], batch["index"]))

    def losses(self, frames: Tensor, key: Tensor, other: bool = False) -> dict[str, Tensor]:
        """Losses of normalised frames [B, 2, 3, H, W]; with `other` the bottleneck holds the next sample's token."""
        grid = masking.grid_of(frames, self.patch)
        mask = self.hide(key, grid)
        latent = self.encode(frames, mask, grid)
        target = masking.patch_target(self.patches(frames), self.norm_pix)
        tokens, context = self.queries(latent, mask, grid)
        decoder: Any = self.decoder
        known = decoder.embed(latent[:, :1])
        told = torch.cat([known.roll(1, 0) if other else known, tokens[:, 1:]], 1)
        found = {
            "loss_context": decoder.decode_beside(tokens, context),
            "loss_bottleneck": decoder.decode_beside(told, None),
        }
        count = grid[0] * grid[1]
        parts = {
            name: masking.masked_loss(prediction[:, 1:], target[:, count:], mask.masked[:, count:])
            for name, prediction in found.items()
        }
        return {"loss": parts["loss_context"] + parts["loss_bottleneck"], **parts}

    def probe(self, batch: dict[str, Any]) -> dict[str, float]:
        """What the partner is worth, as ever by the first pass, and what another scene's token costs the second."""
        frames, key = masking.normalize(batch["frames"]), noise.keys(batch["seed"], batch["index"])
        own, other = (float(self.losses(frames, key, exchange)["loss_bottleneck"]) for exchange in (False, True))
        return {**super().probe(batch), "bottleneck_gap": other - own}
