"""Soft cut-outs against their truth: pictures of objects with alpha, moved over clips, followed and refined.

For each of N pairs an object moves over a clip, turning and growing a little; the clip is encoded (H.264), the first
mask (alpha above a half) is given, `dropmae track --mask` follows it with the default weights, and the edge of what it
finds is compared with the object's own alpha: as it is (hard), and as cut-outs have it (soft). Every second pair, the
odd ones, is for choosing settings; the others are reported. About 4 s a pair on one core for 24 frames.

Usage: python recipes/cut-outs.py CUTOUTS CLIPS [--pairs 32] [--frames 24] [--keep FILE.npz] [--pictures DIR]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import dropmae
from dropmae.exports._mattes import Edges
from dropmae.metrics.mattes import dtssd, gradient, sad
from dropmae.video import Video, find, write


def composed(cutout: Path, clip: Path, frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [T, H, W, 3] and the true alpha float32 [T, H, W] of an object that moves over a clip."""
    video = Video(clip)
    shown = video[[index % len(video) for index in range(frames)]]
    height, width = shown.shape[1:3]
    with Image.open(cutout) as image:
        pixels = np.asarray(image.convert("RGBA"), np.float32) / 255
    pixels[..., :3] *= pixels[..., 3:]  # so that resampling mixes no hidden colours in
    size = rng.uniform(0.45, 0.7) * height / max(pixels.shape[0], pixels.shape[1] * height / width)
    start, way = rng.uniform(0.35, 0.65, 2) * (width, height), rng.uniform(-1, 1, 2) * (0.006 * width, 0.004 * height)
    turn, spin, grow = rng.uniform(-0.2, 0.2), rng.uniform(-0.006, 0.006), rng.uniform(-0.003, 0.003)
    alphas = np.zeros((frames, height, width), np.float32)
    made = np.zeros_like(shown)
    for t in range(frames):
        x, y = start + t * way + 2 * np.sin(t / 4)
        angle, zoom = turn + t * spin, size * (1 + t * grow)
        cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
        middle = np.array(pixels.shape[1::-1]) / 2
        table = (cos, sin, middle[0] - cos * x - sin * y, -sin, cos, middle[1] + sin * x - cos * y)
        planes = [
            np.asarray(
                Image.fromarray(np.ascontiguousarray(pixels[..., channel])).transform(
                    (width, height), Image.Transform.AFFINE, table, Image.Resampling.BILINEAR
                )
            )
            for channel in range(4)
        ]
        alphas[t] = planes[3]
        over = np.stack(planes[:3], -1) * 255 + shown[t] * (1 - planes[3][..., None])
        made[t] = np.clip(over + 0.5, 0, 255)
    return made, alphas


def followed(frames: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frames as a decoder gives them, and the masks that the default weights find, bool [T, H, W]."""
    with tempfile.TemporaryDirectory() as partial:
        path = Path(partial) / "clip.mp4"
        write(path, frames, 30, crf=18)
        video = Video(path)
        masks = [target.mask for _, target in dropmae.track(video, mask=first.astype(np.uint8))]
        return video[range(len(frames))], np.stack([mask > 0 for mask in masks])


def errors(mattes: np.ndarray, truth: np.ndarray) -> list[float]:
    """Means over the frames after the first, which was given."""
    rows = range(1, len(truth))
    return [
        float(np.mean([sad(mattes[t], truth[t]) for t in rows])),
        float(np.mean([gradient(mattes[t], truth[t]) for t in rows])),
        float(np.mean([dtssd(mattes[t], truth[t], mattes[t - 1], truth[t - 1]) for t in rows[1:]])),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cutouts", type=Path)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--keep", type=Path, help="folder for the clips, truths and masks, to try settings on")
    options = parser.parse_args()
    cutouts, clips = sorted(options.cutouts.glob("*.png")), find(options.clips)
    rows: dict[str, list[list[float]]] = {"hard": [], "soft": []}
    for pair in range(options.pairs):
        rng = np.random.default_rng(pair)
        cutout, clip = cutouts[rng.integers(len(cutouts))], clips[rng.integers(len(clips))]
        kept = None if options.keep is None else options.keep / f"{pair}.npz"
        if kept is not None and kept.exists():
            data = np.load(kept)
            frames, truth, masks = data["frames"], data["truth"], data["masks"]
        else:
            made, truth = composed(cutout, clip, options.frames, rng)
            frames, masks = followed(made, truth[0] > 0.5)
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                np.savez(kept, frames=frames, truth=truth, masks=masks)
        edges = Edges()
        soft = np.stack([edges.alpha(frame, mask) for frame, mask in zip(frames, masks)]) / 255
        found = {"hard": errors(masks.astype(np.float32), truth), "soft": errors(soft, truth)}
        print(f"{pair:3d} {cutout.stem:32s} {clip.stem:24s}", *(f"{n:.3f}" for row in found.values() for n in row))
        if pair % 2 == 0:
            for name, numbers in found.items():
                rows[name].append(numbers)
    print("| edge | SAD / 1000 | gradient / 1000 | dtSSD x 100 |\n|---|---|---|---|")
    for name, numbers in rows.items():
        print(f"| {name} |", " | ".join(f"{value:.3f}" for value in np.mean(numbers, 0)), "|")
    better = [np.array(s) < np.array(h) for h, s in zip(rows["hard"], rows["soft"])]
    print(f"soft is better in {np.sum(better, 0).tolist()} of {len(better)} pairs")


if __name__ == "__main__":
    main()
