"""How fast pairs of frames are loaded: from videos as they are, re-encoded, and as stored frames.

What is compared runs in turn, and what counts is the CPU time of the whole process, its threads and decoders included:
pairs per second of one core, whatever else the machine does.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dropmae.data.augment import crop_box, crop_frames
from dropmae.data.clips import Clips, Sequence, frame_pair, generator
from dropmae.progress import say
from dropmae.registry import load
from dropmae.speed.timing import in_turn, ratio
from dropmae.video import Video, find

VIDEOS = 8
SECONDS = 1.0
"""CPU time of each loader in each round."""
STAGED = 40
"""Pairs of which the stages are timed, in each form of the videos."""
GAP, SCALE = (1, 49), (0.2, 1.0)
"""Of frames, and of the area of crops: the official recipe."""


@dataclass
class Loader:
    """Makes sample i; `folder` holds the videos."""

    sample: Callable[[int], Any]
    folder: Path
    stages: bool = False
    """Whether to tell what opening, table, frames and crops take of each pair."""


def measure(videos: Path, image: int, rounds: int, seed: int, prepare: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """Pairs per second of one core, of `image` pixels a side, from up to eight videos spread over a folder.

    A pair is what a training sample is: two frames of a video that is opened anew, decoded, cropped, resized and
    flipped. Where decord is installed, the recipe of the official code (decord, Pillow) is timed on the same files;
    videos that it cannot read are named and left out for all. `prepare` is the verb. FileNotFoundError where there is
    no video.
    """
    found = find(videos) if videos.exists() else []
    if importlib.util.find_spec("decord"):
        found = _known_to_decord(found)
    if not found:
        raise FileNotFoundError(f"{videos}: holds no video")
    sources = [found[place] for place in np.linspace(0, len(found) - 1, min(VIDEOS, len(found))).round().astype(int)]
    sample = load("methods", "twinmae")(size="tiny", image=image).sample
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            raw = Path(scratch) / "raw"
            raw.mkdir()
            for number, source in enumerate(sources):
                (raw / f"{number:02}{source.suffix}").symlink_to(source.resolve(), target_is_directory=source.is_dir())
            prepared, frames = raw.with_name("prepared"), raw.with_name("frames")
            prepare(raw, prepared)
            prepare(raw, frames, frames=True)
            loaders = {
                "raw": Loader(_ours(raw, sample, seed), raw, True),
                "prepared": Loader(_ours(prepared, sample, seed), prepared, True),
                "prepared, --repeats 4": Loader(_ours(prepared, sample, seed, repeats=4), prepared),
                "prepared --frames": Loader(_ours(frames, sample, seed), frames, True),
            }
            if importlib.util.find_spec("decord"):
                loaders["raw, decord recipe"] = Loader(_decord(raw, image, seed), raw)
            rates = in_turn({name: partial(_rate, one.sample, count()) for name, one in loaders.items()}, rounds)
            return {name: _row(loader, rates, name, image, seed) for name, loader in loaders.items()}
    finally:
        torch.set_num_threads(threads)


def _row(loader: Loader, rates: dict[str, list[float]], name: str, image: int, seed: int) -> dict[str, Any]:
    """What is known of a loader; ratios are medians over the rounds."""
    decord = rates.get("raw, decord recipe")
    paths = find(loader.folder)
    stages = _stages(paths, image, seed) if loader.stages else dict.fromkeys(("open", "table", "frames", "crop"))
    return {
        "pairs_per_s": statistics.median(rates[name]),
        "times_raw": ratio(rates[name], rates["raw"]),
        "times_decord": ratio(rates[name], decord) if decord else None,
        "megabytes": sum(_bytes(path) for path in paths) / 1e6 / len(paths),
        **{f"{stage}_ms": value for stage, value in stages.items()},
    }


def _rate(sample: Callable[[int], Any], numbers: Iterator[int]) -> float:
    """Pairs per second over SECONDS, the samples going on from round to round."""
    started, made = time.process_time(), 0
    while time.process_time() - started < SECONDS:
        sample(next(numbers))
        made += 1
    return made / (time.process_time() - started)


def _stages(paths: list[Path], image: int, seed: int) -> dict[str, float]:
    """Milliseconds of each pair: opening a video, the table of its pictures, reading both frames, and their crops."""
    spent = dict.fromkeys(("open", "table", "frames", "crop"), 0.0)
    for i in range(STAGED):
        rng, marks = generator(seed, 7, i), [time.process_time()]
        video = Video(paths[i % len(paths)])
        marks.append(time.process_time())
        pair = list(frame_pair(len(video), GAP, rng))
        marks.append(time.process_time())
        frames = video[pair]
        marks.append(time.process_time())
        np.asarray(crop_frames(list(frames), rng, (image, image), SCALE, flip=0.5, shared=False))
        marks.append(time.process_time())
        video.close()
        for stage, start, stop in zip(spent, marks, marks[1:]):
            spent[stage] += 1e3 * (stop - start) / STAGED
    return spent


def _ours(folder: Path, sample: Callable[..., Any], seed: int, repeats: int = 1) -> Callable[[int], Any]:
    clips = Clips([Sequence(path.name, path) for path in find(folder)], sample, seed, repeats)
    return clips.__getitem__


def _decord(folder: Path, image: int, seed: int) -> Callable[[int], Any]:
    """The official recipe: one decord reader of one thread per sample, both frames, each cropped and flipped."""
    import decord  # type: ignore[import-not-found]

    paths = [path for path in find(folder) if path.is_file()]
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def sample(i: int) -> torch.Tensor:
        rng = generator(seed, i)
        reader = decord.VideoReader(str(paths[i % len(paths)]), num_threads=1, ctx=decord.cpu(0))
        made = []
        for pixels in reader.get_batch(list(frame_pair(len(reader), GAP, rng))).asnumpy():
            frame = Image.fromarray(pixels)
            top, left, height, width = crop_box(frame.height, frame.width, rng, SCALE)
            box = (left, top, left + width, top + height)
            frame = frame.crop(box).resize((image, image), Image.Resampling.BICUBIC)
            if rng.random() < 0.5:
                frame = frame.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            pixels = torch.from_numpy(np.asarray(frame).copy()).permute(2, 0, 1).float() / 255
            made.append((pixels - mean.view(3, 1, 1)) / deviation.view(3, 1, 1))
        return torch.stack(made)

    return sample


def _known_to_decord(paths: list[Path]) -> list[Path]:
    """Those whose first and last frame decord reads; says which it does not."""
    import decord

    known = []
    for path in paths:
        try:
            reader = decord.VideoReader(str(path), num_threads=1, ctx=decord.cpu(0))
            reader.get_batch([0, len(reader) - 1])
            known.append(path)
        except Exception:  # decord has its own, whose text is a trace of its C++
            say(f"left out for all, as decord cannot read it: {path.name}")
    return known


def _bytes(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
