"""How often a tracker finds an object again that was out of sight, with another like it in view.

Use: python recipes/found-again.py WEIGHTS --clips FILE ... --davis DIR ... [--returns 60] [--seed 0]
     [--set NAME=VALUE ...] [--show DIR]

Each of the returns is a clip of 320 x 240 pixels, made of an object of DAVIS, cut out by its masks and shown as it
moves in its own video, before a clip as the background. It is in view for 20 frames, leaves over an edge within six, is
away for 10 to 90, and comes back over any edge. From the tenth frame on another one like it is there: the same object
at another time of its video, mirrored, and in other colours (each primary by a factor of 1.5 or so). The object counts
as found where some box overlaps it by more than half within 30 frames after half of it is back in view.

Printed: the share found, by the length of the gap; how often the tracker's box lay on the other one then; and the mean
score while the object was away and while it was followed before.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from dropmae import registry, weights
from dropmae.metrics.boxes import iou
from dropmae.target import Target
from dropmae.video import Video

WIDTH, HEIGHT, BEFORE, EDGE, WITHIN = 320, 240, 20, 6, 30
GAPS = (10, 20, 30, 45, 60, 90)


class Shown(NamedTuple):
    """One return: frames [T, H, W, 3], boxes of the object and of the other [T, 4] x y w h, and when it is back."""

    frames: np.ndarray
    boxes: np.ndarray
    others: np.ndarray
    back: int


class Return(NamedTuple):
    """How one went: whether it was found, whether the box lay on the other one in the end, and mean scores."""

    gap: int
    found: bool
    wrong: bool
    away: float
    before: float


def objects(root: Path) -> list[list[np.ndarray]]:
    """RGBA cut-outs of each object in each frame of the sequences of a folder in DAVIS' layout, at 240 rows."""
    found: list[list[np.ndarray]] = []
    for place in sorted((root / "JPEGImages").glob("*/*")):
        own: dict[int, list[np.ndarray]] = {}
        for file in sorted(place.glob("*.jpg")):
            picture = np.asarray(Image.open(file).convert("RGB"))
            note = Image.open(root / "Annotations" / place.parent.name / place.name / f"{file.stem}.png")
            mask = np.asarray(note).reshape(*picture.shape[:2], -1)[..., 0]
            mask = (mask > 0).astype(np.uint8) if np.isin(mask, (0, 255)).all() else mask
            for key in np.unique(mask[(mask > 0) & (mask < 255)]):
                ys, xs = np.nonzero(mask == key)
                part = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
                if len(ys) > 900:
                    alpha = cv2.GaussianBlur((mask[part] == key).astype(np.float32) * 255, (0, 0), 1).astype(np.uint8)
                    own.setdefault(int(key), []).append(np.dstack([picture[part], alpha]))
        found += [cuts for cuts in own.values() if len(cuts) >= 15]
    return found


def to_and_fro(count: int, at: int) -> int:
    """Which of `count` pictures is shown at a time, if they go forwards and backwards."""
    turn = at % (2 * count - 2)
    return min(turn, 2 * count - 2 - turn)


def wander(rng: np.random.Generator, length: int, start: np.ndarray, speed: float) -> np.ndarray:
    """[T, 2]: a smooth path that stays in the picture."""
    place, velocity, found = start.astype(float), rng.normal(0, speed, 2), []
    for _ in range(length):
        found.append(place.copy())
        velocity = 0.92 * velocity + rng.normal(0, 0.35 * speed, 2) - 0.002 * (place - [WIDTH / 2, HEIGHT / 2])
        place = np.clip(place + velocity, [40, 40], [WIDTH - 40, HEIGHT - 40])
    return np.stack(found)


def beyond(place: np.ndarray, reach: float) -> list[np.ndarray]:
    """The points beside a place that lie `reach` beyond the left, right, upper and lower edge."""
    x, y = place
    return [np.array(p) for p in ((-reach, y), (WIDTH + reach, y), (x, -reach), (x, HEIGHT + reach))]


def put(canvas: np.ndarray, thing: np.ndarray, centre: np.ndarray, scale: float, lit: np.ndarray) -> np.ndarray:
    """Pastes a cut-out; its box x y w h."""
    size = max(4, round(thing.shape[1] * scale)), max(4, round(thing.shape[0] * scale))
    small = cv2.resize(thing, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    left, top = (round(float(c) - s / 2) for c, s in zip(centre, size))
    x0, y0, x1, y1 = max(0, left), max(0, top), min(WIDTH, left + size[0]), min(HEIGHT, top + size[1])
    if x0 < x1 and y0 < y1:
        part = small[y0 - top : y1 - top, x0 - left : x1 - left]
        alpha = part[..., 3:] / 255
        under = canvas[y0:y1, x0:x1]
        canvas[y0:y1, x0:x1] = under * (1 - alpha) + np.clip(part[..., :3] * lit, 0, 255) * alpha
    return np.array([left, top, *size], float)


def scene(things: list[list[np.ndarray]], clips: list[np.ndarray], gap: int, rng: np.random.Generator) -> Shown:
    own, ground = things[rng.integers(len(things))], clips[rng.integers(len(clips))]
    length = BEFORE + EDGE + gap + EDGE + WITHIN
    side, phase = rng.uniform(42, 75), int(rng.integers(len(own)))
    path = wander(rng, length, rng.uniform([80, 70], [WIDTH - 80, HEIGHT - 70]), 2.0)
    gone, back = BEFORE + EDGE, BEFORE + EDGE + gap
    leave = min(beyond(path[BEFORE - 1], 1.2 * side), key=lambda p: float(np.linalg.norm(p - path[BEFORE - 1])))
    enter = beyond(rng.uniform(50, [WIDTH - 50, HEIGHT - 50]), 1.2 * side)[int(rng.integers(4))]
    for k in range(EDGE):
        path[BEFORE + k] = path[BEFORE - 1] + (leave - path[BEFORE - 1]) * (k + 1) / EDGE
        path[back + k] = enter + (path[back + EDGE] - enter) * (k + 1) / (EDGE + 1)
    path[gone:back] = leave
    other = wander(rng, length, rng.uniform([50, 50], [WIDTH - 50, HEIGHT - 50]), 2.0)
    size = side / float(np.median([np.sqrt(thing.shape[0] * thing.shape[1]) for thing in own]))
    lit, scale = np.exp(rng.choice([-0.4, 0.4], 3) * rng.uniform(0.5, 1.2, 3)), size * rng.uniform(0.8, 1.2)
    frames, boxes, others = [], [], []
    for t in range(length):
        canvas = ground[to_and_fro(len(ground), t)].astype(np.float32)
        if t >= 10:
            thing = own[to_and_fro(len(own), phase + len(own) // 2 + t)][:, ::-1]
            others.append(put(canvas, thing, other[t], scale, lit))
        else:
            others.append(np.full(4, np.nan))
        boxes.append(put(canvas, own[to_and_fro(len(own), phase + t)], path[t], size, np.ones(3)))
        frames.append(np.clip(canvas + rng.normal(0, 2, canvas.shape), 0, 255).astype(np.uint8))
    return Shown(np.stack(frames), np.stack(boxes), np.stack(others), back + EDGE // 2)


def ground(file: Path) -> np.ndarray:
    """Up to 80 frames of a clip, its middle at 320 x 240."""
    video, found = Video(file), []
    for number in range(min(80, len(video))):
        picture = Image.fromarray(video[number])
        scale = max(WIDTH / picture.width, HEIGHT / picture.height)
        picture = picture.resize((max(WIDTH, round(picture.width * scale)), max(HEIGHT, round(picture.height * scale))))
        left, top = (picture.width - WIDTH) // 2, (picture.height - HEIGHT) // 2
        found.append(np.asarray(picture.crop((left, top, left + WIDTH, top + HEIGHT))))
    return np.stack(found)


@torch.no_grad()
def follow(model: Any, shown: Shown) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [T, 4] and scores [T]; the first are what was told."""
    state = model.start(shown.frames[0], Target(ids=np.array([1]), boxes=shown.boxes[:1]))
    boxes, scores = [shown.boxes[0]], [1.0]
    for number in range(1, len(shown.frames)):
        state, one = model.step(state, shown.frames[number])
        boxes.append(one[number].box())
        scores.append(float(one[number].scores[0]) if one[number].scores is not None else np.nan)
    return np.stack(boxes), np.array(scores)


def judged(shown: Shown, boxes: np.ndarray, scores: np.ndarray, gap: int) -> Return:
    """Of a tracker's boxes [T, 4] and scores [T]."""
    after, gone = slice(shown.back, shown.back + WITHIN), BEFORE + EDGE
    found, wrong = (np.nan_to_num(iou(boxes, truth))[after] > 0.5 for truth in (shown.boxes, shown.others))
    means = float(scores[gone : gone + gap].mean()), float(scores[5:BEFORE].mean())
    return Return(gap, bool(found.any()), bool(wrong[-1]), *means)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--clips", type=Path, nargs="+", required=True)
    parser.add_argument("--davis", type=Path, nargs="+", required=True)
    parser.add_argument("--returns", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--show", type=Path, help="a folder for a sheet of frames of the first returns")
    given = parser.parse_args()
    model = weights.load(given.weights, settings=registry.assignments(given.set))
    rng = np.random.default_rng(given.seed)
    things = [cuts for root in given.davis for cuts in objects(root)]
    clips = [ground(file) for file in given.clips]
    rows: list[Return] = []
    for number in range(given.returns):
        gap = GAPS[number % len(GAPS)]
        shown = scene(things, clips, gap, rng)
        boxes, scores = follow(model, shown)
        rows.append(judged(shown, boxes, scores, gap))
        if given.show and number < 6:
            sheet(shown, boxes, given.show / f"{number}.png")
        print(f"{number} gap {gap} {'found' if rows[-1].found else '-'}", flush=True)
    for gap in GAPS:
        if own := [row for row in rows if row.gap == gap]:
            found, wrong = sum(row.found for row in own), sum(row.wrong for row in own)
            print(f"gap {gap}: found {found} of {len(own)}, on the other one {wrong}")
    share, away, before = (np.mean([getattr(row, name) for row in rows]) for name in ("found", "away", "before"))
    print(f"found {100 * share:.1f} % of {len(rows)}; score while away {away:.2f}, before {before:.2f}")


def sheet(shown: Shown, boxes: np.ndarray, file: Path) -> None:
    """Eight frames with the tracker's box, red, and the object's, green."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for t in np.linspace(0, len(boxes) - 1, 8).astype(int):
        picture = shown.frames[t].copy()
        for box, colour in ((shown.boxes[t], (0, 255, 0)), (boxes[t], (255, 0, 0))):
            if np.isfinite(box).all():
                x, y, w, h = (int(v) for v in box)
                cv2.rectangle(picture, (x, y), (x + w, y + h), colour, 2)
        rows.append(picture)
    sheet = np.concatenate([np.concatenate(rows[:4], 1), np.concatenate(rows[4:], 1)])
    Image.fromarray(sheet).save(file)


if __name__ == "__main__":
    main()
