"""MGM, motion-guided masking for video masked autoencoders (Fan et al., ICCV 2023, arXiv 2308.12962).

The paper has no public code. Confirmed: motion vectors of the compressed stream decide where each frame's mask stands,
so that the masks of a clip form one volume that follows what moves; target (RGB, squared error) and network are those
of VideoMAE (arXiv 2203.12602); 16 frames of 224 pixels, tubelets of 2x16x16; the best mask ratio is 0.75.

Our reading, each an option: the vectors of a frame, less the camera's (`camera`), become a map of magnitudes, the map a
point (`guide`), the points of a clip a smooth path over frames that have no vectors (`smooth`), and the tokens nearest
to the path in a metric whose circles are rectangles (`shape`, `aspect`) are hidden, just as many in every tubelet slot.
The numbers of this file are therefore no reproduction of the paper's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae.data.augment import crop_clip
from dropmae.data.clips import Sequence
from dropmae.methods._masked_autoencoder import MaskedAutoencoder
from dropmae.nn import masking
from dropmae.nn.decoders import ClipDecoder
from dropmae.nn.vit import Attend, ClipEncoder, Shape
from dropmae.ops import noise
from dropmae.ops.motion import clip_changes, clip_motion
from dropmae.video import BLOCK

STILL = 0.05
"""Pixels a frame below which nothing is said to move."""


def clip_indices(length: int, count: int, stride: int, rng: np.random.Generator) -> list[int]:
    """Frame indices of a clip of `count` frames, `stride` apart or as far as `length` frames allow, start uniform.

    A video of fewer than `count` frames is spread over the clip, frames repeating. OSError for a video of one frame.
    """
    if length < 2:
        raise OSError("the video has one frame, and a clip needs two")
    if length < count:
        return [round(place) for place in np.linspace(0, length - 1, count)]
    step = min(stride, (length - 1) // max(1, count - 1))
    start = int(rng.integers(length - step * (count - 1)))
    return list(range(start, start + step * count, step))[:count]


@dataclass(kw_only=True, eq=False, repr=False)
class MGM(MaskedAutoencoder):
    """Masked autoencoder of clips whose masks follow the motion vectors of the video file."""

    masks: ClassVar[tuple[str, ...]] = ("motion", "tube", "random", "simulated")

    # Objective
    mask: Literal["motion", "tube", "random", "simulated"] = "motion"
    """Masks guided by motion; the same random tokens in all slots (VideoMAE); random tokens; or, as a control, the
    guided mask on a straight path of its own."""
    mask_ratio: float = 0.75
    """Share of the tokens that is hidden; the paper's best for guided masks (VideoMAE: tubes at 0.9)."""
    mask_mix: float = 0.0
    """Share of a guided mask's tokens that are drawn at random instead, anew in every slot: a direction that the paper
    leaves for the future."""
    # Training samples
    frames: int = 16
    """Frames of a clip."""
    stride: int = 4
    """Frames of the video from one frame of the clip to the next, as far as it is long enough."""
    tubelet: int = 2
    """Frames of a token."""
    scale: tuple[float, float] = (0.5, 1.0)
    """Area of the clip's random crop as a share of the frame: least and most. Not stated by the paper."""
    # Objective
    norm_by: Literal["colour", "patch"] = "colour"
    """What of a tubelet is normalised together: each colour (VideoMAE) or all values (MAE)."""
    vectors: Literal["auto", "codec", "match", "changes"] = "auto"
    """The file's motion vectors, block matching on the decoded frames, or the first where there are any; or how much
    the picture changes in a place, which costs least and takes a flicker for motion."""
    search: int = 12
    """Reach of block matching in pixels of the crop."""
    camera: bool = True
    """Subtract each frame's median vector, so that panning does not count as motion. Our choice."""
    guide: Literal["peak", "centroid"] = "peak"
    """Centre a mask where motion is strongest, or on the centroid of its square. Our choice."""
    shape: Literal["rectangle", "ellipse", "map"] = "rectangle"
    """Outline of a mask; map hides the tokens that move most, whatever outline that gives. Our choice."""
    aspect: tuple[float, float] = (0.75, 1.3333)
    """Width over height of rectangle or ellipse, log-uniform per clip: least and most. Our choice."""
    smooth: float = 1.0
    """Standard deviation, in tubelet slots, of the filter along a mask's path; 0 leaves it. Our choice."""
    speed: float = 1.5
    """Greatest speed of a simulated mask in tokens per slot. Our choice."""
    # Decoder
    decoder_width: int = 0
    """Width of the decoder; 0 is half the encoder's, as in VideoMAE."""
    decoder_depth: int = 4
    """Blocks of the decoder; 4 in VideoMAE's ViT-S and ViT-B."""
    decoder_heads: int = 0
    """Heads of the decoder; 0 is one per 64 of its width, as in VideoMAE."""

    def build(self, shape: Shape, learned: tuple[int, int] | None) -> None:
        """Makes encoder and decoder; sin-cos places in space and time (VideoMAE numbers all tokens in one row)."""
        if learned:
            raise ValueError("mgm has fixed positions: learned-positions must be 0")
        if self.mask not in self.masks:
            raise ValueError(f"mask must be one of {', '.join(self.masks)}, not {self.mask!r}")
        if self.tubelet < 1 or self.frames < 2 or self.frames % self.tubelet:
            raise ValueError(f"a clip of {self.frames} frames cannot be cut into tubelets of {self.tubelet}")
        if self.stride < 1 or self.search < 1 or self.patch % 2:
            raise ValueError("stride and search must be at least 1, and the patch even")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"the aspect must be 0 < least <= most, not {self.aspect}")
        if not 0 <= self.mask_mix <= 1:
            raise ValueError(f"mask-mix is a share in [0, 1], not {self.mask_mix}")
        if self.mask_mix and self.mask in ("tube", "random"):
            raise ValueError(f"mask-mix is for masks that follow something (motion, simulated), not {self.mask}")
        if self.smooth < 0 or self.speed < 0:
            raise ValueError("smooth and speed must not be negative")
        self.slots = self.frames // self.tubelet
        width = self.decoder_width or shape.width // 2
        heads = self.decoder_heads or max(1, width // 64)
        if width % heads:
            raise ValueError(f"{heads} heads do not divide the decoder's width {width}")
        self.encoder = ClipEncoder(shape.width, shape.depth, shape.heads, self.patch, self.tubelet, cls=self.cls)
        self.decoder = ClipDecoder(shape.width, width, self.decoder_depth, heads, self.patch, self.tubelet)

    def sample(self, sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
        """`frames` uint8 [T, 3, H, W] of a clip, one crop and flip for all; `strength` and `known`: see `moving`."""
        indices = clip_indices(len(sequence.video), self.frames, self.stride, rng)
        read, vectors = sequence.video.read(indices, motion=True)
        frames, motion = crop_clip(list(read), vectors, BLOCK, rng, self.sides, self.grid, self.scale, flip=self.flip)
        wanted = self.mask == "motion" and self.vectors != "codec"
        if wanted and (self.vectors in ("match", "changes") or not np.isfinite(motion).any()):
            motion = self.match(torch.from_numpy(np.asarray(frames))[None])[0].numpy()
        strength, known = self.moving(torch.from_numpy(motion)[None])
        return {"frames": frames, "strength": strength[0].numpy(), "known": known[0].numpy()}

    def match(self, frames: Tensor) -> Tensor:
        """Motion [B, T, h, w, 2] of clips [B, T, 3, H, W] in pixels per frame of the video, by block matching or, where
        `vectors` says so, by what changes."""
        if self.vectors == "changes":
            return clip_changes(frames, self.patch) / self.stride
        return clip_motion(frames, self.patch, self.search) / self.stride

    def moving(self, motion: Tensor) -> tuple[Tensor, Tensor]:
        """How much moves in every tubelet, `strength` [B, S, N] in pixels per frame, and in which slots that is known.

        From vectors [B, T, h, w, 2], NaN where there is none; a slot is `known` [B, S] if one of its frames has any.
        """
        vectors = motion.flatten(2, 3)  # [B, T, N, 2]
        if self.camera:
            vectors = vectors - vectors.nanmedian(dim=2, keepdim=True).values
        size = vectors.norm(dim=-1)
        known = size.isfinite().any(-1).unflatten(1, (-1, self.tubelet))  # [B, S, t]
        total = size.nan_to_num(0.0).unflatten(1, (-1, self.tubelet)).sum(2)
        return total / known.sum(2).clamp(min=1)[..., None], known.any(2)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """{"loss"} of a batch as `sample` makes them, with `index` int64 [B] and `seed` int."""
        frames, mask = masking.normalize(batch["frames"]), self.mask_of(batch)
        prediction, _ = self.predict(frames, noise.keys(batch["seed"], batch["index"]), mask)
        return {"loss": masking.masked_loss(prediction, self.target(frames), mask.masked)}

    def probe(self, batch: dict[str, Any]) -> dict[str, float]:
        """The masked loss, and `hidden_motion`: the share of all motion that lies under the masks."""
        strength = batch["strength"].flatten(1)
        total = float(strength.sum())
        hidden = float((strength * self.mask_of(batch).masked).sum()) / total if total else self.mask_ratio
        return {**super().probe(batch), "hidden_motion": hidden}

    def patches(self, frames: Tensor) -> Tensor:
        """As `masking.tubelets`."""
        return masking.tubelets(frames, self.patch, self.tubelet)

    def target(self, frames: Tensor) -> Tensor:
        """What is to be predicted, [B, S N, t p p 3]."""
        patches = self.patches(frames)
        if not self.norm_pix or self.norm_by == "patch":
            return masking.patch_target(patches, self.norm_pix)
        mean, deviation = colour_statistics(patches)
        return ((patches.unflatten(-1, (-1, 3)) - mean) / deviation).flatten(-2)

    def pictures(self, prediction: Tensor, frames: Tensor) -> Tensor:
        """Frames [B, T, 3, H, W] from predicted tubelets [B, S N, t p p 3]; see MaskedAutoencoder."""
        if self.norm_pix and self.norm_by == "colour":
            mean, deviation = colour_statistics(self.patches(frames))
            pixels = (prediction.float().unflatten(-1, (-1, 3)) * deviation + mean).flatten(-2)
        else:
            pixels = masking.patch_pixels(prediction.float(), self.patches(frames), self.norm_pix)
        grid = masking.grid_of(frames, self.patch)
        cells = pixels.unflatten(1, (self.slots, -1)).unflatten(3, (self.tubelet, -1))  # [B, S, N, t, p p 3]
        return masking.unpatchify(cells.transpose(2, 3).flatten(1, 2), grid, self.patch)

    def mask_of(self, batch: dict[str, Any]) -> masking.Mask:
        """The mask of each sample of a batch as `forward` takes it."""
        key = noise.keys(batch["seed"], batch["index"])
        return self.hide(key, masking.grid_of(batch["frames"], self.patch), (batch["strength"], batch["known"]))

    def predict(
        self,
        frames: Tensor,
        key: Tensor,
        mask: masking.Mask | None = None,
        attends: list[Attend | None] | None = None,
    ) -> tuple[Tensor, masking.Mask]:
        """As in MaskedAutoencoder; where no mask is given, motion for one is matched from the frames."""
        if mask is None and self.mask == "motion":
            mask = self.hide(key, masking.grid_of(frames, self.patch), self.moving(self.match(frames)))
        return super().predict(frames, key, mask, attends)

    def hide(self, key: Tensor, grid: tuple[int, int], moving: tuple[Tensor, Tensor] | None = None) -> masking.Mask:
        """The mask of each clip, from its key and, for `mask` motion, from what `moving` says of it.

        All masks but `random` hide as many tokens in every slot.
        """
        count = grid[0] * grid[1]
        key = noise.fold(key, noise.MASK)
        keep = masking.kept_count(count, self.mask_ratio)
        if self.mask == "random":
            total = self.slots * count
            return masking.random_mask(noise.uniform(key, total), masking.kept_count(total, self.mask_ratio))
        if self.mask == "tube":
            order = noise.uniform(key, count)[:, None].expand(-1, self.slots, -1)
            return masking.slot_mask(order, keep)
        ties = 1e-3 * noise.uniform(noise.fold(key, 1), self.slots * count).unflatten(1, (self.slots, count))
        if self.mask == "simulated":
            return self.mixed(ties - self.distance(self.straight(key, grid), key, grid), keep, key)
        if moving is None:
            raise ValueError("a mask guided by motion needs what `moving` gives beside the frames")
        strength, known = moving
        if self.shape == "map":
            return self.mixed(ties + self.path(strength, known, torch.zeros_like(strength[:, 0])), keep, key)
        points, alive = peaks(strength, grid) if self.guide == "peak" else centroids(strength, grid)
        start = noise.uniform(noise.fold(key, 2), 2) * points.new_tensor([grid[0] - 1, grid[1] - 1])
        return self.mixed(ties - self.distance(self.path(points, known & alive, start), key, grid), keep, key)

    def mixed(self, order: Tensor, keep: int, key: Tensor) -> masking.Mask:
        """The mask that hides, in every slot, all but `keep` tokens: those of highest order [B, S, N], but for a share
        `mask_mix` of them, which are drawn at random from the rest."""
        slots, count = order.shape[1:]
        drawn = round(self.mask_mix * (count - keep))
        if not drawn:
            return masking.slot_mask(order, keep)
        guided = masking.slot_mask(order, keep + drawn).masked.view_as(order)
        chance = noise.uniform(noise.fold(key, 5), slots * count).unflatten(1, (slots, count))
        return masking.slot_mask(chance + guided, keep)

    def path(self, values: Tensor, known: Tensor, start: Tensor) -> Tensor:
        """Values [B, S, D] over time: slots not `known` [B, S] interpolated, then smoothed.

        A clip in which no slot is known has `start` [B, D] throughout.
        """
        slots = torch.arange(known.shape[1], device=known.device)
        before = torch.where(known, slots, -1).cummax(1).values
        after = torch.where(known, slots, len(slots)).flip(1).cummin(1).values.flip(1)
        left = torch.where(before < 0, after, before).clamp(max=len(slots) - 1)
        right = torch.where(after == len(slots), before, after).clamp(min=0)
        share = ((slots - left) / (right - left).clamp(min=1)).clamp(0, 1)[..., None]
        filled = masking.take(values, left) * (1 - share) + masking.take(values, right) * share
        filled = torch.where(known.any(1)[:, None, None], filled, start[:, None])
        if not self.smooth:
            return filled
        weights = torch.exp(-0.5 * ((slots[:, None] - slots) / self.smooth).square())
        return (weights / weights.sum(1, keepdim=True)) @ filled

    def straight(self, key: Tensor, grid: tuple[int, int]) -> Tensor:
        """Points [B, S, 2] on a straight path of random start, direction and speed that is thrown back by the edges."""
        random = noise.uniform(noise.fold(key, 3), 4)
        room = random.new_tensor([grid[0] - 1, grid[1] - 1])
        angle = 2 * math.pi * random[:, 2]
        pace = self.speed * random[:, 3:] * torch.stack([angle.sin(), angle.cos()], 1)
        slots = torch.arange(self.slots, device=key.device)[:, None]
        place = (random[:, None, :2] * room + pace[:, None] * slots).remainder(2 * room.clamp(min=1))
        return torch.minimum(place, 2 * room.clamp(min=1) - place).minimum(room)

    def distance(self, points: Tensor, key: Tensor, grid: tuple[int, int]) -> Tensor:
        """[B, S, N]: distance of every token to a point (row, column) [B, S, 2] of its slot, in the mask's metric."""
        low, high = math.log(self.aspect[0]), math.log(self.aspect[1])
        stretch = (0.5 * (low + (high - low) * noise.uniform(noise.fold(key, 4), 1))).exp()  # [B, 1]
        rows = torch.arange(grid[0], device=points.device).repeat_interleave(grid[1])
        columns = torch.arange(grid[1], device=points.device).repeat(grid[0])
        down = (rows - points[..., :1]).abs() * stretch[..., None]
        across = (columns - points[..., 1:]).abs() / stretch[..., None]
        return torch.hypot(down, across) if self.shape == "ellipse" else torch.maximum(down, across)


def colour_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [..., 1, 3] of each colour in patches [..., D 3], as in VideoMAE: unbiased, plus 1e-6."""
    colours = patches.unflatten(-1, (-1, 3))
    return colours.mean(-2, keepdim=True), colours.std(-2, keepdim=True) + 1e-6


def peaks(strength: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Points (row, column) [B, S, 2] where motion [B, S, N] is strongest around a token; and where there is any.

    Around: a mean over 5x5 tokens in which the middle counts most, so that large objects do not end in a tie.
    """
    pooled = strength.unflatten(2, grid)
    for _ in range(2):
        pooled = functional.avg_pool2d(pooled, 3, 1, 1, count_include_pad=False)
    most, place = pooled.flatten(2).max(2)
    return torch.stack([place // grid[1], place % grid[1]], 2).float(), most > STILL


def centroids(strength: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Points (row, column) [B, S, 2]: means weighted with the square of motion [B, S, N]; and where there is any."""
    weight = strength.square()
    weight = weight / weight.sum(2, keepdim=True).clamp(min=1e-12)
    rows = torch.arange(grid[0], device=strength.device).repeat_interleave(grid[1])
    columns = torch.arange(grid[1], device=strength.device).repeat(grid[0])
    return torch.stack([(weight * rows).sum(2), (weight * columns).sum(2)], 2), strength.amax(2) > STILL
