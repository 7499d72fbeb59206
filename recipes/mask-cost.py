"""What a mask that follows motion costs beside decoding: codec vectors, block matching, or what changes.

Use: python recipes/mask-cost.py VIDEO ... [--clips 20]

Of each video with motion vectors, clips as MGM draws them (16 frames of which one in four is taken, 224 pixels, patch
16). Printed, in milliseconds of processor time a clip, the median over videos of the medians over clips: reading the
frames; reading them with the file's vectors; block matching on the crop; the change from frame to frame; and the mask
itself, from either. Readings take turns, so that what else the machine does falls on all of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dropmae.data.augment import crop_clip
from dropmae.data.clips import Sequence
from dropmae.methods.mgm import MGM, clip_indices
from dropmae.ops import noise
from dropmae.ops.motion import clip_changes, clip_motion
from dropmae.video import BLOCK

GRID = (14, 14)


def timed(times: dict[str, list[float]], name: str, function: Callable[..., Any], *given: Any) -> Any:
    before = time.process_time()
    found = function(*given)
    times[name].append(1000 * (time.process_time() - before))
    return found


def hidden(method: Any, key: Tensor, motion: Tensor) -> Any:
    return method.hide(key, GRID, method.moving(motion))


@torch.no_grad()
def costs(path: str, clips: int, method: Any) -> dict[str, float] | None:
    """Milliseconds a clip of one video, or None where it has no vectors."""
    names = ("frames", "frames and vectors", "block matching", "changes", "the mask")
    times: dict[str, list[float]] = {name: [] for name in names}
    video = Sequence(path, path).video
    for number in range(clips):
        rng = np.random.default_rng(number)
        indices = clip_indices(len(video), method.frames, method.stride, rng)
        timed(times, "frames", video.read, indices)
        frames, motion = timed(times, "frames and vectors", video.read, indices, True)
        if not np.isfinite(motion).any():
            return None
        cropped, _ = crop_clip(list(frames), motion, BLOCK, rng, method.sides, method.grid, method.scale, flip=0.5)
        pictures = torch.from_numpy(np.asarray(cropped))[None]
        found: Tensor = timed(times, "block matching", clip_motion, pictures, method.patch, method.search)
        timed(times, "changes", clip_changes, pictures, method.patch)
        key = noise.keys(0, torch.tensor([number]))
        timed(times, "the mask", hidden, method, key, found)
    return {name: float(np.median(values)) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--clips", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    method: Any = MGM(size="tiny", image=224, patch=16)
    rows = {path: row for path in given.videos if (row := costs(path, given.clips, method))}
    if not rows:
        raise SystemExit("none of these videos has motion vectors")
    middle = {name: float(np.median([row[name] for row in rows.values()])) for name in next(iter(rows.values()))}
    plain = middle["frames"]
    print(f"{len(rows)} of {len(given.videos)} videos have vectors; {given.clips} clips of each, one thread")
    print("| | ms a clip | beside reading the frames |\n|---|---|---|")
    print(f"| reading 16 frames | {plain:.1f} | 1 |")
    more = {"the file's vectors": middle["frames and vectors"] - plain}
    more |= {name: middle[name] for name in ("block matching", "changes", "the mask")}
    for name, value in more.items():
        print(f"| {name} | {value:.1f} | {value / plain:.3f} |")


if __name__ == "__main__":
    main()
