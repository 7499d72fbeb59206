"""Which `size_smoothing`, and whether `first_frame_bias`: a tracker on objects of DAVIS, in three forms, no benchmark.

Use: python recipes/track-settings.py WEIGHTS DAVIS [DAVIS ...]

DAVIS are folders with JPEGImages and Annotations; boxes are those around the masks of all their sequences: around what
is not black where a mask is 0 and 255 (DAVIS-2016), else around each object. Frames are reduced to 200 rows. Forms:
whole objects; all made so small that the object's side is 24 pixels, as a benchmark's often are; and the middle 60 %
of each box, as a box need not be around all of a thing (a face, a wheel). The numbers are means over objects of the
area under the success curve; the choice is the best mean of the three forms.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from dropmae import weights
from dropmae.metrics.boxes import iou
from dropmae.target import Target, mask_boxes

ROWS, SMALL, PART = 200, 24, 0.6
SMOOTHING = (0.8, 0.85, 0.9, 0.95, 1.0)


class Track(NamedTuple):
    """Frames [T, H, W, 3] uint8, and boxes [S, 4] in the frames `seen`."""

    frames: np.ndarray
    seen: np.ndarray
    boxes: np.ndarray


def tracks(place: Path) -> list[Track]:
    """The objects of a sequence, JPEGImages/480p/NAME."""
    files = sorted(place.glob("*.jpg"))
    frames = [Image.open(file).convert("RGB") for file in files]
    scale = ROWS / frames[0].height
    found: dict[int, list[tuple[int, np.ndarray]]] = {}
    for number, file in enumerate(files):
        at = place.parents[2] / "Annotations" / place.parent.name / place.name / f"{file.stem}.png"
        mask = np.asarray(Image.open(at)).reshape(frames[0].height, frames[0].width, -1)[..., 0]
        if np.isin(mask, (0, 255)).all():
            mask = (mask > 0).astype(np.uint8)
        for key, box in zip(*mask_boxes(mask)):
            found.setdefault(int(key), []).append((number, box * scale))
    small = np.stack([np.asarray(frame.resize((round(frame.width * scale), ROWS), Image.BOX)) for frame in frames])
    return [Track(small, np.array([n for n, _ in rows]), np.array([b for _, b in rows])) for rows in found.values()]


def reduced(track: Track) -> Track:
    """The same with an object of SMALL pixels."""
    factor = min(1.0, SMALL / float(np.median(np.sqrt(track.boxes[:, 2:].prod(1)))))
    height, width = (round(side * factor) for side in track.frames.shape[1:3])
    frames = np.stack([np.asarray(Image.fromarray(frame).resize((width, height), Image.BOX)) for frame in track.frames])
    sides = np.array([width / track.frames.shape[2], height / track.frames.shape[1]])
    return Track(frames, track.seen, track.boxes * np.tile(sides, 2))


def middle(track: Track) -> Track:
    """The same with the middle of each box."""
    places = track.boxes[:, :2] + track.boxes[:, 2:] * (1 - PART) / 2
    return track._replace(boxes=np.concatenate([places, track.boxes[:, 2:] * PART], axis=1))


@torch.no_grad()
def score(model: torch.nn.Module, track: Track) -> float:
    """Mean overlap after the first frame: the area under the success curve."""
    first = int(track.seen[0])
    state = model.start(track.frames[first], Target(ids=np.array([1]), boxes=track.boxes[:1]))
    found = {}
    for number in range(first + 1, len(track.frames)):
        state, one = model.step(state, track.frames[number])
        found |= {key: target.box() for key, target in one.items()}
    return float(iou(np.stack([found[int(n)] for n in track.seen[1:]]), track.boxes[1:]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("davis", type=Path, nargs="+")
    given = parser.parse_args()
    places = [place for root in given.davis for place in sorted((root / "JPEGImages").glob("*/*"))]
    whole = [track for place in places for track in tracks(place)]
    forms = {"whole": whole, "small": [reduced(track) for track in whole], "middle": [middle(track) for track in whole]}
    model = weights.load(given.weights).eval()
    print(f"{len(whole)} objects\n| size_smoothing | first_frame_bias | mean | {' | '.join(forms)} |")
    print(f"|{'---|' * (3 + len(forms))}")
    for first_frame_bias in (True, False):
        for model.size_smoothing in SMOOTHING:
            model.first_frame_bias = first_frame_bias
            means = [np.mean([score(model, track) for track in form]) for form in forms.values()]
            cells = [f"{value:.3f}" for value in (np.mean(means), *means)]
            print(f"| {model.size_smoothing} | {first_frame_bias} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
