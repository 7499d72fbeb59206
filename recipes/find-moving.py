"""How well `--find moving` finds what moves before a camera that stands: rendered clips whose truth is known.

A photograph is the scene, with noise and slow and sudden changes of its light; one or two objects with alpha cross it,
come in, stand for a while, or run; every fourth clip is empty. Clips are in colour, grey, noisy, or as infra-red makes
them: grey, dim towards the corners, low in contrast, noisy. An object is found if a box that overlaps it is proposed
within a second of its coming; proposals that overlap nothing are false. Even clips are for choosing settings, odd ones
are reported.

Usage: python recipes/find-moving.py CUTOUTS PHOTOS [--clips 32] [--size 640 360] [--reported]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from dropmae.metrics.boxes import iou
from dropmae.moving import find_moving
from dropmae.video import Video, Writer

KINDS = ("colour", "grey", "noisy", "infra-red")
RATE, SECONDS = 30, 8


def scene(photo: Path, size: tuple[int, int]) -> np.ndarray:
    """float32 [H, W, 3]: a photograph that fills the frame."""
    with Image.open(photo) as image:
        zoom = max(size[0] / image.width, size[1] / image.height)
        large = image.convert("RGB").resize((round(image.width * zoom) + 1, round(image.height * zoom) + 1))
    return np.asarray(large, np.float32)[: size[1], : size[0]]


def paste(frame: np.ndarray, thing: np.ndarray, x: float, y: float) -> tuple[float, ...] | None:
    """Lays premultiplied RGBA [h, w, 4] over a frame with its middle at (x, y); the box of what is to be seen of it."""
    height, width = thing.shape[:2]
    left, top = round(x - width / 2), round(y - height / 2)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + width, frame.shape[1]), min(top + height, frame.shape[0])
    if x1 - x0 < width / 3 or y1 - y0 < height / 3:
        return None
    part = thing[y0 - top : y1 - top, x0 - left : x1 - left]
    frame[y0:y1, x0:x1] = frame[y0:y1, x0:x1] * (1 - part[..., 3:]) + part[..., :3] * 255
    return float(x0), float(y0), float(x1 - x0), float(y1 - y0)


def rendered(out: Path, cutouts: list[Path], photo: Path, number: int, size: tuple[int, int]) -> list[dict]:
    """Writes a clip; for each object {frame: box} of where it is and moves."""
    rng, kind, frames = np.random.default_rng(number), KINDS[number // 2 % 4], RATE * SECONDS
    ground = scene(photo, size)
    count = 0 if number // 8 % 4 == 3 else int(rng.integers(1, 3))
    things, ways = [], []
    for _ in range(count):
        with Image.open(cutouts[rng.integers(len(cutouts))]) as image:
            tall = rng.uniform(0.1, 0.35) * size[1]
            zoom = tall / image.height
            pixels = (
                np.asarray(image.convert("RGBA").resize((max(4, round(image.width * zoom)), round(tall))), np.float32)
                / 255
            )
        pixels = pixels.copy()
        pixels[..., :3] *= pixels[..., 3:]
        things.append(pixels)
        begin, speed = rng.uniform(0.5, 3.5), rng.uniform(0.08, 0.5) * size[0] * rng.choice([-1, 1])
        pause = rng.uniform(0, 2) if rng.random() < 0.4 else 0
        ways.append((begin, speed, pause, rng.uniform(0.35, 0.8) * size[1], rng.uniform(0, 6)))
    noise = {"colour": 2.0, "grey": 2.5, "noisy": 9.0, "infra-red": 6.0}[kind]
    jump = int(rng.integers(frames)) if rng.random() < 0.3 else frames
    rows, columns = np.mgrid[-1 : 1 : size[1] * 1j, -1 : 1 : size[0] * 1j]
    dim = 1 - 0.5 * np.minimum(np.hypot(rows, columns), 1.4)[..., None]
    truth: list[dict] = [{} for _ in things]
    with Writer(out, RATE, crf=23) as writer:
        for t in range(frames):
            frame = ground.copy()
            for place, (thing, (begin, speed, pause, y, phase)) in enumerate(zip(things, ways)):
                since = t / RATE - begin
                going = min(since, 1.2) + max(since - 1.2 - pause, 0)
                x = (0 if speed > 0 else size[0]) + speed * going
                box = paste(frame, thing, x, y + 4 * np.sin(3 * going + phase)) if since >= 0 else None
                if box is not None and not 1.2 < since < 1.2 + pause:
                    truth[place][t] = box
            if kind in ("grey", "infra-red"):
                frame = np.repeat(frame.mean(2, keepdims=True), 3, 2)
            if kind == "infra-red":
                frame = 50 + 0.35 * frame * dim
            light = 1 + 0.03 * np.sin(t / 40) + (0.08 if t >= jump else 0)
            grain = rng.normal(0, noise, (*frame.shape[:2], 1 if kind == "infra-red" else 3)).astype(np.float32)
            writer.write(np.clip(frame * light + grain, 0, 255).astype(np.uint8))
    return [one for one in truth if len(one) > RATE / 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cutouts", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 360))
    parser.add_argument("--reported", action="store_true", help="odd clips alone")
    parser.add_argument("--keep", type=Path, help="folder for the clips")
    options = parser.parse_args()
    cutouts, photos = sorted(options.cutouts.glob("*.png")), sorted(options.photos.glob("*.*"))
    table = {kind: np.zeros(5) for kind in KINDS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(int(options.reported), options.clips, 1 + options.reported):
            out = folder / f"{number}.mp4"
            truth = rendered(out, cutouts, photos[number % len(photos)], number, tuple(options.size))
            before = time.process_time()
            ways = find_moving(Video(out))
            seconds = time.process_time() - before
            hits, late = 0, []
            for one in truth:
                first = min(one)
                near = [
                    f for way in ways for f, box in zip(way.frames, way.boxes) if f in one and overlaps(box, one[f])
                ]
                late.append((min(near) - first) / RATE if near else np.inf)
                hits += bool(near) and min(near) - first <= RATE
            false = sum(
                not any(overlaps(box, one[f]) for f, box in zip(way.frames, way.boxes) for one in truth if f in one)
                for way in ways
            )
            kind = KINDS[number // 2 % 4]
            print(
                f"{number:3d} {kind:10s} {hits} of {len(truth)} found, false {false}, after {late} s, {seconds:.2f} s",
                flush=True,
            )
            if number % 2:
                table[kind] += (len(truth), hits, false, not truth, seconds)
    print(
        "| clips | objects | found within 1 s | false | empty clips | processor s a clip |\n|---|---|---|---|---|---|"
    )
    clips = np.array([sum(1 for n in range(1, options.clips, 2) if KINDS[n // 2 % 4] == kind) for kind in KINDS])
    for (kind, row), many in zip(table.items(), clips):
        print(f"| {kind} | {row[0]:.0f} | {row[1]:.0f} | {row[2]:.0f} | {row[3]:.0f} | {row[4] / max(many, 1):.2f} |")
    total = sum(table.values())
    print(f"| all | {total[0]:.0f} | {total[1]:.0f} | {total[2]:.0f} | {total[3]:.0f} | |")


def overlaps(box: np.ndarray, other: tuple[float, ...]) -> bool:
    """Whether two boxes share enough to be of one thing: a tenth, as one of them may be half out of the picture."""
    return bool(iou(np.array(box)[None], np.array(other)[None])[0] > 0.1)


if __name__ == "__main__":
    main()
