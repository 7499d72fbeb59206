"""Samples as a person looks at them, plain and evenly spread over the videos, and their reconstructions."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from collections.abc import Sequence as Listed
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dropmae.data.clips import Sequence, collate, generator
from dropmae.progress import say
from dropmae.visualize.charts import sheet, to_bytes

STREAM = 6
"""Keeps the random choices made here apart from those of training."""
SHOWN = 4
"""Most frames of one sample that a picture shows."""
PORTION = 4
"""Samples that go through the network together."""
TRIES = 20
"""Sequences tried for one sample, each the next in order, where those before cannot be read."""
HIDDEN = 0.91
"""Grey of a hidden patch."""
NORMALISED = "Hidden patches are predicted with mean and contrast removed; those of the true patch are put back."


def without_augmentation(module: Any) -> Any:
    """A module with the same weights, whose samples are the middle of the frame, not shrunk or flipped at random."""
    made = copy.copy(module)
    for name, value in {"scale": (1.0, 1.0), "flip": 0.0, "crop": "shared"}.items():
        if name in vars(module):
            setattr(made, name, value)
    return made


def looked_at(
    module: Any,
    sequences: list[Sequence],
    count: int,
    seed: int,
    *,
    augment: bool = False,
    several: bool = True,
    quiet: bool = False,
) -> tuple[list[str], dict[str, Any]]:
    """Names and a batch of `count` samples of sequences evenly spread; one that cannot be read gives way to the next.

    With `several`, few sequences give several samples each; `quiet` leaves unreadable ones unsaid. OSError where
    none can be read.
    """
    spread = np.arange(count) % len(sequences)
    if len(sequences) >= count or not several:
        spread = np.unique(np.linspace(0, len(sequences) - 1, count).round().astype(int))
    names, made = [], []
    reasons: dict[int, str] = {}
    shown = module if augment else without_augmentation(module)
    for number, start in enumerate(spread.tolist()):
        for position in ((start + step) % len(sequences) for step in range(min(TRIES, len(sequences)))):
            known = sequences[position]
            if position in reasons or (known.name in names and not several):
                continue
            sequence = Sequence(known.name, known.source, known.targets)
            try:
                sample = shown.sample(sequence, generator(seed, STREAM, number))
            except OSError as error:
                reasons[position] = str(error)
                continue
            names.append(known.name)
            made.append({**sample, "index": number, "reports": []})
            break
    for reason in dict.fromkeys(() if quiet else reasons.values()):
        say(f"passed over: {reason}")
    if not made:
        raise OSError(f"no video could be read; the first: {next(iter(reasons.values()))}")
    batch = collate(made)
    device = next(module.parameters()).device
    batch = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
    return names, {**batch, "seed": seed, "step": 0, "progress": 1.0}


def portions(batch: dict[str, Any], size: int = PORTION) -> Iterator[dict[str, Any]]:
    """The batch in parts of at most `size` samples."""
    for start in range(0, len(batch["index"]), size):
        yield {k: v[start : start + size] if isinstance(v, Tensor) else v for k, v in batch.items()}


@torch.no_grad()
def reconstructions(module: Any, batch: dict[str, Any]) -> dict[str, np.ndarray]:
    """{"frames", "hidden", "prediction", "pasted"} float32 [B, T, H, W, 3] in [0, 1], of at most SHOWN frames."""
    parts = [{k: v.float().cpu() for k, v in module.reconstruct(part).items()} for part in portions(batch)]
    frames, prediction, masked = (torch.cat([part[k] for part in parts]) for k in ("frames", "prediction", "masked"))
    shown = np.unique(np.linspace(0, frames.shape[1] - 1, SHOWN).round().astype(int))
    frames, prediction, masked = frames[:, shown], prediction[:, shown], masked[:, shown]
    side = frames.shape[-1] // masked.shape[-1]
    covered = masked.repeat_interleave(side, -2).repeat_interleave(side, -1)[:, :, None]
    pictures = {
        "frames": frames,
        "hidden": torch.lerp(frames, torch.tensor(HIDDEN), covered),
        "prediction": prediction,
        "pasted": torch.lerp(frames, prediction, covered),
    }
    return {name: picture.permute(0, 1, 3, 4, 2).numpy() for name, picture in pictures.items()}


def caption(module: Any) -> str:
    """What must be said below a picture of a module's reconstructions."""
    return NORMALISED if module.norm_pix else "Hidden patches are predicted as plain pixels."


def reconstruction_sheet(
    made: dict[str, np.ndarray], names: list[str], frame_labels: Listed[str] = (), text: str = ""
) -> Image.Image:
    """Four columns (frame, what the network sees, reconstruction, visible pasted), a row for each frame."""
    rows, labels, breaks = [], [], []
    count = made["frames"].shape[1]
    for sample, name in enumerate(names):
        for frame in range(count):
            rows.append([to_bytes(made[kind][sample, frame]) for kind in ("frames", "hidden", "prediction", "pasted")])
            pair = f"{name} · earlier and later frame" if count == 2 else name
            labels.append(frame_labels[frame] if frame < len(frame_labels) else (pair if frame == 0 else ""))
            breaks.append(frame == 0)
    return sheet(rows, ["frame", "seen", "reconstruction", "visible pasted"], labels, breaks, text)
