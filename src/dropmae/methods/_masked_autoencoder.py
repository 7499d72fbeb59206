"""The masked autoencoder over one frame or a pair, from which `mae`, `twinmae` and `dropmae` are made.

B samples, T frames of N = h w patches, L = T N tokens, K kept ones. Frames are [B, T, 3, H, W]; frame 0 is x, the
earlier one, frame 1 is z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from dropmae.data.augment import crop_frames
from dropmae.data.clips import Sequence, frame_pair
from dropmae.methods._images import PictureMethod
from dropmae.nn import masking
from dropmae.nn.decoders import Decoder
from dropmae.nn.vit import Attend, Shape
from dropmae.ops import noise


@dataclass(kw_only=True, eq=False, repr=False)
class MaskedAutoencoder(PictureMethod):
    """Hide patches, encode the others, reconstruct the hidden ones. `frames` says how many frames share one mask."""

    # Objective
    mask_ratio: float = 0.75
    """Share of all tokens, of both frames together, that is hidden from the encoder."""
    norm_pix: bool = True
    """Predict patches with their own mean and deviation removed, instead of plain pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        masking.kept_count(self.grid[0] * self.grid[1], self.mask_ratio)

    def build(self, shape: Shape, learned: tuple[int, int] | None) -> None:
        """Makes `encoder` and `decoder` of the given shape."""
        self.encoder = self.make_encoder(shape, learned, self.frames)
        self.decoder = Decoder(
            shape.width,
            shape.decoder_width,
            shape.decoder_depth,
            shape.decoder_heads,
            self.patch,
            frames=self.frames,
        )

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """{"loss"} of a batch: `frames` [B, T, 3, H, W] uint8 or normalised, `index` int64 [B], `seed` int."""
        frames = masking.normalize(batch["frames"])
        key = noise.keys(batch["seed"], batch["index"])
        prediction, mask = self.predict(frames, key)
        target = masking.patch_target(self.patches(frames), self.norm_pix)
        return {"loss": masking.masked_loss(prediction, target, mask.masked)}

    def probe(self, batch: dict[str, Any]) -> dict[str, float]:
        """Numbers for validation.jsonl, on a batch as `forward` takes it; here the masked loss without dropout."""
        return {"loss": float(self(batch)["loss"])}

    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Pictures of a batch as `forward` takes it: {"frames", "prediction", "masked"}.

        `frames` and `prediction` are RGB in [0, 1], float32 [B, T, 3, H, W]; `masked` bool [B, T, h, w] says which
        patches were hidden. A frame of which nothing was hidden is its own prediction.
        """
        frames = masking.normalize(batch["frames"])
        mask = self.mask_of(batch)
        prediction, _ = self.predict(frames, noise.keys(batch["seed"], batch["index"]), mask)
        masked = mask.masked.unflatten(1, (-1, *masking.grid_of(frames, self.patch)))
        masked = masked.repeat_interleave(frames.shape[1] // masked.shape[1], dim=1)
        asked = masked.flatten(2).any(2)[..., None, None, None]
        return {
            "frames": masking.denormalize(frames),
            "prediction": masking.denormalize(torch.where(asked, self.pictures(prediction, frames), frames)),
            "masked": masked,
        }

    def pictures(self, prediction: Tensor, frames: Tensor) -> Tensor:
        """Frames [B, T, 3, H, W] from predicted patches [B, L, p p 3], both normalised as `frames` are.

        Patches that were predicted with their mean and deviation removed get those of the true frames back.
        """
        pixels = masking.patch_pixels(prediction.float(), self.patches(frames), self.norm_pix)
        grid = masking.grid_of(frames, self.patch)
        return masking.unpatchify(pixels.unflatten(1, (frames.shape[1], -1)), grid, self.patch)

    def watch(self, batch: dict[str, Any], attends: list[Attend | None], *, whole: bool = False) -> masking.Mask:
        """Encodes and decodes a batch with an attention of one's own in each decoder layer; the mask that was used.

        With `whole` nothing is hidden. Decoders that attend to each frame by itself do not call `attends`.
        """
        mask = self.mask_of(batch)
        if whole:
            mask = masking.keep_all(mask)
        self.predict(masking.normalize(batch["frames"]), noise.keys(batch["seed"], batch["index"]), mask, attends)
        return mask

    def mask_of(self, batch: dict[str, Any]) -> masking.Mask:
        """The mask of each sample of a batch as `forward` takes it."""
        return self.hide(noise.keys(batch["seed"], batch["index"]), masking.grid_of(batch["frames"], self.patch))

    def patches(self, frames: Tensor) -> Tensor:
        """Pixel patches [B, L, p p 3] of frames [B, T, 3, H, W], frame after frame."""
        return masking.patchify(frames, self.patch).flatten(1, 2)

    def predict(
        self,
        frames: Tensor,
        key: Tensor,
        mask: masking.Mask | None = None,
        attends: list[Attend | None] | None = None,
    ) -> tuple[Tensor, masking.Mask]:
        """Predicted patches [B, L, p p 3] of normalised frames [B, T, 3, H, W], and the mask that was used.

        `key` int32 [B] decides the mask, where none is given, and whatever else is random; `attends`, where given,
        takes the place of the decoder layers' attention.
        """
        if frames.shape[1] != self.frames:
            raise ValueError(
                f"{type(self).__name__.lower()} takes {self.frames} frames a sample, not {frames.shape[1]}"
            )
        grid = masking.grid_of(frames, self.patch)
        mask = self.hide(key, grid) if mask is None else mask
        latent = self.encode(frames, mask, grid)
        return self.decode(latent, mask, grid, attends or self.attends(key, grid)), mask

    def hide(self, key: Tensor, grid: tuple[int, int]) -> masking.Mask:
        """The mask of each sample: one random choice over the tokens of all frames."""
        total = self.frames * grid[0] * grid[1]
        order = noise.uniform(noise.fold(key, noise.MASK), total)
        return masking.random_mask(order, masking.kept_count(total, self.mask_ratio))

    def encode(self, frames: Tensor, mask: masking.Mask, grid: tuple[int, int]) -> Tensor:
        """Latents [B, (1 +) K, C] of the kept tokens, in the order of `mask.keep`; a class token comes first."""
        seen = masking.take(self.patches(frames), mask.keep)
        places = self.encoder.places(grid, self.frames).expand(len(seen), -1, -1)
        return self.encoder.encode(self.encoder.embed(seen) + masking.take(places, mask.keep))

    def decode(
        self, latent: Tensor, mask: masking.Mask, grid: tuple[int, int], attends: list[Attend | None] | None
    ) -> Tensor:
        """Predicted patches [B, L, p p 3] from latents [B, (1 +) K, C]."""
        extra = int(self.cls)
        tokens = self.decoder.fill(latent[:, extra:], mask) + self.decoder.places(grid, self.frames)
        if extra:
            tokens = torch.cat([self.decoder.embed(latent[:, :1]), tokens], dim=1)
        return self.decoder.decode(tokens, attends)[:, extra:]

    def attends(self, key: Tensor, grid: tuple[int, int]) -> list[Attend | None] | None:
        """Attention of each decoder layer where it is not the plain one."""
        return None


@dataclass(kw_only=True, eq=False, repr=False)
class PairAutoencoder(MaskedAutoencoder):
    """A masked autoencoder over two frames of one video that share one mask and attend to each other."""

    frames = 2
    judged: ClassVar[int] = 0

    # Training samples
    gap: tuple[int, int] = (1, 49)
    """Least and most frames between the two, as far as the video is long enough."""
    crop: Literal["independent", "shared"] = "independent"
    """Whether each frame has a crop and flip of its own (as the official code does) or both share one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gap = (int(self.gap[0]), int(self.gap[1]))
        if not 1 <= self.gap[0] <= self.gap[1]:
            raise ValueError(f"the frame gap must be 1 <= least <= most, not {self.gap}")

    def sample(self, sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
        """One pair: `frames` uint8 [2, 3, H, W], the earlier one first (DropMAE section 4; gap 1..49)."""
        pair = sequence.video[list(frame_pair(len(sequence.video), self.gap, rng))]
        shared = self.crop == "shared"
        return {"frames": crop_frames(list(pair), rng, self.sides, self.scale, flip=self.flip, shared=shared)}

    def probe(self, batch: dict[str, Any]) -> dict[str, float]:
        """What the partner frame is worth: masked loss of one frame beside its own partner and beside another clip's.

        The frame is x, or whichever `judged` says; every sample's partner is exchanged for that of the next sample in
        the batch, masks and all else being equal, and the loss is taken over the hidden patches of the judged frame
        alone. A positive `gap` says that the network uses time.
        """
        frames = masking.normalize(batch["frames"])
        key = noise.keys(batch["seed"], batch["index"])
        patches = self.patches(frames)
        rows = slice(self.judged * patches.shape[1] // 2, (self.judged + 1) * patches.shape[1] // 2)
        target = masking.patch_target(patches[:, rows], self.norm_pix)
        pairs = [frames, frames.clone()]
        pairs[1][:, 1 - self.judged] = frames[:, 1 - self.judged].roll(1, 0)
        losses = []
        for pair in pairs:
            prediction, mask = self.predict(pair, key)
            losses.append(float(masking.masked_loss(prediction[:, rows], target, mask.masked[:, rows])))
        return {**super().probe(batch), "loss_true": losses[0], "loss_other": losses[1], "gap": losses[1] - losses[0]}
