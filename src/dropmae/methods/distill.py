"""Distillation: a smaller encoder learns the patch features of another, its teacher, on any videos or pictures.

The target is what the teacher computes for the same picture, after its last block or after given ones, with its final
norm. It is compared in two ways: by the cosine of each token, the teacher's mean removed, and by a smooth L1 distance
in units of the deviation of each channel. Mean and deviation are those of the first batch that is seen, which in a run
is the fixed validation samples. Where the student's features have the teacher's width they may be compared as they are;
otherwise a linear layer, which is not part of the encoder, stands between.

Options, each of which can be left out: the student begins as some of the teacher's blocks (`begin`); it sees a part of
the tokens (`mask_ratio`) or two frames at once (`pair`); `matching` adds that a token has to find itself among those
of another crop of the same frame, which needs no label since the crops are known.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dropmae import weights
from dropmae.data.augment import Crops, crop_box, crop_frames
from dropmae.data.clips import Sequence, frame_pair
from dropmae.methods._images import PictureMethod
from dropmae.nn import masking
from dropmae.nn.vit import Attention, Encoder, Linear, Shape, resize_positions
from dropmae.ops import noise


class Head(nn.Module):
    """Mean and deviation of the teacher's channels, and the linear layer from the student's width to them, if any."""

    def __init__(self, width: int, teacher: int, projection: bool) -> None:
        super().__init__()
        self.project = Linear(width, teacher) if projection else nn.Identity()
        self.register_buffer("mean", torch.zeros(teacher))
        self.register_buffer("deviation", torch.zeros(teacher))
        self.mean: Tensor
        self.deviation: Tensor

    @torch.no_grad()
    def settle(self, target: Tensor) -> None:
        """Takes mean and deviation of targets [B, L, C], where there are none yet."""
        if not self.__dict__.get("settled", False):
            if not bool(self.deviation.any()):
                flat = target.flatten(0, 1).float()
                self.mean.copy_(flat.mean(0))
                deviation = flat.std(0, unbiased=False)
                self.deviation.copy_(deviation.clamp(min=0.05 * float(deviation.mean()) + 1e-6))
            self.__dict__["settled"] = True


@dataclass(kw_only=True, eq=False, repr=False)
class Distill(PictureMethod):
    """Regression of a teacher's patch features; see the module's text for its options."""

    # Objective
    teacher: str = "shipped:encoder"
    """Whose features are learned: a weight file or run folder, or a name that `dropmae.load` knows."""
    layers: tuple[int, ...] = ()
    """Blocks of the teacher, from 1, after which its normed tokens are the target, several joined. None: the last."""
    begin: tuple[int, ...] = ()
    """Blocks of the teacher, from 1, that the student begins as: size, patch, heads and form must be the teacher's."""
    projection: bool = True
    """Whether a linear layer stands between the student's features and the target; without, widths must be equal."""
    teacher_grid: int = 0
    """Side in patches of what the teacher sees; 0: the student's grid. Its features are resized to the student's."""
    pair: bool = False
    """Whether the student encodes two frames of a video at once, as DropMAE does; the teacher sees each by itself."""
    # Training samples
    gap: tuple[int, int] = (1, 49)
    """Least and most frames between the two of a pair, as far as the video is long enough."""
    # Objective
    mask_ratio: float = 0.0
    """Share of the tokens that the student does not see, and is not asked for."""
    cosine: float = 1.0
    """Weight of the distance of directions."""
    distance: float = 1.0
    """Weight of the smooth L1 distance."""
    matching: float = 0.0
    """Weight of finding each token in another crop of the same frame; such samples are two crops."""
    temperature: float = 0.07
    """Of the softmax over the similarities in which tokens are found."""
    # Training samples
    colour: float = 0.0
    """How much brightness, contrast and balance of each crop change, for student and teacher alike: 1 is strong."""
    # Machine
    store: str = ""
    """Folder in which the teacher's features of each picture are kept, half precision, for when it comes again."""
    # Model
    teacher_width: int = 0
    """Channels of the target: filled in from the teacher."""
    teacher_digest: str = ""
    """Which file the teacher is: filled in."""

    def build(self, shape: Shape, learned: tuple[int, int] | None) -> None:
        """Makes encoder and head; where the teacher is not known yet, opens it and takes blocks over from it."""
        if self.matching and (self.pair or self.mask_ratio):
            raise ValueError("matching compares two whole crops: leave pair and mask-ratio out")
        if min(self.cosine, self.distance, self.matching, self.mask_ratio, self.colour) < 0 or self.temperature <= 0:
            raise ValueError(
                "cosine, distance, matching, mask-ratio and colour must not be negative, temperature be > 0"
            )
        if self.teacher_grid < 0 or any(number < 1 for number in (*self.layers, *self.begin)):
            raise ValueError("layers and begin count a teacher's blocks from 1, and teacher-grid is not negative")
        self.gap = (int(self.gap[0]), int(self.gap[1]))
        if not 1 <= self.gap[0] <= self.gap[1]:
            raise ValueError(f"the frame gap must be 1 <= least <= most, not {self.gap}")
        self.frames = 2 if self.pair else 1
        masking.kept_count(self.frames * self.grid[0] * self.grid[1], self.mask_ratio)
        if self.begin and not self.depth:
            self.depth = len(self.begin)
            shape = shape._replace(depth=self.depth)
        self.encoder: Encoder = self.make_encoder(shape, learned, self.frames)
        fresh = not self.teacher_digest
        if fresh:
            self.teacher_digest = self.digest()
            self.teacher_width = self.opened.width * max(1, len(self.layers))
        if not self.projection and self.teacher_width != shape.width:
            raise ValueError(
                f"without projection the student must be as wide as the target: {shape.width} and {self.teacher_width}"
            )
        self.head = Head(shape.width, self.teacher_width, self.projection)
        if fresh and self.begin:
            self.take_over()

    def digest(self) -> str:
        """Of the teacher's file."""
        with open(weights.locate(self.teacher), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    @cached_property
    def kept(self) -> list[Any]:
        """The teacher's encoder, in a list so that it is no part of this module. Opened at first use."""
        if self.digest() != self.teacher_digest:
            raise ValueError(f"{self.teacher} is not the teacher that this student learned from: its content differs")
        module = weights.load(self.teacher)
        encoder = module.encoder
        last = max(self.layers, default=0)
        if last and (not isinstance(encoder, Encoder) or last > len(encoder.blocks)):
            raise ValueError(f"{self.teacher} has no block {last}: layers are those of a plain encoder")
        return [encoder.requires_grad_(False).eval()]

    @property
    def opened(self) -> Any:
        return self.kept[0]

    @torch.no_grad()
    def take_over(self) -> None:
        """Student's blocks, embedding, norm and positions become the teacher's; ValueError where they do not fit."""
        source, own = self.opened, self.encoder
        if (
            not isinstance(source, Encoder)
            or max(self.begin) > len(source.blocks)
            or len(self.begin) != len(own.blocks)
        ):
            raise ValueError(f"{self.teacher} has no such blocks, or the student has not {len(self.begin)}")
        given = source.state_dict()
        state = own.state_dict()
        if (own.positions.table is None) != (source.positions.table is None):
            raise ValueError(f"the positions of {self.teacher} are of another kind: see --learned-positions")
        if own.positions.table is not None:
            old, new = source.positions.learned_grid, own.positions.learned_grid
            assert old is not None
            assert new is not None
            given["positions.table"] = resize_positions(given["positions.table"], old, new)
        for name in state:
            words = name.split(".")
            theirs = (
                ".".join(["blocks", str(self.begin[int(words[1])] - 1), *words[2:]]) if words[0] == "blocks" else name
            )
            if theirs not in given and words[0] in ("frame_embed", "cls_token", "cls_position"):
                continue  # what a teacher of single frames or without a class token has not
            if theirs not in given or given[theirs].shape != state[name].shape:
                raise ValueError(f"{self.teacher} is no start for this student: {name} differs (size, patch or form)")
            state[name].copy_(given[theirs])
        parts = ([part for part in encoder.modules() if isinstance(part, Attention)] for encoder in (own, source))
        heads = [own[0].heads for own in parts]
        if heads[0] != heads[1]:
            raise ValueError(f"{self.teacher} has {heads[1]} heads: give --heads")

    def sample(self, sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
        """`frames` uint8 [T, 3, H, W]: one frame, a pair, or two crops of one frame and where they are from."""
        video = sequence.video
        made: dict[str, Any] = {}
        if self.pair:
            numbers = list(frame_pair(len(video), self.gap, rng))
            made["frames"] = crop_frames(
                list(video[numbers]), rng, self.sides, self.scale, flip=self.flip, shared=False
            )
        else:
            frame = video[int(rng.integers(len(video)))]
            crops, places = Crops([], [], self.sides), []
            for _ in range(2 if self.matching else 1):
                box, flip = crop_box(frame.shape[0], frame.shape[1], rng, self.scale), bool(rng.random() < self.flip)
                crops.add(frame, box, flip)
                places.append([*box, flip])
            made["frames"] = crops
            if self.matching:
                made["places"] = np.array(places, np.float32)
        if self.colour:
            count = 2 if self.pair or self.matching else 1
            change = self.colour * rng.uniform(-1, 1, (count, 5))
            made["colours"] = (change * (0.25, 0.25, 0.25, 0.35, 25)).astype(np.float32)
        return made

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """{"loss"} of `frames` [B, T, 3, H, W] uint8 or normalised, `index`, `seed`, and what `sample` adds."""
        return {"loss": self.compared(batch)["loss"]}

    def probe(self, batch: dict[str, Any]) -> dict[str, float]:
        """The loss and its parts, and the mean cosine of student and teacher, their mean removed."""
        return {name: float(value.detach()) for name, value in self.compared(batch).items()}

    def compared(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        frames = masking.normalize(self.coloured(batch))
        target = self.targets(frames)
        self.head.settle(target)
        grid = masking.grid_of(frames, self.patch)
        if self.matching:
            latent = self.encoder.features(frames.flatten(0, 1)).flatten(2).transpose(1, 2)
            latent = latent.unflatten(0, frames.shape[:2]).flatten(1, 2)
        else:
            latent, target = self.seen(frames, target, grid, batch)
        prediction = self.head.project(latent).float()
        parts = {
            "cosine": functional.cosine_similarity(prediction - self.head.mean, target - self.head.mean, dim=-1).mean(),
            "distance": functional.smooth_l1_loss(prediction / self.head.deviation, target / self.head.deviation),
        }
        loss = self.cosine * (1 - parts["cosine"]) + self.distance * parts["distance"]
        if self.matching:
            parts["matching"] = self.found(latent.float(), batch["places"], grid)
            loss = loss + self.matching * parts["matching"]
        return {"loss": loss, **parts}

    def seen(
        self, frames: Tensor, target: Tensor, grid: tuple[int, int], batch: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Latents and targets [B, K, C] of the tokens that the student sees."""
        patches = masking.patchify(frames, self.patch).flatten(1, 2)
        order = noise.uniform(noise.fold(noise.keys(batch["seed"], batch["index"]), noise.MASK), patches.shape[1])
        keep = masking.random_mask(order, masking.kept_count(patches.shape[1], self.mask_ratio)).keep.sort(1).values
        places = self.encoder.places(grid, self.frames).expand(len(frames), -1, -1)
        tokens = self.encoder.embed(masking.take(patches, keep)) + masking.take(places, keep)
        latent = self.encoder.encode(tokens)
        return latent[:, 1:] if self.cls else latent, masking.take(target, keep)

    def coloured(self, batch: dict[str, Any]) -> Tensor:
        """The frames with the colours of the batch: gains of channels and contrast, and brightness in levels."""
        frames = batch["frames"]
        if "colours" not in batch or frames.is_floating_point():
            return frames
        change = batch["colours"].to(frames.device)[..., None, None]
        gain, contrast, shift = 1 + change[:, :, :3], 1 + change[:, :, 3:4], change[:, :, 4:]
        return (((frames.float() * gain) - 128) * contrast + 128 + shift).clamp(0, 255).to(torch.uint8)

    @torch.no_grad()
    def targets(self, frames: Tensor) -> Tensor:
        """float32 [B, T N, C]: the teacher's features of normalised frames [B, T, 3, H, W], on the student's grid."""
        flat = frames.flatten(0, 1)
        features = torch.stack([self.stored(picture) for picture in flat]) if self.store else self.taught(flat)
        return features.float().unflatten(0, frames.shape[:2]).flatten(1, 2)

    def taught(self, pictures: Tensor) -> Tensor:
        """[B, N, C] of normalised pictures [B, 3, H, W]."""
        encoder = self.opened
        if next(encoder.parameters()).device != pictures.device:
            encoder.to(pictures.device)
        grid = masking.grid_of(pictures, self.patch)
        theirs = (self.teacher_grid,) * 2 if self.teacher_grid else grid
        sides = (theirs[0] * encoder.patch, theirs[1] * encoder.patch)
        if sides != tuple(pictures.shape[-2:]):
            pictures = functional.interpolate(pictures, sides, mode="bicubic", antialias=True)
        found = encoder.layers(pictures, self.layers) if self.layers else encoder.features(pictures)
        if theirs != grid:
            found = functional.interpolate(found.float(), grid, mode="bilinear")
        return found.flatten(2).transpose(1, 2)

    def stored(self, picture: Tensor) -> Tensor:
        """As `taught`, of one picture [3, H, W], from the store where it is there; else it is put there.

        Files are found by the picture and the teacher, so one of other weights or another grid is never taken; one that
        cannot be read is made anew.
        """
        how = f"{self.teacher_digest} {self.layers} {self.teacher_grid} {tuple(picture.shape)} {self.patch}"
        name = hashlib.sha256(how.encode() + picture.cpu().numpy().tobytes()).hexdigest()
        path = Path(self.store) / name[:2] / f"{name}.safetensors"
        if path.is_file():
            try:
                return weights.read_tensors(path)["features"].to(picture.device)
            except (OSError, KeyError, ValueError):
                pass
        features = self.taught(picture[None])[0]
        weights.write_tensors({"features": features}, path, half=True)
        return features.half()

    def found(self, latent: Tensor, places: Tensor, grid: tuple[int, int]) -> Tensor:
        """Cross-entropy of where each token of the first crop is in the second, shared by the four nearest tokens.

        `latent` [B, 2 N, C] and `places` [B, 2, 5]: top, left, height, width and flip of each crop.
        """
        first, second = functional.normalize(latent, dim=-1).chunk(2, 1)
        logits = (first @ second.transpose(1, 2) / self.temperature).log_softmax(-1)
        size = torch.tensor(grid, device=latent.device)
        steps = [(torch.arange(side, device=latent.device) + 0.5) / side for side in grid]
        at = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1).view(1, -1, 2)  # row and column, 0 to 1
        one, two = (part[:, 0] for part in places.to(latent).split(1, 1))
        at = flipped(at, one) * one[:, None, 2:4] + one[:, None, :2]
        at = flipped((at - two[:, None, :2]) / two[:, None, 2:4], two)
        valid = ((at > 0) & (at < 1)).all(-1)
        place = (at * size - 0.5).clamp(min=torch.zeros_like(size), max=size - 1)
        low = place.floor()
        share, high = place - low, (low + 1).clamp(max=size - 1)
        loss = torch.zeros_like(valid, dtype=logits.dtype)
        for rows, down in ((low[..., 0], 1 - share[..., 0]), (high[..., 0], share[..., 0])):
            for columns, across in ((low[..., 1], 1 - share[..., 1]), (high[..., 1], share[..., 1])):
                index = (rows * grid[1] + columns).long()
                loss = loss - down * across * logits.gather(2, index[..., None])[..., 0]
        return ((loss * valid).sum(1) / valid.sum(1).clamp(min=1)).mean()

    def provenance(self) -> dict[str, Any]:
        """The licence of the teacher, which the student's follows, and who it was."""
        header = weights.read_header(self.teacher)
        return {
            "licence": header.get("licence") or f"that of its teacher {Path(self.teacher).name}, which states none",
            "teacher": {"file": Path(self.teacher).name, "sha256": self.teacher_digest, "class": header["name"]},
        }


def flipped(at: Tensor, place: Tensor) -> Tensor:
    """Places (row, column) from 0 to 1, mirrored where the crop is."""
    mirrored = torch.stack([at[..., 0].expand(len(place), -1), (1 - at[..., 1]).expand(len(place), -1)], -1)
    return torch.where(place[:, None, 4:] > 0, mirrored, at)
