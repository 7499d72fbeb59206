"""Settings of a tracker, compared on objects of DAVIS in six forms, none of which is a benchmark for reporting.

Use: python recipes/track-settings.py WEIGHTS DAVIS [DAVIS ...] [--set NAME=VALUE ...] [--try NAME=VALUE ...]...
     [--forms FORM ...] [--each] [--precision int8]

Each `--try` makes a row; the first row is WEIGHTS as it is, with `--set`. DAVIS are folders with JPEGImages and
Annotations. Boxes are those around the masks of all their sequences: around what is not black where a mask is 0 and 255
(DAVIS-2016), else around each object. Of each sequence every third frame counts, reduced to 240 rows, but in the last
form. Forms:

whole   the objects as they are
small   all made so small that the object's side is 24 pixels, as a benchmark's often are
middle  the middle 60 % of each box, as a box need not be around all of a thing (a face, a wheel)
alike   the same object at another time of its video, mirrored, passes behind it from one side to the other
zoomed  a camera that zooms in and out by a factor of 1.8, once in 20 of these frames
long    every frame, to and fro, up to the 240th, at 160 rows: what drifts is lost

The numbers are means over objects: area under the success curve / precision at 20 pixels; then AUROC of overlap > .5
and calibration error over all frames, the frames with a side beyond three times or below a third of the truth, and the
processor time of a step. The choice is the best mean of the forms.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from dropmae import registry, weights
from dropmae.engine import prepare_precision
from dropmae.metrics.boxes import iou
from dropmae.metrics.confidence import Scored, confidence_numbers
from dropmae.target import Target, mask_boxes

SMALL, PART, ZOOM, PERIOD, LONG, PASSES = 24, 0.6, 1.8, 20, 240, 1.8


class Track(NamedTuple):
    """Frames [T, H, W, 3] uint8, and boxes [S, 4] and masks bool [S, H, W] in the frames `seen`."""

    name: str
    frames: np.ndarray
    seen: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray


def tracks(place: Path, every: int = 3, rows: int = 240) -> list[Track]:
    """The objects of a sequence, JPEGImages/480p/NAME."""
    files = sorted(place.glob("*.jpg"))[::every]
    frames = [Image.open(file).convert("RGB") for file in files]
    scale = rows / frames[0].height
    size = round(frames[0].width * scale), rows
    found: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for number, file in enumerate(files):
        at = place.parents[2] / "Annotations" / place.parent.name / place.name / f"{file.stem}.png"
        mask = np.asarray(Image.open(at)).reshape(frames[0].height, frames[0].width, -1)[..., 0]
        if np.isin(mask, (0, 255)).all():
            mask = (mask > 0).astype(np.uint8)
        for key, box in zip(*mask_boxes(mask)):
            shown = np.asarray(Image.fromarray(mask == key).resize(size, Image.NEAREST))
            found.setdefault(int(key), []).append((number, box * scale, shown))
    small = np.stack([np.asarray(frame.resize(size, Image.BOX)) for frame in frames])
    return [Track(f"{place.name} {key}", small, *map(np.array, zip(*rows_))) for key, rows_ in found.items()]


def small(track: Track) -> Track:
    """The same with an object of SMALL pixels."""
    factor = min(1.0, SMALL / float(np.median(np.sqrt(track.boxes[:, 2:].prod(1)))))
    height, width = (round(side * factor) for side in track.frames.shape[1:3])
    frames = np.stack([np.asarray(Image.fromarray(frame).resize((width, height), Image.BOX)) for frame in track.frames])
    sides = np.array([width / track.frames.shape[2], height / track.frames.shape[1]])
    return track._replace(frames=frames, boxes=track.boxes * np.tile(sides, 2))


def middle(track: Track) -> Track:
    """The same with the middle of each box."""
    places = track.boxes[:, :2] + track.boxes[:, 2:] * (1 - PART) / 2
    return track._replace(boxes=np.concatenate([places, track.boxes[:, 2:] * PART], axis=1))


def shared(start: int, length: int, whole: int) -> tuple[slice, slice]:
    """Which part of something so long that begins at `start` lies in a whole, and where in it."""
    low, high = min(max(0, start), whole), min(max(0, start + length), whole)
    return slice(low - start, high - start), slice(low, high)


def alike(track: Track) -> Track:
    """The same with another one like it, which goes by behind it."""
    frames, count = track.frames.copy(), len(track.seen)
    for row, number in enumerate(track.seen):
        donor = (row + count // 2) % count
        ys, xs = np.nonzero(track.masks[donor])
        if not len(ys):
            continue
        cut = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
        picture, mask = (one[cut][:, ::-1] for one in (track.frames[track.seen[donor]], track.masks[donor]))
        x, y, w, h = track.boxes[row]
        away = PASSES * (1 - 2 * row / max(count - 1, 1)) * w
        left, top = round(x + w / 2 + away - mask.shape[1] / 2), round(y + h / 2 - mask.shape[0] / 2)
        own, there = zip(*(shared(*one) for one in zip((top, left), mask.shape, frames[number].shape)))
        seen = mask[own] & ~track.masks[row][there]
        frames[number][there][seen] = picture[own][seen]
    return track._replace(frames=frames)


def zoomed(track: Track) -> Track:
    """The same through a camera that zooms around the picture's middle, on pictures that go on as in a mirror."""
    height, width = track.frames.shape[1:3]
    centre, frames, boxes = np.array([width, height]) / 2, [], track.boxes.copy()
    for number, frame in enumerate(track.frames):
        zoom = ZOOM ** math.sin(2 * math.pi * number / PERIOD)
        wide = np.pad(frame, ((height // 2,) * 2, (width // 2,) * 2, (0, 0)), mode="reflect")
        half = centre / zoom
        shown = np.concatenate([centre * 2 - half, centre * 2 + half])
        frames.append(np.asarray(Image.fromarray(wide).resize((width, height), Image.BILINEAR, tuple(shown))))
        rows = track.seen == number
        boxes[rows, :2] = (boxes[rows, :2] - centre) * zoom + centre
        boxes[rows, 2:] *= zoom
    return track._replace(frames=np.stack(frames), boxes=boxes)


def to_and_fro(track: Track) -> Track:
    """The same, forwards and backwards and so on, up to LONG frames."""
    last = len(track.frames) - 1
    turns = [min(n % (2 * last), 2 * last - n % (2 * last)) for n in range(LONG)]
    rows = [(n, row) for n, turn in enumerate(turns) for row in np.flatnonzero(track.seen == turn)]
    seen, boxes = np.array([n for n, _ in rows]), np.stack([track.boxes[row] for _, row in rows])
    return track._replace(frames=track.frames[turns], seen=seen, boxes=boxes)


FORMS: dict[str, Any] = {
    "whole": lambda track: track,
    "small": small,
    "middle": middle,
    "alike": alike,
    "zoomed": zoomed,
    "long": to_and_fro,
}


@torch.no_grad()
def follow(model: Any, track: Track) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [S - 1, 4] and scores [S - 1] in the frames `seen` after the first."""
    first = int(track.seen[0])
    state = model.start(track.frames[first], Target(ids=np.array([1]), boxes=track.boxes[:1]))
    found: dict[int, Target] = {}
    for number in range(first + 1, len(track.frames)):
        state, one = model.step(state, track.frames[number])
        found |= one
    scores = [found[int(n)].scores for n in track.seen[1:]]
    known = [math.nan if score is None else float(score[0]) for score in scores]
    return np.stack([found[int(n)].box() for n in track.seen[1:]]), np.array(known)


def numbers(model: Any, found: list[Track], each: bool) -> tuple[list[float], list[float]]:
    """AUC and precision@20; and AUROC, calibration error, share of frames off in size, and seconds a step."""
    aucs, near, scored, off, steps, began = [], [], [], [], 0, time.process_time()
    for track in found:
        boxes, scores = follow(model, track)
        truth = track.boxes[1:]
        overlap = np.nan_to_num(iou(boxes, truth))
        away = np.linalg.norm(boxes[:, :2] + boxes[:, 2:] / 2 - truth[:, :2] - truth[:, 2:] / 2, axis=1)
        ratio = boxes[:, 2:] / truth[:, 2:]
        aucs.append(float(overlap.mean()))
        near.append(float((away <= 20).mean()))
        off.append(((ratio > 3) | (ratio < 1 / 3)).any(1))
        scored.append(Scored(overlap, scores))
        steps += len(track.frames) - int(track.seen[0]) - 1
        if each:
            print(f"  {track.name} {aucs[-1]:.3f} {near[-1]:.3f} off {off[-1].mean():.3f}", flush=True)
    sure = confidence_numbers(scored)
    spent = (time.process_time() - began) / steps
    rest = [sure["auroc_50"], sure["calibration_error"], float(np.concatenate(off).mean()), spent]
    return [float(np.mean(aucs)), float(np.mean(near))], rest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("davis", type=Path, nargs="+")
    parser.add_argument("--try", dest="tries", nargs="+", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="in every row")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "int8"))
    parser.add_argument("--each", action="store_true", help="a line for every object")
    given = parser.parse_args()
    places = [place for root in given.davis for place in sorted((root / "JPEGImages").glob("*/*"))]
    whole = [track for place in places for track in tracks(place)]
    every = [track for place in places for track in tracks(place, 1, 160)] if "long" in given.forms else []
    forms = {name: [FORMS[name](one) for one in (every if name == "long" else whole)] for name in given.forms}
    print(f"{len(whole)} objects, {torch.get_num_threads()} threads")
    print(f"| settings | mean | {' | '.join(forms)} | AUROC .5 | calibration | size off | ms |")
    print(f"|{'---|' * (6 + len(forms))}")
    for words in [[], *given.tries]:
        model = weights.load(given.weights, settings=registry.assignments([*given.set, *words]))
        half = prepare_precision(model, given.precision, torch.device("cpu"))[1]
        with torch.autocast("cpu", half, enabled=half is not None):
            rows = [numbers(model, form, given.each) for form in forms.values()]
        mean = np.mean([row[0] for row in rows], axis=0)
        cells = [f"{auc:.3f} / {near:.3f}" for auc, near in [mean, *(row[0] for row in rows)]]
        auroc, error, off, spent = np.mean([row[1] for row in rows], axis=0)
        cells += [f"{auroc:.3f}", f"{error:.3f}", f"{100 * off:.1f} %", f"{1000 * spent:.0f}"]
        print(f"| {' '.join(words) or 'as it is'} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
