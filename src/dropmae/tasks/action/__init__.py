"""Action recognition: what a video shows, by fine-tuning an encoder or by a probe on it as it is.

VideoMAE's fine-tuning (arXiv 2203.12602), which MGM and all work in its line is judged by; MAE's linear probe, of the
mean token; V-JEPA's attentive probe (2404.08471). Encoders of clips see joint tokens of space and time, those of frames
and pairs each by itself. B clips, T frames, L tokens, C width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dropmae.contracts import PRESET, settle
from dropmae.data.augment import crop_frames
from dropmae.data.clips import generator
from dropmae.metrics.classes import class_of
from dropmae.nn import masking
from dropmae.nn.vit import SIZES, ClipEncoder, Encoder, Size, drop_path, sincos_line
from dropmae.ops import noise
from dropmae.sequence import Sequence
from dropmae.tasks._clips import ClipTask, Sampling, clip_tokens, training_frames
from dropmae.tasks.action.augment import erase, mixed, rand_augment, soft_cross_entropy, soft_targets
from dropmae.tasks.action.head import AttentiveHead, MeanHead
from dropmae.video.frames import natural

MOTIONS = ("down", "left", "right", "still", "up")
"""The classes of rendered motions, where nothing else says what is to be learned."""
PRESETS: dict[str, dict[str, Any]] = {
    "k400": dict(sampling="dense", stride=4, views=5, flip=0.5, layer_decay=0.75, drop_path=0.1, dropout=0.0),
    "ssv2": dict(sampling="uniform", stride=2, views=2, flip=0.0, layer_decay=0.75, drop_path=0.1, dropout=0.0),
    "ucf101": dict(sampling="dense", stride=4, views=5, flip=0.5, layer_decay=0.70, drop_path=0.2, dropout=0.5),
    "hmdb51": dict(sampling="dense", stride=2, views=10, flip=0.5, layer_decay=0.70, drop_path=0.2, dropout=0.5),
}
"""VideoMAE's scripts for ViT-B. Labels of Something-Something name left and right, so nothing is flipped."""
PROTOCOLS: dict[str, dict[str, Any]] = {
    "finetune": dict(randaugment=True, erasing=0.25, mixup=0.8, cutmix=1.0, smoothing=0.1),
    "linear": dict(randaugment=False, erasing=0.0, mixup=0.0, cutmix=0.0, smoothing=0.0),
    "attentive": dict(randaugment=True, erasing=0.25, mixup=0.0, cutmix=0.0, smoothing=0.0),
}
MIXING = 8
"""Stream of what a batch is mixed by."""


@dataclass(kw_only=True, eq=False, repr=False)
class Action(ClipTask):
    """Classifies videos. An option that is not given is the preset's, or the protocol's."""

    use = ("sampling", "stride", "views", "crops", "every", "memory")
    recipe = {
        "schedule": "cosine", "lr": 1e-3, "min_lr": 1e-6, "warmup": "5%", "weight_decay": 0.05, "betas": (0.9, 0.999),
        "clip": 0.0, "global_batch": 512, "epochs": 100,
    }  # fmt: skip

    # Model
    preset: Literal["k400", "ssv2", "ucf101", "hmdb51"] = "k400"
    """Whose script is followed: how frames are chosen, flips, layer decay, drop path, dropout, views."""
    protocol: Literal["finetune", "linear", "attentive"] = "finetune"
    """finetune: everything learns; linear and attentive: a head on the encoder as it is."""
    size: Size = "base"
    """Width, depth and heads of the encoder."""
    depth: int = 0
    """Blocks of the encoder; 0 takes those of the size."""
    patch: int = 0
    """Side of a patch in pixels; 0 takes that of the size (16, for huge 14)."""
    attend: Literal["clip", "pairs", "frames"] = "clip"
    """What a token attends to: all of space and time (mgm), the other frame of its pair (twinmae, dropmae), or its own
    frame (mae, siammae). An encoder of frames can be taken over for each."""
    tubelet: int = 2
    """Frames of a token, where it attends to the clip."""
    cls: bool = False
    """Whether the encoder has a class token, as mae and siammae have; it is no part of the mean."""
    labels: tuple[str, ...] = ()
    """Names of the classes; by default those of the training data, and without any those of rendered motions."""
    time_code: bool = True
    """attentive: whether tokens of frames and pairs carry a sin-cos code of their time, which they else do not tell."""
    # Frames of a clip
    sampling: Sampling = PRESET
    """dense: a window of frames, `stride` apart; uniform: a frame of each of as many equal parts of the video."""
    stride: int = PRESET
    """Frames of the video from one frame of a dense clip to the next."""
    # In use
    views: int = PRESET
    """Clips that the verdict on a whole video is the mean of, over time."""
    # Training samples
    flip: float = PRESET
    """Probability of a horizontal flip: 0 where classes tell left from right."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop as a share of the frame: least and most."""
    randaugment: bool = PRESET
    """Four random operations of RandAugment, at level 7 of 10."""
    erasing: float = PRESET
    """Probability that a rectangle of the clip is noise."""
    # Objective
    mixup: float = PRESET
    """Alpha of mixup within a micro-batch; 0 for none."""
    cutmix: float = PRESET
    """Alpha of cutmix within a micro-batch; 0 for none."""
    smoothing: float = PRESET
    """Share of the target that is spread over all classes."""
    layer_decay: float = PRESET
    """finetune: factor on the learning rate from each block to the one below it."""
    drop_path: float = PRESET
    """finetune: probability with which the last block's parts are left out, less in those before."""
    dropout: float = PRESET
    """finetune: share of the mean token that is left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        together = {"clip": self.tubelet, "pairs": 2, "frames": 1}
        for name, known in (("preset", PRESETS), ("protocol", PROTOCOLS), ("attend", together), ("size", SIZES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, not {getattr(self, name)!r}")
        settle(self, PRESETS[self.preset] | PROTOCOLS[self.protocol])
        if self.protocol != "finetune":
            self.drop_path = self.dropout = 0.0
        self.labels = tuple(self.labels) or MOTIONS
        shape = SIZES[self.size]
        self.patch, depth = self.patch or shape.patch, self.depth or shape.depth
        self.check_clips()
        length = together[self.attend]
        if length < 1 or self.frames % length or self.image % self.patch:
            raise ValueError(
                f"{self.frames} frames of {self.image} pixels cannot be cut into {length} and {self.patch}"
            )
        if len(set(self.labels)) < len(self.labels) or len(self.labels) < 2:
            raise ValueError("labels are two different names of classes at least")
        for name in ("flip", "erasing", "smoothing", "drop_path", "dropout"):
            if not 0 <= getattr(self, name) < 1 + (name in ("flip", "erasing")):
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        if self.mixup < 0 or self.cutmix < 0 or not 0 < self.layer_decay <= 1 or depth < 1:
            raise ValueError("mixup and cutmix must not be negative, layer_decay from 0 to 1, depth positive")
        self.grid = (self.image // self.patch,) * 2
        self.encoder: Any
        if self.attend == "clip":
            self.encoder = ClipEncoder(shape.width, depth, shape.heads, self.patch, self.tubelet, cls=self.cls)
        else:
            self.encoder = Encoder(shape.width, depth, shape.heads, self.patch, frames=length, cls=self.cls)
        self.encoder.positions.home = self.grid
        if self.protocol == "finetune":
            self.encoder.norm = nn.Identity()  # the mean has a norm of its own
        else:
            self.encoder.requires_grad_(False)
        if self.protocol == "attentive":
            self.head = AttentiveHead(shape.width, shape.heads, len(self.labels))
        else:
            self.head = MeanHead(shape.width, len(self.labels), self.dropout, self.protocol == "linear")

    @classmethod
    def for_data(cls, data: Iterable[Sequence], fields: dict[str, Any]) -> dict[str, Any]:
        """With the classes of the data as `labels`, where they are not given; ValueError where it has none."""
        if fields.get("labels"):
            return fields
        found = {name for sequence in data if (name := class_of(sequence.targets)) is not None}
        if not found:
            raise ValueError("the training data tells no classes: take folders class/video (actions=DIR) or the like")
        return {**fields, "labels": tuple(sorted(found, key=natural))}

    def class_names(self) -> tuple[str, ...]:
        return self.labels

    def train(self, mode: bool = True) -> Action:
        """A frozen encoder stays as it is."""
        super().train(mode)
        if self.protocol != "finetune":
            self.encoder.eval()
        return self

    def resize_image(self, image: int | tuple[int, int]) -> None:
        """Places are computed for the grid at hand; ValueError for pictures that are not square."""
        side, other = (image, image) if isinstance(image, int) else image
        if side != other or side % self.patch:
            raise ValueError(f"pictures are squares of a multiple of {self.patch} pixels, not {side}x{other}")
        self.image, self.grid = side, (side // self.patch,) * 2

    def adopt(self, encoder: Any, grid: tuple[int, int]) -> set[str]:
        """Spreads a patch embedding of frames evenly over the frames of a tubelet."""
        theirs = getattr(getattr(encoder, "patch_embed", None), "weight", None)
        mine = self.encoder.patch_embed.weight
        if theirs is None or theirs.ndim != 4 or mine.ndim != 5 or theirs.shape != mine[:, :, 0].shape:
            return set()
        mine.copy_((theirs / self.tubelet)[:, :, None].expand_as(mine))
        return {"encoder.patch_embed.weight"}

    def groups(self, options: Any) -> list[dict[str, Any]]:
        """Block b of L learns at layer_decay^(L - b) times the head's rate, embeddings at layer_decay^(L + 1) times.

        Vectors and biases do not decay.
        """
        made: dict[tuple[float, float], list[str]] = {}
        top = len(self.encoder.blocks) + 1
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                words = name.split(".")
                level = top if words[0] == "head" else int(words[2]) + 1 if words[1] == "blocks" else 0
                rate = self.layer_decay ** (top - level) if self.protocol == "finetune" else 1.0
                made.setdefault((rate, float(parameter.ndim > 1)), []).append(name)
        return [{"names": names, "lr": rate, "decay": decay} for (rate, decay), names in made.items()]

    # ---------------------------------------------------------------- training

    def sample(self, sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
        """`clip` uint8 [T, 3, S, S] of a labelled video, and its `label`; OSError where its class is not learned."""
        name = class_of(sequence.targets)
        if name not in self.labels:
            what = "it has no class" if name is None else f"its class {name!r} is none of the {len(self.labels)}"
            raise OSError(f"{what} that are learned")
        video = sequence.video
        chosen = training_frames(len(video), self.frames, self.stride, self.sampling, rng)
        frames = list(video[chosen])
        if self.randaugment:
            frames = rand_augment(frames, rng)
        sides = (self.image, self.image)
        clip = np.asarray(crop_frames(frames, rng, sides, self.scale, flip=self.flip, shared=True))
        if rng.random() < self.erasing:
            erase(clip, rng)
        return {"clip": clip, "label": self.labels.index(name)}

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """{"loss", "top1"} of a batch as `sample` makes them; in training, clips of a micro-batch are mixed."""
        clips, label, share, key = masking.normalize(batch["clip"]), batch["label"], 1.0, None
        if self.training:
            key = noise.keys(batch["seed"], batch["index"])
            draw = generator(batch["seed"], MIXING, int(batch["index"][0])) if self.mixup or self.cutmix else None
            clips, share = (clips, 1.0) if draw is None else mixed(clips, self.mixup, self.cutmix, draw)
        logits = self.logits(clips, key)
        smoothing = self.smoothing if self.training else 0.0
        loss = soft_cross_entropy(logits, soft_targets(label, len(self.labels), smoothing, share))
        return {"loss": loss, "top1": (logits.argmax(-1) == label).float().mean()}

    def logits(self, clips: Tensor, key: Tensor | None = None) -> Tensor:
        """[B, classes] of clips [B, T, 3, S, S]; keys int32 [B] decide what is dropped while training."""
        drop = drop_path(key, len(self.encoder.blocks), self.drop_path) if key is not None and self.drop_path else None
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.protocol == "finetune"):
            tokens = clip_tokens(self.encoder, clips, drop)
        if self.protocol == "attentive" and self.time_code and self.attend != "clip":
            code = torch.from_numpy(sincos_line(self.frames, tokens.shape[-1])).to(tokens.device)
            tokens = tokens + code.repeat_interleave(tokens.shape[1] // self.frames, 0)
        return self.head(tokens, key)

    def scores(self, clips: Tensor) -> Tensor:
        """Probabilities float32 [B, classes] of clips uint8 [B, T, 3, S, S]."""
        return functional.softmax(self.logits(clips).float(), -1)
