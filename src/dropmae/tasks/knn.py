"""Action recognition without training: the nearest labelled videos, by the features of any encoder as it is.

The mean of a clip's tokens is compared with those of a gallery by cosine; the nearest vote for their classes, each with
the weight exp(cosine / temperature) (the k-NN classifier of DINO, arXiv 2104.14294).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae.data.clips import generator
from dropmae.data.mixture import open_source
from dropmae.metrics.classes import class_of
from dropmae.progress import say
from dropmae.sequence import Sequence
from dropmae.tasks._clips import ClipTask, clip_tokens, scaled, square_crops, view_frames

DRAWN = 8
"""Clips that are taken of a sequence which makes them up."""
RENDERED = "motions=."
"""The gallery where none is named: rendered motions, which need no data."""


@dataclass(kw_only=True, eq=False, repr=False)
class KNN(ClipTask):
    """Classifies videos by the nearest ones of a labelled gallery; `encoder` is any with dense `features`."""

    training_free = True
    use = ("sampling", "stride", "views", "crops", "every", "memory", "gallery", "k", "temperature")

    gallery: str = ""
    """Labelled videos to compare with, written as training data: ucf101=DIR. By default those of the benchmark's train
    split, elsewhere rendered motions."""
    views: int = 1
    """Clips that the verdict on a whole video is the mean of, over time."""
    crops: int = 1
    """Squares, along the longer side, that each of them is seen in."""
    most: int = 10_000
    """Most videos of the gallery that are taken, at random."""
    k: int = 20
    """Nearest videos that vote."""
    temperature: float = 0.07
    """Of their weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_clips()
        if self.k < 1 or self.most < 1 or self.temperature <= 0:
            raise ValueError("k and most must be at least 1, and the temperature positive")

    @classmethod
    def for_benchmark(cls, name: str, root: str = "", **fields: Any) -> KNN:
        """With the benchmark's train split as the gallery."""
        fields.setdefault("gallery", f"{name}={root}" if name and root else "")
        return cls(**fields)

    @cached_property
    def bank(self) -> tuple[tuple[str, ...], Tensor, Tensor]:
        """Classes of the gallery, features [N, C] of its videos, of a central clip each, and their classes int64 [N].

        Videos that cannot be read are left out; ValueError where none is left.
        """
        entry, rng = self.gallery or RENDERED, generator(0, 9)
        sequences = open_source(entry).sequences
        chosen = sorted(rng.permutation(len(sequences))[: self.most].tolist())
        endless = [place for place in chosen if type(sequences[place]).drawn is not Sequence.drawn]
        chosen += endless * (DRAWN - 1)  # each time another clip
        device, names, features, bad = next(self.encoder.parameters()).device, list[str](), list[Tensor](), 0
        for number, place in enumerate(chosen):
            sequence = sequences[place].drawn(generator(0, 9, number))
            name = class_of(sequence.targets)
            try:
                if name is None:
                    continue
                video = sequence.video
                step = self.stride if self.sampling == "dense" else 1
                kept = view_frames(-(-len(video) // step), self.frames, 0, 1, self.sampling) * step
                clip = np.stack([scaled(frame, self.image) for frame in video[kept]])
                video.close()
            except OSError:
                bad += 1
                continue
            features.append(self.features(torch.from_numpy(square_crops(clip, 1)).to(device)))
            names.append(name)
        if not features:
            raise ValueError(f"{entry}: no labelled video to compare with")
        classes = sorted(set(names))
        say(
            f"k-NN: {len(names)} videos of {len(classes)} classes from {entry}"
            + f"; {bad} could not be read" * bool(bad)
        )
        owners = torch.tensor([classes.index(name) for name in names], device=device)
        return tuple(classes), torch.cat(features), owners

    def features(self, clips: Tensor) -> Tensor:
        """Unit vectors float32 [B, C] of clips uint8 [B, T, 3, S, S]."""
        return functional.normalize(clip_tokens(self.encoder, clips).float().mean(1), dim=-1)

    def class_names(self) -> tuple[str, ...]:
        return self.bank[0]

    def scores(self, clips: Tensor) -> Tensor:
        """Shares float32 [B, classes] of the votes for clips uint8 [B, T, 3, S, S]."""
        classes, bank, owners = self.bank
        near, place = (self.features(clips) @ bank.T).topk(min(self.k, len(bank)))
        votes = functional.softmax(near / self.temperature, -1)
        return votes.new_zeros(len(clips), len(classes)).scatter_add_(1, owners[place], votes)
