"""How well the outline of an object is found of which one frame shows a box, or one point: `dropmae.tasks.propagation`.

Use: python recipes/outlines.py DAVIS [DAVIS ...] [--weights ENCODER]

DAVIS are folders with JPEGImages and Annotations. Of each object in the first frame of each sequence, the overlap (J)
of its mask with the box filled, with what is found in the box around it, and with what is found at the point that lies
deepest in it. Settings of the search were chosen on seven sequences of DAVIS 2016 and dogs-jump.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from dropmae.loading import load_task
from dropmae.metrics.masks import jaccard
from dropmae.target import Target, mask_boxes


def deepest(mask: np.ndarray) -> np.ndarray:
    """float64 [2]: x y of the middle of the pixel of a mask [H, W] that is farthest from all that is not in it."""
    core = np.pad(mask, 1)
    while core.any():
        left = core.copy()
        core[1:-1, 1:-1] &= left[:-2, 1:-1] & left[2:, 1:-1] & left[1:-1, :-2] & left[1:-1, 2:]
    places = np.argwhere(left) - 1
    middle = places[((places - places.mean(0)) ** 2).sum(1).argmin()]
    return middle[::-1] + 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("davis", type=Path, nargs="+")
    parser.add_argument("--weights", default="shipped:encoder")
    given = parser.parse_args()
    task = load_task(given.weights, Target(ids=np.array([1]), clicks=np.zeros((1, 2))))
    rows = []
    print("| object | box filled | found in the box | found at a point |\n|---|---|---|---|")
    for place in [place for root in given.davis for place in sorted((root / "JPEGImages").glob("*/*"))]:
        file = min(place.glob("*.jpg"))
        labels = place.parents[2] / "Annotations" / place.parent.name / place.name / f"{file.stem}.png"
        frame, mask = np.array(Image.open(file).convert("RGB")), np.array(Image.open(labels))
        mask = mask.reshape(*frame.shape[:2], -1)[..., 0]
        mask = (mask > 0).astype(np.uint8) if np.isin(mask, (0, 255)).all() else mask
        for number, box in zip(*mask_boxes(mask)):
            truth, ids = mask == number, np.array([1])
            x, y, w, h = box.astype(int)
            filled = np.zeros_like(truth)
            filled[y : y + h, x : x + w] = True
            told = Target(ids=ids, boxes=box[None]), Target(ids=ids, clicks=deepest(truth)[None])
            found = [filled, *(task.understood(frame, one).mask == 1 for one in told)]
            rows.append([jaccard(one, truth) for one in found])
            print(f"| {place.name} {number} | {' | '.join(f'{value:.2f}' for value in rows[-1])} |", flush=True)
    print(f"| mean of {len(rows)} | {' | '.join(f'{value:.3f}' for value in np.mean(rows, axis=0))} |")


if __name__ == "__main__":
    main()
