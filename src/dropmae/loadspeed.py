"""How fast pairs of frames are loaded: from videos as they are, re-encoded, and as stored frames."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dropmae.augment import crop_box
from dropmae.clips import Clips, Sequence, generator
from dropmae.prepare import prepare
from dropmae.registry import load
from dropmae.video import find

VIDEOS = 8
SECONDS = 2.0
"""Of each loader in each round."""


def measure(videos: Path, image: int, rounds: int, seed: int) -> dict[str, dict[str, Any]]:
    """Pairs per second on one core, of `image` pixels a side, from up to eight videos below a folder.

    A pair is what a training sample is: two frames of a video that is opened anew, decoded, cropped, resized and
    flipped. Where decord is installed, the recipe of the official code (decord, Pillow) is timed on the same files.
    FileNotFoundError where there is no video.
    """
    sources = find(videos)[:VIDEOS] if videos.exists() else []
    if not sources:
        raise FileNotFoundError(f"{videos}: holds no video")
    sample = load("methods", "twinmae")(size="tiny", image=image).sample
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            raw = Path(scratch) / "raw"
            raw.mkdir()
            for number, source in enumerate(sources):
                (raw / f"{number:02}{source.suffix}").symlink_to(source.resolve(), target_is_directory=source.is_dir())
            forms = {"raw": raw, "prepared": raw.with_name("prepared"), "prepared --frames": raw.with_name("frames")}
            prepare(raw, forms["prepared"])
            prepare(raw, forms["prepared --frames"], frames=True)
            loaders = {name: _ours(folder, sample, seed) for name, folder in forms.items()}
            if importlib.util.find_spec("decord"):
                loaders["raw, decord recipe"] = _decord(raw, image, seed)
            rates: dict[str, list[float]] = {name: [] for name in loaders}
            for number in range(rounds + 1):
                for name, loader in loaders.items():
                    rate = _rate(loader, number)
                    if number:
                        rates[name].append(rate)
            sizes = {name: _megabytes(folder) / len(sources) for name, folder in forms.items()}
    finally:
        torch.set_num_threads(threads)
    return {
        name: {
            "pairs_per_s": statistics.median(found),
            "times_raw": statistics.median(a / b for a, b in zip(found, rates["raw"])),
            "megabytes": sizes.get(name, sizes["raw"]),
        }
        for name, found in rates.items()
    }


def _rate(loader: Callable[[int], Any], number: int) -> float:
    """Pairs per second over SECONDS, the samples going on from round to round."""
    started, made = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        loader(number * 10_000 + made)
        made += 1
    return made / (time.perf_counter() - started)


def _ours(folder: Path, sample: Callable[..., Any], seed: int) -> Callable[[int], Any]:
    clips = Clips([Sequence(path.name, path) for path in find(folder)], sample, seed)
    return clips.__getitem__


def _decord(folder: Path, image: int, seed: int) -> Callable[[int], Any]:
    """The official recipe: one decord reader of one thread per sample, both frames, each cropped and flipped."""
    import decord  # type: ignore[import-not-found]

    paths = [path for path in find(folder) if path.is_file()]
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def sample(i: int) -> torch.Tensor:
        rng = generator(seed, i)
        reader = decord.VideoReader(str(paths[i % len(paths)]), num_threads=1, ctx=decord.cpu(0))
        start = int(rng.integers(len(reader) - 1))
        end = int(rng.integers(start + 1, min(len(reader), start + 50)))
        made = []
        for position in (start, end):
            frame = Image.fromarray(reader[position].asnumpy())
            top, left, height, width = crop_box(frame.height, frame.width, rng, (0.2, 1.0))
            box = (left, top, left + width, top + height)
            frame = frame.crop(box).resize((image, image), Image.Resampling.BICUBIC)
            if rng.random() < 0.5:
                frame = frame.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            pixels = torch.from_numpy(np.asarray(frame).copy()).permute(2, 0, 1).float() / 255
            made.append((pixels - mean.view(3, 1, 1)) / deviation.view(3, 1, 1))
        return torch.stack(made)

    return sample


def _megabytes(folder: Path) -> float:
    files = [path for path in folder.rglob("*") if path.suffix in (".mp4", ".frames") or folder.name == "raw"]
    return sum(path.stat().st_size for path in files if path.is_file()) / 1e6
