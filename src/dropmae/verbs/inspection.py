"""The verbs `reconstruct` and `attention`, and the figures that a run keeps: what a network makes of video."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Listed
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dropmae import locks, registry
from dropmae.contracts import Method
from dropmae.data.clips import Clips, Sequence, generator
from dropmae.data.shards import videos_outside
from dropmae.engine import Engine, pictures, prompts_of
from dropmae.nn import masking
from dropmae.progress import say
from dropmae.storage import check_output, mark, remove, write_json
from dropmae.video import Video, find
from dropmae.video.frames import image_name
from dropmae.visualize.attention_probe import measure, temporal_maps, temporal_sheet
from dropmae.visualize.charts import PICTURE, attention_figure, save_chart, save_picture, to_bytes
from dropmae.visualize.overlay import tile
from dropmae.visualize.topview import draw_frame
from dropmae.visualize.views import caption, looked_at, reconstruction_sheet, reconstructions
from dropmae.weights import LAST, Missing, load

MEASURED_ATTENTION = "a measurement of attention"
PICTURES = 3
"""Samples whose reconstruction a run draws while it trains."""
MEASURED = 20
"""Videos on which a run's attention is measured at its end."""


def reconstruct(
    weights: Path,
    videos: list[Path],
    *,
    out: Path,
    frames: tuple[int, ...] = (),
    samples: int = 4,
    seed: int = 0,
    mask_ratio: float | None = None,
    dropout: bool = False,
    augment: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Draws frames, masked frames, their reconstruction, and that with the visible patches pasted in, side by side.

    Works for every pre-training method with a decoder. Frames are cropped in the middle, attention dropout is off.

    Args:
        weights: weight file or run folder.
        videos: a video, a folder of them (a sample of each, evenly spread), several videos, or the images of a pair.
        out: PNG to write.
        frames: indices of the frames to take from the video, as many as the method takes; else drawn at random.
        samples: rows of samples (pairs, clips) to draw.
        seed: decides frames and masks.
        mask_ratio: share of tokens to hide, where it is not to be that of training.
        dropout: drop within-frame attention as in training, where the method does so.
        augment: crop and flip at random as in training.
        overwrite: replace OUT even if it is a file of another kind.
    """
    check_output(
        out, PICTURE, [weights, *([videos] if isinstance(videos, (str, Path)) else videos)], overwrite=overwrite
    )
    module, title = opened(weights)
    if frames:
        samples = 1
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    if mask_ratio is not None:
        masking.kept_count(1, mask_ratio)
        module.mask_ratio = mask_ratio
    if dropout:
        if "drop_in_eval" not in registry.settings(module):
            raise ValueError(f"{title} drops no attention: leave out --dropout")
        module.drop_in_eval = True
    sequences = find_sequences(videos)
    if frames:
        takes = module.frames
        if takes != len(frames):
            noun = "frame" if takes == 1 else "frames"
            raise ValueError(f"{title} takes {takes} {noun} a sample, and --frames gives {len(frames)}")
        sequences = [_chosen(sequences, frames)]
    names, batch = looked_at(module, sequences, samples, seed, augment=augment)
    made = reconstructions(module, batch)
    labels = [f"frame {index}" for index in frames]
    picture = reconstruction_sheet(made, names, labels, f"{title}. {caption(module)}")
    save_picture(picture, out)
    with torch.no_grad():
        loss = float(module(batch)["loss"])
    say(f"{out}: {len(names)} {'sample' if len(names) == 1 else 'samples'}, masked loss {loss:.4f}")
    return {"out": str(out), "method": title, "videos": names, "loss": loss}


def attention(
    weights: Path,
    videos: list[Path],
    *,
    out: Path,
    beside: tuple[Path, ...] = (),
    count: int = 20,
    whole: bool = False,
    maps: int = 3,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measures where the decoder's attention goes: to the token itself, its own frame, the other frame.

    For every layer the shares are means over all rows and heads of one sample of each of `count` videos, without
    attention dropout. Writes attention.json, attention.png and, for a few videos, temporal.png: the heat map of
    f_tem(i), the largest attention of token i to a token of the other frame (DropMAE section 3.2).

    Args:
        weights: weight file or run folder of a method whose decoder attends to several frames jointly.
        videos: folder of videos, or videos.
        out: folder to write to.
        beside: more weights to measure on the same videos and masks, for comparison in the same figures.
        count: videos to measure on, evenly spread over those there are.
        whole: give the network all patches instead of hiding as many as in training.
        maps: videos whose f_tem is drawn.
        seed: decides frames and masks.
        overwrite: replace files in OUT even if they are of another kind.
    """
    for name, kind in (("attention.json", MEASURED_ATTENTION), ("attention.png", PICTURE), ("temporal.png", PICTURE)):
        check_output(Path(out) / name, kind, overwrite=overwrite)
    if count < 1 or maps < 0:
        raise ValueError(f"count must be at least 1 and maps at least 0, not {count} and {maps}")
    with locks.held(Path(out) / "attention.json", file=True):
        return measured(weights, videos, Path(out), beside, count, whole, maps, seed)


def measured(
    weights: Path,
    videos: list[Path],
    out: Path,
    beside: tuple[Path, ...],
    count: int,
    whole: bool,
    maps: int,
    seed: int,
) -> dict[str, Any]:
    """What `attention` does once nobody else writes there, so that its files belong together."""
    sequences = find_sequences(videos)
    runs, rows = [], []
    modules = [opened(path) for path in (weights, *beside)]
    titles = distinct([title for _, title in modules], [str(path) for path in (weights, *beside)])
    for (module, _), title, path in zip(modules, titles, (weights, *beside)):
        runs.append({"name": title, "weights": str(path), **measure(module, sequences, count, seed, whole=whole)})
        rows.append(temporal_maps(module, sequences, maps, seed, whole=whole) if maps else [])
    found = {"by": mark(MEASURED_ATTENTION), "input": "whole" if whole else "masked", "seed": seed, "runs": runs}
    write_json(out / "attention.json", found)
    save_chart(attention_figure(runs), out / "attention.png")
    if maps:
        save_picture(temporal_sheet(rows, titles), out / "temporal.png")
    for run in runs:
        shares = "  ".join(f"{layer['between']:.2f}" for layer in run["layers"])
        say(f"{run['name']}: between-frame attention per layer  {shares}  ({run['videos']} videos)")
    return {"out": str(out), **found}


def opened(path: str | Path) -> tuple[Any, str]:
    """A pre-trained module in evaluation mode and what it is called; ValueError where it cannot reconstruct."""
    module = load(path)
    title = type(module).__name__
    if not (isinstance(module, Method) and module.reconstructs()):
        raise ValueError(
            f"{path} holds {title}, which has nothing to reconstruct with: use a pre-training run's weights"
        )
    if isinstance(module.decoder, Missing):
        raise ValueError(f"{path} holds no decoder, without which nothing is reconstructed: use the run's own weights")
    return module, title


def distinct(titles: list[str], paths: list[str]) -> list[str]:
    """Titles that tell runs apart: where two are the same, with the run's folder or file name."""
    if len(set(titles)) == len(titles):
        return titles
    short = [Path(path).parent.name if Path(path).name == LAST else Path(path).name for path in paths]
    return [f"{title} ({name})" for title, name in zip(titles, short)]


def find_sequences(videos: Path | str | Listed[str | Path]) -> list[Sequence]:
    """What paths mean: images are the frames of one sequence, else each file or folder gives its videos."""
    paths = [Path(videos)] if isinstance(videos, (str, Path)) else [Path(path) for path in videos]
    if not paths:
        raise ValueError("which video? Give a video, a folder of videos, or two images")
    if missing := [path for path in paths if not path.exists()]:
        raise FileNotFoundError(f"{missing[0]}: no such file or folder")
    if all(image_name(path.name) and path.is_file() for path in paths):
        return [Sequence(" ".join(path.name for path in paths), Video([str(path) for path in paths]))]
    found = []
    for root in paths:
        for path in videos_outside(find(root), root):
            found.append(Sequence(path.name if path == root else str(path.relative_to(root)), path))
    if not found:
        raise FileNotFoundError(f"{paths[0]}: holds no video")
    return found


def _chosen(sequences: list[Sequence], frames: tuple[int, ...]) -> Sequence:
    if len(sequences) > 1:
        raise ValueError(f"--frames picks from one video, and there are {len(sequences)}: name one")
    video = sequences[0].video
    if wrong := [index for index in frames if not -len(video) <= index < len(video)]:
        raise ValueError(f"{sequences[0].name} has {len(video)} frames; there is no frame {wrong[0]}")
    return Sequence(sequences[0].name, Video(video[list(frames)]))


# The figures of a run


def snapshots(run: Path, sequences: list[Sequence], seed: int) -> Callable[[Any, int], None]:
    """A function (module, step) that draws the reconstructions of a few fixed samples into the run's

    What was drawn for later steps than the given one, by a run that was killed since, is removed.
    """
    folder = run / "figures" / "progress"
    kept: dict[str, Any] = {}

    def draw(module: Any, step: int) -> None:
        if not module.reconstructs():
            return
        try:
            if not kept:
                kept["names"], kept["batch"] = looked_at(module, sequences, PICTURES, seed, quiet=True)
        except OSError:
            return  # nothing can be read: training says so
        made = reconstructions(module, kept["batch"])
        for old in folder.glob("step-*.png"):
            if int(old.stem.split("-")[1]) > step:
                remove(old)
        save_picture(_column(made["pasted"]), folder / f"step-{step:08d}.png")
        for name in ("frames", "hidden"):
            if not (folder / f"{name}.png").exists():
                save_picture(_column(made[name]), folder / f"{name}.png")

    return draw


def _column(pictures: np.ndarray) -> np.ndarray:
    """uint8 picture of float pictures [B, T, H, W, 3] below each other, a sample's frames closer than samples."""
    wide = pictures.shape[3]
    small, large = (np.ones((max(1, wide // part), wide, 3)) for part in (40, 14))
    parts: list[np.ndarray] = []
    for sample in pictures:
        parts += [large] if parts else []
        for number, frame in enumerate(sample):
            parts += [small, frame] if number else [frame]
    column = to_bytes(np.concatenate(parts))
    times = max(1, round(160 / wide))
    return column.repeat(times, 0).repeat(times, 1)


def predict(run: Path, task: Any, clips: Clips, seed: int, count: int = 3, span: int = 24) -> None:
    """figures/predictions.png: a few sequences that a task is trained on, with what it makes of them.

    A row each: the first labelled frame, which is given, and four of the up to `span` frames after it.
    """
    engine, rows, captions = Engine(task, next(task.parameters()).device, "fp32"), list[np.ndarray](), list[str]()
    positions = dict.fromkeys(clips.position(number) for number in range(20 * count))
    for number, position in enumerate(positions):
        sequence = replace(clips.sequences[position]).drawn(generator(seed, 6, number))
        prompts = prompts_of(sequence.targets, "first", task.takes)
        if task.takes and not prompts:
            continue
        first = min(prompts, default=0)
        frames = range(first, min(first + span, len(sequence.video)))
        try:
            found = list(engine.session(prompts).follow(pictures(sequence.video, frames)))
        except (OSError, ValueError):
            continue  # nothing that can be gone through: another one will do
        chosen = [found[place] for place in np.linspace(0, len(found) - 1, 5).round().astype(int).tolist()]
        rows += [draw_frame(answer.picture, answer.target) for answer in chosen]
        captions += [f"{sequence.name}, {answer.frame}" for answer in chosen]
        if len(rows) >= 5 * count:
            break
    if rows:
        save_picture(tile(rows, 5, captions), run / "figures" / "predictions.png")


def illustrate(run: Path, module: Any, sequences: list[Sequence], seed: int) -> None:
    """figures/reconstruction.png, and for methods that attend to several frames attention.json and temporal.png."""
    if not module.reconstructs():
        return
    folder, title = run / "figures", type(module).__name__
    names, batch = looked_at(module, sequences, PICTURES + 1, seed, quiet=True)
    made = reconstructions(module, batch)
    text = f"{title}. {caption(module)}"
    save_picture(reconstruction_sheet(made, names, text=text), folder / "reconstruction.png")
    try:
        found = measure(module, sequences, MEASURED, seed, quiet=True)
    except ValueError:
        return  # one frame at a time, or a layer for each frame: there is nothing to compare
    write_json(folder / "attention.json", {"input": "masked", "seed": seed, "runs": [{"name": title, **found}]})
    maps = temporal_maps(module, sequences, 2, seed)
    save_picture(temporal_sheet([maps], [title]), folder / "temporal.png")
