"""Where a decoder's attention goes: shares of the token itself, its own frame and the others, and f_tem.

B samples, H heads, L decoder tokens of which each frame (or tubelet) has N, on a grid h x w.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dropmae.data.clips import Sequence
from dropmae.nn import masking
from dropmae.visualize.charts import heat, sheet, to_bytes
from dropmae.visualize.views import looked_at, portions

MASKS = 8
"""Random masks over which an f_tem map is averaged."""


@dataclass
class AttentionProbe:
    """Attention of one decoder layer: plain softmax attention that also notes where each token's share of it goes.

    Tokens of a frame follow each other; what the frames leave over comes first and is the class token.
    """

    frame_tokens: int
    """N."""
    own: list[Tensor] = field(default_factory=list)
    """Attention within the frame, the token itself included; like the others float32 [B, L - class], mean of heads."""
    itself: list[Tensor] = field(default_factory=list)
    between: list[Tensor] = field(default_factory=list)
    temporal: list[Tensor] = field(default_factory=list)
    """f_tem: the largest attention to one token of another frame."""
    extra: int = 0
    """Class tokens."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        share = torch.softmax(logits.float(), dim=-1)
        self.extra = share.shape[-1] % self.frame_tokens
        inner = share[..., self.extra :, self.extra :]
        frame = torch.arange(inner.shape[-1], device=share.device) // self.frame_tokens
        same = frame[:, None] == frame
        own = (inner * same).sum(-1)
        across = inner.masked_fill(same, 0)
        self.own.append(own.mean(1).cpu())
        self.itself.append(inner.diagonal(dim1=-2, dim2=-1).mean(1).cpu())
        self.between.append(across.sum(-1).mean(1).cpu())
        self.temporal.append(across.amax(-1).mean(1).cpu())
        return share.to(value.dtype) @ value

    def shares(self, rows: Tensor) -> dict[str, float]:
        """Means over the rows chosen by bool [B, L]."""
        noted = (self.own, self.itself, self.between, self.temporal)
        own, itself, between, temporal = (float(torch.cat(part)[rows].double().mean()) for part in noted)
        return {
            "within": own,
            "within_others": own - itself,
            "itself": itself,
            "between": between,
            "f_tem": temporal,
        }


@torch.no_grad()
def watch(module: Any, batch: dict[str, Any], *, whole: bool) -> tuple[list[AttentionProbe], Tensor]:
    """An AttentionProbe per decoder layer that has seen the batch, and which tokens were hidden, bool [B, L].

    ValueError for methods whose decoder does not attend to several frames jointly.
    """
    grid = masking.grid_of(batch["frames"], module.patch)
    probes = [AttentionProbe(grid[0] * grid[1]) for _ in module.decoder.blocks]
    masked = [module.watch(part, probes, whole=whole).masked.cpu() for part in portions(batch)]
    title = type(module).__name__
    if masked[0].shape[1] <= grid[0] * grid[1]:
        raise ValueError(f"{title} sees one frame at a time: there is no attention between frames")
    if not probes[0].own:
        raise ValueError(f"{title}'s decoder attends to each frame in a layer of its own: it has no shares to compare")
    return probes, torch.cat(masked)


def measure(
    module: Any, sequences: list[Sequence], count: int, seed: int, *, whole: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Where the decoder's attention goes, JSON-able: {"method", "videos", "uniform", "layers"}.

    A layer has the shares `within` (of the token's own frame), `itself`, `within_others` (the former without the
    latter) and `between`, and `f_tem`: means over all rows and heads. With `_deviation` it is the standard deviation
    over videos; below `hidden` and `visible` are the means over those rows alone. `uniform` is what attention spread
    evenly over all tokens would give.
    """
    names, batch = looked_at(module, sequences, count, seed, several=False, quiet=quiet)
    probes, masked = watch(module, batch, whole=whole)
    layers = []
    for number, probe in enumerate(probes, 1):
        layer: dict[str, Any] = {"layer": number, **probe.shares(torch.ones_like(masked))}
        for name, rows in (("within", probe.own), ("between", probe.between), ("f_tem", probe.temporal)):
            layer[f"{name}_deviation"] = float(torch.cat(rows).mean(1).std(correction=0))
        if not whole:
            layer |= {"hidden": probe.shares(masked), "visible": probe.shares(~masked)}
        layers.append(layer)
    frame, every = probes[0].frame_tokens, masked.shape[1]
    keys = every + probes[0].extra
    return {
        "method": type(module).__name__,
        "videos": len(names),
        "tokens": every,
        "uniform": {"within": frame / keys, "itself": 1 / keys, "between": (every - frame) / keys, "f_tem": 1 / keys},
        "layers": layers,
    }


@dataclass
class Temporal:
    """f_tem over the two frames of one sample."""

    name: str
    frames: np.ndarray
    """float32 [2, H, W, 3] in [0, 1]."""
    maps: np.ndarray
    """float32 [layers, 2, h, w]."""


def temporal_maps(
    module: Any, sequences: list[Sequence], count: int, seed: int, *, whole: bool = False
) -> list[Temporal]:
    """f_tem maps of one sample each of `count` videos, averaged over heads and MASKS random masks.

    Of clips of more than two frames the first and the last are taken.
    """
    names, batch = looked_at(module, sequences, count, seed, several=False, quiet=True)
    grid = masking.grid_of(batch["frames"], module.patch)
    found = []
    for number, name in enumerate(names):
        times = 1 if whole else MASKS
        several = {
            k: v[number : number + 1].expand(times, *v.shape[1:]) if isinstance(v, Tensor) else v
            for k, v in batch.items()
        }
        index = torch.arange(times, device=batch["index"].device) + MASKS * number
        probes, _ = watch(module, {**several, "index": index}, whole=whole)
        maps = torch.stack([torch.cat(probe.temporal).mean(0).unflatten(0, (-1, *grid)) for probe in probes])
        frames = masking.denormalize(masking.normalize(batch["frames"][number])).permute(0, 2, 3, 1).cpu()
        found.append(Temporal(name, frames[[0, -1]].numpy(), maps[:, [0, -1]].numpy()))
    return found


def temporal_sheet(runs: list[list[Temporal]], titles: list[str]) -> Image.Image:
    """f_tem laid over the frames: a row for each video, run and frame; columns are the mean and every layer.

    The colours of a frame and column span the range of all runs, so that runs can be compared.
    """
    layers = max(len(sample.maps) for samples in runs for sample in samples)
    columns = ["frame", "mean", *(f"layer {number}" for number in range(1, layers + 1))]
    rows, labels, breaks, notes = [], [], [], []
    for samples in zip(*runs):
        stacks = [np.concatenate([sample.maps.mean(0, keepdims=True), sample.maps]) for sample in samples]
        for run, (sample, stack) in enumerate(zip(samples, stacks)):
            for frame, picture in enumerate(sample.frames):
                row, note = [to_bytes(picture)], [""]
                for place in range(layers + 1):
                    if place >= len(stack):  # this run's decoder has fewer layers than another's
                        row.append(np.full_like(row[0], 255))
                        note.append("")
                        continue
                    levels = [other[place, frame] for other in stacks if place < len(other)]
                    low, high = min(float(v.min()) for v in levels), max(float(v.max()) for v in levels)
                    row.append(heat(picture, (stack[place, frame] - low) / max(high - low, 1e-9)))
                    note.append(f"{low:.3f} to {high:.3f}" if run == 0 else "")
                rows.append(row)
                notes.append(note)
                labels.append(f"{titles[run]} · {sample.name}" if frame == 0 else "")
                breaks.append(frame == 0)
    text = (
        "f_tem: the largest attention of a token to one token of the other frame, mean of heads"
        f" (and of {MASKS} random masks). The colours span the range written in the corner."
    )
    return sheet(rows, columns, labels, breaks, text, notes)
