"""Training samples: a few frames, and points with the frames in which they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from dropmae.sequence import Sequence

LATEST = 0.5
"""Points are asked for in the first half of the frames, so that there is something left to follow."""


def point_sample(sequence: Sequence, frames: int, side: int, count: int, rng: np.random.Generator) -> dict[str, Any]:
    """ "frames" uint8 [T, 3, S, S], "places" float32 [T, N, 2], "visible", "known" bool [T, N], "asked" int64 [2, N].

    `asked` are frames counted forwards and, for another way through the same frames, from the last one back; as many as
    there are frames says that a point is never asked for. OSError where no point of the sequence can be seen.
    """
    there = sorted(frame for frame, target in sequence.targets.items() if target.points is not None)
    runs = [frame for frame in there if all(frame + step in sequence.targets for step in range(frames))]
    if not runs:
        raise OSError(f"it has no {frames} frames in a row with points")
    first = runs[int(rng.integers(len(runs)))]
    numbers = list(range(first, first + frames))
    targets = [sequence.targets[number] for number in numbers]
    if any(target.points is None for target in targets):
        raise OSError("points are missing in some frame")
    places = np.stack([np.asarray(target.points) for target in targets])
    known = np.asarray(np.isfinite(places).all(-1))
    seen = [
        np.ones(len(row), bool) if target.visible is None else target.visible for row, target in zip(places, targets)
    ]
    visible = known & np.stack(seen)
    pictures = np.asarray(sequence.video[numbers])
    pictures, places = window(pictures, places, side, rng)
    visible &= ((places >= 0) & (places < side)).all(-1)
    half = max(1, round(LATEST * frames))
    able = np.flatnonzero(visible[:half].any(0) | visible[-half:].any(0))
    if not len(able):
        raise OSError("no point of it can be seen")
    rows = rng.permutation(able)[:count]
    rows = np.concatenate([rows, rng.choice(able, count - len(rows))]) if len(rows) < count else rows
    ways = (visible[:half, rows], visible[::-1][:half, rows])
    asked = np.stack([queries(early, frames, rng) for early in ways])
    return {
        "frames": np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)),
        "places": np.nan_to_num(places[:, rows]).astype(np.float32),
        "visible": visible[:, rows],
        "known": known[:, rows],
        "asked": asked.astype(np.int64),
    }


def queries(early: np.ndarray, never: int, rng: np.random.Generator) -> np.ndarray:
    """[N]: a frame for each point that shows it, of `early` bool [T, N]: half of them the first such, or `never`."""
    draws = np.where(early, rng.random(early.shape), -1)
    first = rng.random(early.shape[1]) < 0.5
    return np.where(early.any(0), np.where(first, early.argmax(0), draws.argmax(0)), never)


def window(
    pictures: np.ndarray, places: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The same square of all pictures [T, H, W, 3], resized, and the places [T, N, 2] in it."""
    height, width = pictures.shape[1:3]
    if (height, width) == (side, side):
        return pictures, places
    edge = int(min(height, width) * rng.uniform(0.6, 1))
    x, y = int(rng.integers(width - edge + 1)), int(rng.integers(height - edge + 1))
    cut = [Image.fromarray(picture[y : y + edge, x : x + edge]) for picture in pictures]
    made = np.stack([np.asarray(one.resize((side, side), Image.Resampling.BILINEAR)) for one in cut])
    return made, (places - [x, y]) * (side / edge)
