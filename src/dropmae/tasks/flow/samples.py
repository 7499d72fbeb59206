"""Training samples of flow: RAFT's augmentation (Teed and Deng, ECCV 2020), for dense and for sparse truth.

Pictures are scaled, stretched, flipped and cropped; colours jittered, of both frames alike or of each by itself; and
rectangles of frame 2 filled with its mean. Truth with holes is not interpolated: its vectors are carried to the cells
that they fall into, and colours stay alike. Hue turns in the plane of two colour differences rather than in HSV.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from dropmae.sequence import Sequence

Rng = np.random.Generator
UNKNOWN = 255
"""In a map of occlusion: nobody says."""
GREY = torch.tensor([0.299, 0.587, 0.114])
HUE = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""From red, green, blue to brightness and two differences of colour."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What is done to a pair; the defaults are RAFT's."""

    sides: tuple[int, int]
    scales: tuple[float, float]
    """Binary logarithms of the least and greatest scale."""
    scaled: float = 0.8
    """Probability of scaling, and of stretching."""
    stretch: float = 0.2
    flips: tuple[float, float] = (0.5, 0.1)
    """Probabilities of a flip, left to right and upside down."""
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.5 / 3.14)
    """Brightness, contrast, saturation and hue; of sparse truth three quarters of the first three."""
    apart: float = 0.2
    """Probability that each frame has colours of its own."""
    erase: float = 0.5
    """Probability that parts of frame 2 are erased."""
    eraser: tuple[int, int] = (50, 100)
    """Least and greatest side in pixels of such a part."""
    noise: float = 0.0
    """Greatest deviation of noise in grey levels."""


def pair_of(sequence: Sequence, rng: Rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A frame and the next uint8 [2, H, W, 3], the first one's flow [H, W, 2] and occlusion uint8 [H, W].

    OSError where no frame has flow or the sizes do not agree.
    """
    numbers = [frame for frame in sequence.targets if frame + 1 < len(sequence.video)]
    for frame in rng.permutation(numbers).tolist() if numbers else ():
        target = sequence.targets[frame]
        if target.flow is not None and np.isfinite(target.flow).any():
            frames = sequence.video[[frame, frame + 1]]
            if frames.shape[1:3] != target.flow.shape[:2]:
                raise OSError(f"frame {frame} is {frames.shape[1:3]}, and its flow {target.flow.shape[:2]}")
            hidden = target.occluded
            occluded = np.full(frames.shape[1:3], UNKNOWN, np.uint8) if hidden is None else hidden.astype(np.uint8)
            return frames, target.flow, occluded
    raise OSError("no flow is known in it")


def flow_sample(sequence: Sequence, rng: Rng, changes: Changes) -> dict[str, Any]:
    """{"frames" uint8 [2, 3, h, w], "flow" float32 [2, h, w] with NaN, "occluded" uint8 [h, w]}: see `Changes`."""
    frames, flow, occluded = pair_of(sequence, rng)
    sparse = bool(np.isnan(flow).any())
    frames, flow, occluded = scaled(frames, flow, occluded, rng, changes, sparse)
    flips = (changes.flips[0], 0.0) if sparse else changes.flips
    for axis, probability in ((1, flips[0]), (0, flips[1])):
        if rng.random() < probability:
            frames, flow, occluded = np.flip(frames, axis + 1), np.flip(flow, axis), np.flip(occluded, axis)
            flow = flow * np.array([-1, 1] if axis else [1, -1], np.float32)
    height, width = changes.sides
    y, x = (crop_start(side, part, margin, rng) for side, part, margin in
            zip(flow.shape[:2], changes.sides, (20, 50) if sparse else (0, 0)))  # fmt: skip
    part = (slice(y, y + height), slice(x, x + width))
    frames = coloured(np.ascontiguousarray(frames[:, *part]), rng, changes, sparse)
    frames[1] = erased(frames[1], rng, changes)
    if changes.noise:
        grains = rng.normal(0, rng.uniform(0, changes.noise), frames.shape)
        frames = np.clip(np.rint(frames + grains), 0, 255).astype(np.uint8)
    return {
        "frames": frames.transpose(0, 3, 1, 2).copy(),
        "flow": flow[part].transpose(2, 0, 1).copy(),
        "occluded": occluded[part].copy(),
    }


def crop_start(side: int, part: int, margin: int, rng: Rng) -> int:
    """Where a crop of `part` begins in `side`; with a margin the ends are taken more often."""
    return int(np.clip(rng.integers(-margin, side - part + margin + 1), 0, side - part))


def scaled(
    frames: np.ndarray, flow: np.ndarray, occluded: np.ndarray, rng: Rng, changes: Changes, sparse: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A pair at another size: a random one, or what the crop needs at least."""
    sides = np.array(flow.shape[:2])
    room = 1 if sparse else 8
    factors = np.full(2, 2 ** rng.uniform(*changes.scales))
    if not sparse and rng.random() < changes.scaled:
        factors = factors * 2 ** rng.uniform(-changes.stretch, changes.stretch, 2)
    if rng.random() >= changes.scaled or changes.scales == (0, 0):
        factors, room = np.ones(2), 0
    factors = np.maximum(factors, (np.array(changes.sides) + room) / sides)
    new = np.rint(sides * factors).astype(int)
    if (new == sides).all():
        return frames, flow, occluded
    ratio = (new / sides)[::-1].astype(np.float32)
    size = (int(new[0]), int(new[1]))
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    pictures = functional.interpolate(pictures, size, mode="bilinear").round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    rows, columns = ((np.arange(a) + 0.5) * b / a for a, b in zip(size, sides.tolist()))
    at = np.ix_(rows.astype(int), columns.astype(int))
    if sparse:
        return pictures.numpy(), scattered(flow, size, ratio), occluded[at]
    vectors = torch.from_numpy(np.ascontiguousarray(flow)).permute(2, 0, 1)[None]
    vectors = functional.interpolate(vectors, size, mode="bilinear")[0].permute(1, 2, 0).numpy()
    return pictures.numpy(), vectors * ratio, occluded[at]


def scattered(flow: np.ndarray, size: tuple[int, int], ratio: np.ndarray) -> np.ndarray:
    """Sparse flow at another size: each vector in the cell that its scaled pixel rounds to, NaN in all others."""
    y, x = np.nonzero(~np.isnan(flow).any(-1))
    columns, rows = np.rint(x * ratio[0]).astype(int), np.rint(y * ratio[1]).astype(int)
    inside = (columns > 0) & (rows > 0) & (columns < size[1]) & (rows < size[0])
    found = np.full((*size, 2), np.nan, np.float32)
    found[rows[inside], columns[inside]] = flow[y[inside], x[inside]] * ratio
    return found


def coloured(frames: np.ndarray, rng: Rng, changes: Changes, sparse: bool) -> np.ndarray:
    """Frames uint8 [2, H, W, 3] with jittered brightness, contrast, saturation and hue, in random order."""
    if not any(changes.jitter):
        return frames
    amounts = np.array(changes.jitter) * ([0.75, 0.75, 0.75, 0.6] if sparse else 1)
    pictures = torch.from_numpy(frames).float() / 255
    groups = pictures.split(1) if not sparse and rng.random() < changes.apart else (pictures,)
    return torch.cat([(jittered(group, rng, amounts) * 255).round() for group in groups]).byte().numpy()


def jittered(pictures: torch.Tensor, rng: Rng, amounts: np.ndarray) -> torch.Tensor:
    """Pictures [B, H, W, 3] in [0, 1], all changed alike."""
    factors = rng.uniform(1 - amounts[:3], 1 + amounts[:3]).astype(np.float32).tolist()
    angle = float(rng.uniform(-amounts[3], amounts[3]) * 2 * np.pi)
    for what in rng.permutation(4).tolist():
        if what == 3:
            cos, sin = np.cos(angle), np.sin(angle)
            turn = torch.tensor([[1, 0, 0], [0, cos, -sin], [0, sin, cos]], dtype=torch.float32)
            pictures = pictures @ (torch.linalg.inv(HUE) @ turn @ HUE).T
        else:
            grey = (pictures @ GREY)[..., None]
            other = (torch.zeros(()), grey.mean(), grey)[what]
            pictures = other + factors[what] * (pictures - other)
        pictures = pictures.clamp(0, 1)
    return pictures


def erased(frame: np.ndarray, rng: Rng, changes: Changes) -> np.ndarray:
    """A frame [H, W, 3] in which one or two rectangles have its mean colour, with some probability."""
    if rng.random() >= changes.erase:
        return frame
    frame, mean = frame.copy(), frame.reshape(-1, 3).mean(0)
    for _ in range(int(rng.integers(1, 3))):
        x, y = int(rng.integers(frame.shape[1])), int(rng.integers(frame.shape[0]))
        w, h = rng.integers(*changes.eraser, 2).tolist()
        frame[y : y + h, x : x + w] = mean
    return frame
