"""Tracks of what unlabelled videos show, made by carrying masks there and back: nothing in them is labelled by hand.

Use: python recipes/real-tracks.py ENCODER OUT --clips FILE ... [--pieces N]

Makes OUT/CLIP-K.npz of each of up to N pieces of a clip between its cuts, 2.5 seconds long: `frames` uint8
[T, H, W, 3], and for each object `boxes` [T, 4] and `agree` [T]. Objects are outlines (`tasks.propagation.outline`)
around tokens of the first frame that are least like the picture's border and each other. Their masks are carried to the
last frame, and from there back to the first. How far a mask overlaps the one on the way back is `agree`; where an
object comes back elsewhere than it was, it is left out. What is wrong there and back alike stays wrong. What is
finished is not made again. dcf-views.py draws views of such tracks (`--tracks`).
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dropmae import weights
from dropmae.target import Target, mask_boxes
from dropmae.tasks.propagation import Propagation, outline
from dropmae.video import Video
from dropmae.video.cuts import cuts

ROWS, SEEN, RATE, LENGTH = 480, "short392", 6.0, 15
"""Rows of the frames that are kept, and of those that the encoder sees; frames a second, and in a piece."""
SEEDS, AREA, LEAST, CONTRAST, MOST = 8, (0.003, 0.25), 24.0, 0.22, 3
"""Tokens tried; area of an object in shares of the frame, its shorter side in pixels; its `contrast`; objects."""
BACK, AGREE = 0.7, 0.8
"""Overlap of the first mask with what came back, and of both masks of a frame, to be trusted."""


class Carried(Propagation):
    """Propagation that looks at each frame once."""

    known: dict[Any, Tensor]

    def features(self, frame: np.ndarray, sides: tuple[int, int]) -> Tensor:
        key = id(frame), sides
        if key not in self.known:
            self.known[key] = super().features(frame, sides)
        return self.known[key]


def pieces(file: Path, most: int) -> list[np.ndarray]:
    """Up to so many runs of frames [T, H, W, 3] of a video that no cut divides, spread over it."""
    video = Video(file)
    count = min(len(video), 1500)
    step = max(1, round(video.fps / RATE))
    span = step * (LENGTH - 1) + 1
    ends = [0, *cuts(video[i] for i in range(count)), count]
    starts = [at for low, high in pairwise(ends) for at in range(low, high - span + 1, span)]
    if not starts:
        return []
    chosen = [starts[i] for i in np.unique(np.linspace(0, len(starts) - 1, most).round().astype(int))]
    found = []
    for at in chosen:
        shown = [Image.fromarray(video[i]) for i in range(at, at + span, step)]
        scale = ROWS / min(shown[0].size)
        size = (round(shown[0].width * scale), round(shown[0].height * scale))
        found.append(np.stack([np.asarray(frame.resize(size, Image.Resampling.BICUBIC)) for frame in shown]))
    return found


def contrast(mask: np.ndarray, own: Tensor) -> float:
    """How much more neighbouring tokens inside a mask are alike than those on both sides of its edge; own: unit
    features [h, w, C]."""
    small = torch.from_numpy(mask).float()[None, None]
    inside = functional.interpolate(small, own.shape[:2], mode="area")[0, 0] > 0.5
    pairs = []
    for one, other in (((slice(1, None),), (slice(-1),)), ((slice(None), slice(1, None)), (slice(None), slice(-1)))):
        pairs.append(((own[one] * own[other]).sum(-1).flatten(), inside[one].flatten(), inside[other].flatten()))
    alike, a, b = (torch.cat(column) for column in zip(*pairs))
    if not (a & b).any() or not (a ^ b).any():
        return 0.0
    return float(alike[a & b].mean() - alike[a ^ b].mean())


def objects(task: Carried, frame: np.ndarray) -> np.ndarray:
    """uint8 [H, W]: outlines of things in a frame, 1, 2, ..."""
    patch, size = task.encoder.patch, np.array(frame.shape[:2])
    rows, columns = (int(side) for side in np.round(size * 28 / size.min()))
    found = task.features(frame, (rows * patch, columns * patch))
    own = functional.normalize(found - found.mean(0), dim=1)
    border = torch.ones(rows, columns, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    apart = 1 - (own @ own[border.flatten()].T).topk(8, 1).values.mean(1)
    apart[border.flatten()] = -1
    things = []
    for _ in range(SEEDS):
        seed = int(apart.argmax())
        apart = torch.minimum(apart, 1 - own @ own[seed])
        at = (np.array([seed % columns, seed // columns]) + 0.5) / [columns, rows] * size[::-1]
        shown = outline.around(frame, at, patch, task.features)
        box = mask_boxes(shown.astype(np.uint8))[1]
        if not len(box) or not AREA[0] < shown.mean() < AREA[1] or box[0, 2:].min() < LEAST:
            continue
        things.append((contrast(shown, own.unflatten(0, (rows, columns))), shown))
    mask = np.zeros(frame.shape[:2], np.uint8)
    for apart_by, shown in sorted(things, key=lambda one: -one[0]):
        taken = (shown & (mask > 0)).sum() / shown.sum()
        if apart_by > CONTRAST and taken < 0.1 and mask.max() < MOST:
            mask[shown & (mask == 0)] = mask.max() + 1
    return mask


def carry(task: Carried, frames: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """The mask in each of the frames, of which it is known in the first."""
    ids = np.unique(mask)[1:].astype(np.int64)
    state, found = task.start(frames[0], Target(ids=ids, mask=mask)), [mask]
    for frame in frames[1:]:
        state, answer = task.step(state, frame)
        found += [one.mask for one in answer.values() if one.mask is not None]
    return found


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def tracked(task: Carried, frames: np.ndarray) -> dict[str, np.ndarray]:
    """What is followed in frames [T, H, W, 3] there and back: `boxes` [K, T, 4], `agree` [K, T]."""
    frames = list(frames)
    task.known = {}
    first = objects(task, frames[0])
    boxes, agree = [], []
    if first.any():
        there = carry(task, frames, first)
        back = carry(task, frames[::-1], there[-1])[::-1] if there[-1].any() else []
        for number in np.unique(first)[1:] if back else []:
            alike = [overlap(a == number, b == number) for a, b in zip(there, back)]
            if overlap(first == number, back[0] == number) < BACK:
                continue
            shown = [mask_boxes((a == number).astype(np.uint8))[1] for a in there]
            boxes.append([box[0] if len(box) else np.full(4, np.nan) for box in shown])
            agree.append([same if len(box) else 0.0 for same, box in zip(alike, shown)])
    count = len(frames)
    return {"boxes": np.array(boxes).reshape(-1, count, 4), "agree": np.array(agree).reshape(-1, count)}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=Path, nargs="+", required=True)
    parser.add_argument("--pieces", type=int, default=2)
    given = parser.parse_args()
    task = Carried(preset="fitted", resize=SEEN, edges="guided")
    task.encoder = weights.load(given.encoder).encoder
    given.out.mkdir(parents=True, exist_ok=True)
    for file in given.clips:
        done = given.out / f"{file.stem}.done"
        if done.is_file():
            continue
        for number, frames in enumerate(pieces(file, given.pieces)):
            found = tracked(task, frames)
            good = (found["agree"] > AGREE).sum(1)
            print(file.stem, number, frames.shape[:3], "frames that agree, of each object:", good.tolist(), flush=True)
            if len(good):
                np.savez(given.out / f"{file.stem}-{number}.npz", frames=frames, **found)
        done.touch()


if __name__ == "__main__":
    main()
